/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Peers that do not answer must not cost the others a packet.
 *
 * The kernel charges a packet to the buffer of the socket that sent it until the packet has left
 * the host. Packets for a neighbour that does not answer ARP wait for three seconds, up to 208 kB
 * of them (unres_qlen_bytes in arp(7)); packets behind a slow or stuck queue of a network card wait
 * for longer. All peers share one socket, so 40 absent hosts fill its 8 MB, and then the kernel
 * accepts packets for no peer at all.
 *
 * So when the shared socket is full, each peer gets a lane, a socket of its own with a buffer of
 * the same size: packets that wait for one peer leave room for those of the others. A peer is left
 * out, and its packets are counted as stalled, while none of those that wait for it leave. Lanes
 * cost descriptors, so they are closed after some seconds without such a peer; by then the shared
 * socket is empty. If it becomes full again there are lanes again. No packet is lost by either
 * change.
 *
 * A lane sends from the address and port of the shared socket but must not receive in its place. So
 * it is bound to that port of an address where nothing arrives, and each datagram names its source
 * (IP_PKTINFO in ip(7)).
 */

#include "lanes.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "prefix.h"

/* More than the three seconds for which a packet waits for an answer to ARP. */
#define LANES_MS 10000

/*
 * A peer is left out when more bytes than these have waited for longer than this. A card that sends
 * as slowly as 10 Mb/s needs 50 ms for a super-packet.
 */
#define STALLED_LEN (64 * 1024)
#define STALLED_MS  100

/*
 * 127.128.0.0/9, in which each lane has an address at random: so that no program binds it before
 * us, and we bind none that a program wants.
 */
#define LANE_NETWORK	0x7f800000u
#define LANE_PREFIX_LEN 9

/* asm-generic/socket.h, not in all C libraries: ignores net.core.wmem_max. */
#define OPTION_SNDBUFFORCE 32

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void copy_option(int to, int from, int level, int option)
{
	socklen_t len = sizeof(int);
	int value;

	if (!getsockopt(from, level, option, &value, &len))
		(void)setsockopt(to, level, option, &value, len);
}

static void copy_send_buffer(int to, int from)
{
	socklen_t len = sizeof(int);
	int size;

	if (getsockopt(from, SOL_SOCKET, SO_SNDBUF, &size, &len))
		return;
	size /= 2; /* socket(7): the kernel doubles it */
	if (setsockopt(to, SOL_SOCKET, OPTION_SNDBUFFORCE, &size, len))
		(void)setsockopt(to, SOL_SOCKET, SO_SNDBUF, &size, len);
}

static uint32_t random_address(void)
{
	uint32_t random = 0;

	(void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
	return LANE_NETWORK | (random & ~prefix_mask(LANE_PREFIX_LEN));
}

/* Return: a descriptor; -errno. */
static int new_socket(const struct lanes *lanes)
{
	struct sockaddr_in at = {
		.sin_family = AF_INET,
		.sin_port = lanes->source.sin_port,
		.sin_addr.s_addr = htonl(random_address()),
	};
	int yes = 1, none = 0;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int err;

	if (fd < 0)
		return -errno;
	/* The loopback device may be down. */
	if (setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &yes, sizeof(yes)) ||
	    bind(fd, (const struct sockaddr *)&at, sizeof(at))) {
		err = -errno;
		close(fd);
		return err;
	}
	copy_send_buffer(fd, lanes->shared.fd);
	copy_option(fd, lanes->shared.fd, SOL_SOCKET, SO_MARK);
	copy_option(fd, lanes->shared.fd, SOL_SOCKET, SO_PRIORITY);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &none, sizeof(none));
	return fd;
}

/**
 * lanes_init() - make a set without lanes
 * @lanes: to be initialised
 * @fd:    the socket that all peers share, bound
 */
void lanes_init(struct lanes *lanes, int fd)
{
	socklen_t len = sizeof(lanes->source);

	lanes->shared = (struct lane){.fd = fd};
	lanes->until = 0;
	lanes->n = 0;
	lanes->next_removed = 0;
	lanes->source = (struct sockaddr_in){0};
	(void)getsockname(fd, (struct sockaddr *)&lanes->source, &len);
}

/** lanes_open() - the shared socket is full: give each peer a lane, or keep the lanes for longer */
void lanes_open(struct lanes *lanes)
{
	lanes->until = now_ms() + LANES_MS;
}

/** lanes_close_in_time() - close the lanes if their time is over */
void lanes_close_in_time(struct lanes *lanes)
{
	if (lanes_are_open(lanes) && now_ms() >= lanes->until)
		lanes_close(lanes);
}

/** lanes_close() - close the lanes; the kernel still sends their packets */
void lanes_close(struct lanes *lanes)
{
	while (lanes->n)
		close(lanes->lanes[--lanes->n].fd);
	lanes->until = 0;
}

static void remove_lane(struct lanes *lanes, size_t at)
{
	close(lanes->lanes[at].fd);
	lanes->n--;
	lanes->hosts[at] = lanes->hosts[lanes->n];
	lanes->lanes[at] = lanes->lanes[lanes->n];
}

/* Return: NULL if no lane can be opened. */
static struct lane *add_lane(struct lanes *lanes, uint32_t host)
{
	int fd = lanes->n < LANES_MAX ? new_socket(lanes) : -EMFILE;

	if (fd < 0 && lanes->n) {
		remove_lane(lanes, lanes->next_removed++ % lanes->n);
		fd = new_socket(lanes);
	}
	if (fd < 0)
		return NULL;
	lanes->hosts[lanes->n] = host;
	lanes->lanes[lanes->n] = (struct lane){.fd = fd, .moved_at = now_ms()};
	return &lanes->lanes[lanes->n++];
}

/**
 * lanes_find() - the socket to send the packets of a peer through
 * @lanes: the set
 * @host:  the peer, in host order
 *
 * Return: its lane, valid until the next call; the shared socket before lanes_open(), and if no
 * lane can be opened.
 */
struct lane *lanes_find(struct lanes *lanes, uint32_t host)
{
	struct lane *lane;

	if (!lanes_are_open(lanes))
		return &lanes->shared;
	for (size_t i = 0; i < lanes->n; i++)
		if (lanes->hosts[i] == host)
			return &lanes->lanes[i];
	lane = add_lane(lanes, host);
	return lane ? lane : &lanes->shared;
}

/* Bytes of kernel memory that wait to leave the host: SIOCOUTQ in udp(7). */
static int waiting_len(const struct lane *lane)
{
	int len = 0;

	(void)ioctl(lane->fd, SIOCOUTQ, &len);
	return len;
}

/**
 * lane_is_stalled() - whether packets that wait for a peer do not leave, so that more are in vain
 * @lanes: the set, whose lanes stay open for longer then
 * @lane:  one of lanes_find()
 *
 * Return: true if the next packets shall be dropped; never of the shared socket.
 */
bool lane_is_stalled(struct lanes *lanes, struct lane *lane)
{
	int waiting;

	if (lane == &lanes->shared)
		return false;
	waiting = waiting_len(lane);
	if (waiting < lane->waiting || waiting <= STALLED_LEN)
		lane->moved_at = now_ms();
	lane->waiting = waiting;
	if (waiting <= STALLED_LEN || now_ms() - lane->moved_at < STALLED_MS)
		return false;
	lanes_open(lanes);
	return true;
}

/** lane_note_sent() - packets were sent through a lane */
void lane_note_sent(struct lanes *lanes, struct lane *lane)
{
	lane->is_full = false;
	if (lane != &lanes->shared)
		lane->waiting = waiting_len(lane);
}
