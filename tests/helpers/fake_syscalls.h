/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FAKE_SYSCALLS_H
#define FAKE_SYSCALLS_H

#include <stdint.h>

#define FAKE_FDS 1024

/**
 * struct fake_syscalls - answers to the calls of csrc/; where all is 0 the kernel answers
 * @now_ms:       the monotonic clock
 * @socket_error: errno of socket()
 * @send_errors:  errno of sendmmsg() for each descriptor; it has no room for poll() then
 * @waiting:      bytes that wait to be sent, for each descriptor
 * @mark:         SO_MARK of any socket that is asked for it
 * @set_mark:     the last one that was set
 * @n_sends:      calls of sendmmsg() so far
 * @n_polls:      calls of poll() so far
 */
struct fake_syscalls {
	int64_t now_ms;
	int socket_error;
	int send_errors[FAKE_FDS];
	int waiting[FAKE_FDS];
	int mark;
	int set_mark;
	int n_sends;
	int n_polls;
};

extern struct fake_syscalls fake;

#endif
