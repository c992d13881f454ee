/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_LANES_H
#define FLANNEL_LANES_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * If more peers are sent to within a few seconds, their lanes are opened and closed in turn:
 * slower, not wrong. A process can usually open 1024 files.
 */
#define LANES_MAX 256

/**
 * struct lane - a socket, and what waits in the kernel to leave the host through it
 * @fd:       the socket
 * @is_full:  the last wait for room was in vain, and nothing was sent since
 * @waiting:  bytes of kernel memory that waited when this was last looked at
 * @moved_at: when some of them had last left, or there were few, in ms of the monotonic clock
 */
struct lane {
	int fd;
	bool is_full;
	int waiting;
	int64_t moved_at;
};

/**
 * struct lanes - sockets through which the packets of one peer each are sent
 * @shared: the socket that all peers share while there are no lanes
 * @source: of all datagrams
 * @until:  when the lanes are closed, in ms of the monotonic clock; 0 if there are none
 * @n:      number of lanes in use
 * @next_removed: the lane that makes room for another when all are in use, modulo @n
 * @hosts:  the peer of each lane, in host order
 * @lanes:  the lanes
 */
struct lanes {
	struct lane shared;
	struct sockaddr_in source;
	int64_t until;
	size_t n;
	size_t next_removed;
	uint32_t hosts[LANES_MAX];
	struct lane lanes[LANES_MAX];
};

void lanes_init(struct lanes *lanes, int fd);
void lanes_open(struct lanes *lanes);
void lanes_close_in_time(struct lanes *lanes);
void lanes_close(struct lanes *lanes);
struct lane *lanes_find(struct lanes *lanes, uint32_t host);
bool lane_is_stalled(struct lanes *lanes, struct lane *lane);
void lane_note_sent(struct lanes *lanes, struct lane *lane);

/** lanes_are_open() - whether each peer has a lane, or gets one */
static inline bool lanes_are_open(const struct lanes *lanes)
{
	return lanes->until;
}

#endif
