/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_UDP_H
#define FLANNEL_UDP_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "dataplane.h"
#include "lanes.h"

/* linux/udp.h; netinet/udp.h of old C libraries lacks them. */
#define UDP_OPTION_SEGMENT 103
#define UDP_OPTION_GRO	   104

#define UDP_MAX_MESSAGES 64
#define UDP_MAX_SEGMENTS 64 /* UDP_MAX_SEGMENTS of include/linux/udp.h; 128 since Linux 6.9 */
#define UDP_MAX_PAYLOAD	 65507
#define UDP_CONTROL_LEN	 96 /* a source, a TOS and a segment size, as control messages */
#define UDP_BUFFER_LEN	 65536

/**
 * struct udp_message - inner packets for one peer, which the kernel sends as one datagram each
 * @host:       the peer, in host order
 * @tos:        of the datagrams
 * @is_closed:  the last packet was shorter, so none can follow
 * @size:       bytes of each packet
 * @n_segments: number of packets
 * @len:        bytes of all
 * @n_iov:      pieces in @iov: one or two for each packet
 */
struct udp_message {
	uint32_t host;
	uint8_t tos;
	bool is_closed;
	size_t size;
	size_t n_segments;
	size_t len;
	size_t n_iov;
	struct sockaddr_in to;
	_Alignas(struct cmsghdr) uint8_t control[UDP_CONTROL_LEN];
	struct iovec iov[2 * UDP_MAX_SEGMENTS];
};

/**
 * struct udp_queue - messages to send at the end of a batch
 * @lanes:        the sockets
 * @port:         of all peers
 * @max_segments: packets in a message: 1 where the kernel has no UDP_SEGMENT
 * @has_waited:   a wait for room was in vain during this flush
 * @n:            messages in use
 */
struct udp_queue {
	struct lanes lanes;
	uint16_t port;
	size_t max_segments;
	bool has_waited;
	size_t n;
	struct udp_message messages[UDP_MAX_MESSAGES];
	struct mmsghdr headers[UDP_MAX_MESSAGES];
};

/**
 * struct udp_batch - messages received in one call
 * @from:    the sender of each
 * @control: how the kernel merged each
 * @buffers: the datagrams, UDP_BUFFER_LEN bytes each
 */
struct udp_batch {
	struct mmsghdr headers[UDP_MAX_MESSAGES];
	struct iovec iov[UDP_MAX_MESSAGES];
	struct sockaddr_in from[UDP_MAX_MESSAGES];
	_Alignas(struct cmsghdr) uint8_t control[UDP_MAX_MESSAGES][UDP_CONTROL_LEN];
	uint8_t buffers[UDP_MAX_MESSAGES][UDP_BUFFER_LEN];
};

/**
 * struct udp_received - datagrams of one peer, which the kernel has merged
 * @host:    the peer, in host order
 * @tos:     of the datagrams
 * @size:    bytes of each; the last may have less
 * @data:    all of them
 * @len:     bytes of all
 */
struct udp_received {
	uint32_t host;
	uint8_t tos;
	size_t size;
	uint8_t *data;
	size_t len;
};

void udp_queue_init(struct udp_queue *queue, int fd, bool has_segment);
void udp_queue_close(struct udp_queue *queue);
int udp_queue_add(struct udp_queue *queue, uint32_t host, uint8_t tos, const struct iovec parts[2]);
void udp_queue_flush(struct udp_queue *queue, struct flannel_stats *stats);

uint64_t udp_prepare(int fd);
void udp_batch_init(struct udp_batch *batch);
int udp_batch_receive(struct udp_batch *batch, int fd);
void udp_batch_get(struct udp_batch *batch, size_t i, struct udp_received *received);

#endif
