/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Answers of the kernel that need a full buffer or the passing of time. The linker sends the calls
 * of csrc/ here (--wrap); those that no test has an answer for reach the kernel.
 */

#include "fake_syscalls.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned int n, int flags);
int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __real_ioctl(int fd, unsigned long request, void *argument);
int __real_clock_gettime(clockid_t clock, struct timespec *time);
int __real_socket(int domain, int type, int protocol);
int __real_getsockopt(int fd, int level, int option, void *value, socklen_t *len);
int __real_setsockopt(int fd, int level, int option, const void *value, socklen_t len);

struct fake_syscalls fake;

int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int n, int flags)
{
	fake.n_sends++;
	if (fake.send_errors[fd]) {
		errno = fake.send_errors[fd];
		return -1;
	}
	return __real_sendmmsg(fd, messages, n, flags);
}

int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	fake.n_polls++;
	return fake.send_errors[fds->fd] ? 0 : __real_poll(fds, n, timeout);
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	void *argument;

	va_start(arguments, request);
	argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request != SIOCOUTQ)
		return __real_ioctl(fd, request, argument);
	*(int *)argument = fake.waiting[fd];
	return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *time)
{
	if (!fake.now_ms)
		return __real_clock_gettime(clock, time);
	time->tv_sec = fake.now_ms / 1000;
	time->tv_nsec = fake.now_ms % 1000 * 1000000;
	return 0;
}

int __wrap_socket(int domain, int type, int protocol)
{
	int fd = fake.socket_error ? -1 : __real_socket(domain, type, protocol);

	if (fake.socket_error)
		errno = fake.socket_error;
	return fd;
}

int __wrap_getsockopt(int fd, int level, int option, void *value, socklen_t *len)
{
	if (level != SOL_SOCKET || option != SO_MARK)
		return __real_getsockopt(fd, level, option, value, len);
	*(int *)value = fake.mark;
	return 0;
}

int __wrap_setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
	if (level != SOL_SOCKET || option != SO_MARK)
		return __real_setsockopt(fd, level, option, value, len);
	fake.set_mark = *(const int *)value;
	return 0;
}
