/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sending datagrams, many at a time: packets of one size for one peer are one message. With
 * UDP_SEGMENT the kernel carries it whole through most of its stack, and cuts it into one datagram
 * for each packet at the end. The wire shows nothing of this.
 */

#include "udp.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/*
 * How long a socket's buffer may stay full before a message is dropped. Waiting slows senders on
 * this host down; a longer wait would delay what is received.
 */
#define CONGESTION_WAIT_MS 1

/**
 * udp_queue_init() - make a queue ready for use
 * @queue:       to be initialised
 * @fd:          the socket, bound; it stays open
 * @has_segment: the kernel has UDP_SEGMENT
 */
void udp_queue_init(struct udp_queue *queue, int fd, bool has_segment)
{
	lanes_init(&queue->lanes, fd);
	queue->n = 0;
	queue->has_waited = false;
	queue->max_segments = has_segment ? UDP_MAX_SEGMENTS : 1;
	for (size_t i = 0; i < UDP_MAX_MESSAGES; i++) {
		struct msghdr *header = &queue->headers[i].msg_hdr;

		header->msg_name = &queue->messages[i].to;
		header->msg_namelen = sizeof(queue->messages[i].to);
		header->msg_iov = queue->messages[i].iov;
	}
}

/* The newest message for a peer: adding to an older one would change the order of packets. */
static struct udp_message *find_message(struct udp_queue *queue, uint32_t host)
{
	for (size_t i = queue->n; i--;)
		if (queue->messages[i].host == host)
			return &queue->messages[i];
	return NULL;
}

static struct udp_message *new_message(struct udp_queue *queue, uint32_t host, uint8_t tos,
				       size_t size)
{
	struct udp_message *message;

	if (queue->n == UDP_MAX_MESSAGES)
		return NULL;
	message = &queue->messages[queue->n++];
	message->host = host;
	message->tos = tos;
	message->is_closed = false;
	message->size = size;
	message->n_segments = 0;
	message->len = 0;
	message->n_iov = 0;
	return message;
}

/**
 * udp_queue_add() - queue one inner packet
 * @queue: the queue
 * @host:  the peer to send it to, in host order
 * @tos:   of the datagram
 * @parts: its bytes, in one or two pieces (the second may be empty); they must stay valid until
 *         udp_queue_flush()
 *
 * Return: 0; -ENOBUFS if the queue is full: flush it and add the packet again.
 */
int udp_queue_add(struct udp_queue *queue, uint32_t host, uint8_t tos, const struct iovec parts[2])
{
	size_t len = parts[0].iov_len + parts[1].iov_len;
	struct udp_message *message = find_message(queue, host);

	if (!message || message->is_closed || message->tos != tos || len > message->size ||
	    message->n_segments >= queue->max_segments || message->len + len > UDP_MAX_PAYLOAD)
		message = new_message(queue, host, tos, len);
	if (!message)
		return -ENOBUFS;

	message->iov[message->n_iov++] = parts[0];
	if (parts[1].iov_len)
		message->iov[message->n_iov++] = parts[1];
	message->n_segments++;
	message->len += len;
	message->is_closed = len < message->size;
	return 0;
}

static size_t put_control(uint8_t *at, int level, int type, const void *data, size_t len)
{
	struct cmsghdr header = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};

	memcpy(at, &header, sizeof(header));
	memcpy(at + CMSG_LEN(0), data, len);
	return CMSG_SPACE(len);
}

#define SOURCE_LEN  CMSG_SPACE(sizeof(struct in_pktinfo))
#define SEGMENT_LEN CMSG_SPACE(sizeof(uint16_t))

/* Fills in the header of a message, which is complete. There is room for add_source(). */
static void fill_header(struct udp_queue *queue, size_t i)
{
	struct udp_message *message = &queue->messages[i];
	struct msghdr *header = &queue->headers[i].msg_hdr;
	uint8_t *control = message->control + SOURCE_LEN;
	size_t len = 0;

	message->to.sin_family = AF_INET;
	message->to.sin_port = htons(queue->port);
	message->to.sin_addr.s_addr = htonl(message->host);
	if (message->tos) {
		int tos = message->tos;

		len += put_control(control, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	}
	/* The segment size last: send_alone() omits it. */
	if (message->n_segments > 1) {
		uint16_t size = (uint16_t)message->size;

		len += put_control(control + len, IPPROTO_UDP, UDP_OPTION_SEGMENT, &size,
				   sizeof(size));
	}
	header->msg_iovlen = message->n_iov;
	header->msg_control = control;
	header->msg_controllen = len;
}

/* Names the source of a message that goes through a lane; the shared socket is bound to it. */
static void add_source(struct udp_queue *queue, size_t i)
{
	struct udp_message *message = &queue->messages[i];
	struct msghdr *header = &queue->headers[i].msg_hdr;
	struct in_pktinfo source = {.ipi_spec_dst = queue->lanes.source.sin_addr};

	if (header->msg_control == message->control)
		return;
	header->msg_control = message->control;
	header->msg_controllen +=
		put_control(message->control, IPPROTO_IP, IP_PKTINFO, &source, sizeof(source));
}

static void count_sent(struct flannel_stats *stats, const struct udp_message *message)
{
	stats->tx_packets += message->n_segments;
	stats->tx_bytes += message->len;
}

/* Sends each packet of a message by itself: the kernel has refused to segment it. */
static void send_alone(const struct udp_queue *queue, size_t i, int fd, struct flannel_stats *stats)
{
	const struct udp_message *message = &queue->messages[i];
	struct msghdr header = queue->headers[i].msg_hdr;

	header.msg_controllen -= SEGMENT_LEN;
	for (size_t at = 0; at < message->n_iov; at += header.msg_iovlen) {
		size_t len = message->iov[at].iov_len;

		header.msg_iov = (struct iovec *)&message->iov[at];
		header.msg_iovlen = 1;
		/* A piece shorter than a packet is a header without its payload, or the last
		 * packet. */
		if (len < message->size && at + 1 < message->n_iov) {
			header.msg_iovlen = 2;
			len += message->iov[at + 1].iov_len;
		}
		if (sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
			if (errno == EAGAIN)
				stats->drops.tx_congested++;
			else
				stats->drops.tx_refused++;
			continue;
		}
		stats->tx_packets++;
		stats->tx_bytes += len;
		stats->tx_alone++;
	}
}

/* Waits at most once in a flush in vain, and not for a peer whose packets do not move. */
static bool wait_for_room(struct udp_queue *queue, struct lane *lane)
{
	struct pollfd room = {.fd = lane->fd, .events = POLLOUT};

	if (lane->is_full || queue->has_waited)
		return false;
	if (poll(&room, 1, CONGESTION_WAIT_MS) > 0)
		return true;
	lane->is_full = true;
	queue->has_waited = true;
	return false;
}

/* Messages from the @i-th on that one socket can send. */
static size_t run_len(const struct udp_queue *queue, size_t i)
{
	size_t end = i + 1;

	if (!lanes_are_open(&queue->lanes))
		return queue->n - i;
	while (end < queue->n && queue->messages[end].host == queue->messages[i].host)
		end++;
	return end - i;
}

/* A message was not sent. Return: 0 to try again; 1 if it has been dealt with. */
static size_t handle_error(struct udp_queue *queue, size_t i, struct lane *lane, int error,
			   struct flannel_stats *stats)
{
	const struct udp_message *message = &queue->messages[i];

	if (error == EINTR)
		return 0;
	if (error == EAGAIN) {
		if (!lanes_are_open(&queue->lanes)) {
			lanes_open(&queue->lanes);
			return 0;
		}
		if (wait_for_room(queue, lane))
			return 0;
		stats->drops.tx_congested += message->n_segments;
		return 1;
	}
	if (error == EIO && message->n_segments > 1) {
		queue->max_segments = 1;
		stats->given_up |= FLANNEL_NO_UDP_SEGMENT;
	}
	if (message->n_segments > 1 && (error == EIO || error == EMSGSIZE || error == EINVAL))
		send_alone(queue, i, lane->fd, stats);
	else
		stats->drops.tx_refused += message->n_segments;
	return 1;
}

/* Return: how many messages, from the @i-th on, were sent or dropped. */
static size_t send_some(struct udp_queue *queue, size_t i, struct flannel_stats *stats)
{
	struct lane *lane = lanes_find(&queue->lanes, queue->messages[i].host);
	size_t n = run_len(queue, i);
	int sent;

	if (lane_is_stalled(&queue->lanes, lane)) {
		for (size_t at = i; at < i + n; at++)
			stats->drops.tx_stalled += queue->messages[at].n_segments;
		return n;
	}
	if (lane != &queue->lanes.shared)
		for (size_t at = i; at < i + n; at++)
			add_source(queue, at);
	sent = sendmmsg(lane->fd, &queue->headers[i], (unsigned int)n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent <= 0)
		return handle_error(queue, i, lane, errno, stats);
	lane_note_sent(&queue->lanes, lane);
	stats->tx_batches++;
	for (size_t at = i; at < i + (size_t)sent; at++)
		count_sent(stats, &queue->messages[at]);
	return (size_t)sent;
}

/**
 * udp_queue_flush() - send all messages, and empty the queue
 * @queue: the queue
 * @stats: counts the packets sent and dropped
 *
 * A message that is refused does not hold up the others, and one that finds a full buffer holds up
 * only those for the same peer: see lanes.c. UDP_SEGMENT is given up for good where the device
 * cannot do checksums (EIO, of udp_send_skb()), and for one message whose packets do not fit the
 * path any more (EMSGSIZE, EINVAL): sent alone, the kernel cuts them into fragments.
 */
void udp_queue_flush(struct udp_queue *queue, struct flannel_stats *stats)
{
	size_t i = 0;

	if (!queue->n)
		return;
	lanes_close_in_time(&queue->lanes);
	queue->has_waited = false;
	for (size_t n = 0; n < queue->n; n++)
		fill_header(queue, n);
	while (i < queue->n)
		i += send_some(queue, i, stats);
	queue->n = 0;
}

/** udp_queue_close() - close the sockets that the queue has opened */
void udp_queue_close(struct udp_queue *queue)
{
	lanes_close(&queue->lanes);
}
