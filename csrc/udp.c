/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Datagrams, many at a time.
 *
 * Out, packets of one size for one peer are one message: with UDP_SEGMENT the kernel carries it
 * whole through most of its stack, and cuts it into one datagram for each packet at the end. In,
 * UDP_GRO does the reverse. Neither changes anything on the wire.
 */

#include "udp.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* linux/udp.h; netinet/udp.h of old C libraries lacks them. */
#define UDP_OPTION_SEGMENT 103
#define UDP_OPTION_GRO	   104

/*
 * How long the socket's buffer may stay full before the queue is dropped. Waiting slows senders on
 * this host down; a longer wait would delay what is received.
 */
#define CONGESTION_WAIT_MS 1

/**
 * udp_prepare() - switch on the kernel's features for a socket
 * @fd: the socket
 *
 * Return: FLANNEL_NO_* flags of the features that the kernel lacks.
 */
uint64_t udp_prepare(int fd)
{
	socklen_t len = sizeof(int);
	uint64_t missing = 0;
	int value = 1;

	/* Without the TOS congestion marks are ignored, as upstream does. */
	(void)setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &value, sizeof(value));
	if (setsockopt(fd, IPPROTO_UDP, UDP_OPTION_GRO, &value, sizeof(value)))
		missing |= FLANNEL_NO_UDP_GRO;
	if (getsockopt(fd, IPPROTO_UDP, UDP_OPTION_SEGMENT, &value, &len))
		missing |= FLANNEL_NO_UDP_SEGMENT;
	return missing;
}

/**
 * udp_queue_init() - make a queue ready for use
 * @queue:       to be initialised
 * @fd:          the socket
 * @has_segment: the kernel has UDP_SEGMENT
 */
void udp_queue_init(struct udp_queue *queue, int fd, bool has_segment)
{
	queue->fd = fd;
	queue->n = 0;
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

/* Fills in the header of a message, which is complete. */
static void fill_header(struct udp_queue *queue, size_t i)
{
	struct udp_message *message = &queue->messages[i];
	struct msghdr *header = &queue->headers[i].msg_hdr;
	size_t control_len = 0;

	message->to.sin_family = AF_INET;
	message->to.sin_port = htons(queue->port);
	message->to.sin_addr.s_addr = htonl(message->host);
	/* The TOS first: send_alone() omits the rest. */
	if (message->tos) {
		int tos = message->tos;

		control_len += put_control(message->control, IPPROTO_IP, IP_TOS, &tos, sizeof(tos));
	}
	if (message->n_segments > 1) {
		uint16_t size = (uint16_t)message->size;

		control_len += put_control(message->control + control_len, IPPROTO_UDP,
					   UDP_OPTION_SEGMENT, &size, sizeof(size));
	}
	header->msg_iovlen = message->n_iov;
	header->msg_control = control_len ? message->control : NULL;
	header->msg_controllen = control_len;
}

static void count_sent(struct flannel_stats *stats, const struct udp_message *message)
{
	stats->tx_packets += message->n_segments;
	stats->tx_bytes += message->len;
}

/* Sends each packet of a message by itself: the kernel has refused to segment it. */
static void send_alone(struct udp_queue *queue, size_t i, struct flannel_stats *stats)
{
	const struct udp_message *message = &queue->messages[i];
	struct msghdr header = queue->headers[i].msg_hdr;

	header.msg_controllen = message->tos ? CMSG_SPACE(sizeof(int)) : 0;
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
		if (sendmsg(queue->fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
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

static bool wait_for_room(int fd)
{
	struct pollfd room = {.fd = fd, .events = POLLOUT};

	return poll(&room, 1, CONGESTION_WAIT_MS) > 0;
}

/**
 * udp_queue_flush() - send all messages, and empty the queue
 * @queue: the queue
 * @stats: counts the packets sent and dropped
 *
 * A message that is refused does not hold up the others. UDP_SEGMENT is given up for good where the
 * device cannot do checksums (EIO, of udp_send_skb()), and for one message whose packets do not fit
 * the path any more (EMSGSIZE, EINVAL): sent alone, the kernel cuts them into fragments.
 */
void udp_queue_flush(struct udp_queue *queue, struct flannel_stats *stats)
{
	size_t i = 0;

	for (size_t n = 0; n < queue->n; n++)
		fill_header(queue, n);

	while (i < queue->n) {
		struct udp_message *message = &queue->messages[i];
		int sent = sendmmsg(queue->fd, &queue->headers[i], (unsigned int)(queue->n - i),
				    MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0) {
			stats->tx_batches++;
			for (; sent; sent--)
				count_sent(stats, &queue->messages[i++]);
			continue;
		}
		if (errno == EINTR || (errno == EAGAIN && wait_for_room(queue->fd)))
			continue;
		if (errno == EAGAIN) {
			for (; i < queue->n; i++)
				stats->drops.tx_congested += queue->messages[i].n_segments;
			break;
		}
		if (errno == EIO && message->n_segments > 1) {
			queue->max_segments = 1;
			stats->given_up |= FLANNEL_NO_UDP_SEGMENT;
		}
		if (message->n_segments > 1 &&
		    (errno == EIO || errno == EMSGSIZE || errno == EINVAL))
			send_alone(queue, i, stats);
		else
			stats->drops.tx_refused += message->n_segments;
		i++;
	}
	queue->n = 0;
}

/** udp_batch_init() - make a batch ready for use */
void udp_batch_init(struct udp_batch *batch)
{
	for (size_t i = 0; i < UDP_MAX_MESSAGES; i++) {
		struct msghdr *header = &batch->headers[i].msg_hdr;

		batch->iov[i].iov_base = batch->buffers[i];
		batch->iov[i].iov_len = sizeof(batch->buffers[i]);
		header->msg_iov = &batch->iov[i];
		header->msg_iovlen = 1;
		header->msg_name = &batch->from[i];
		header->msg_namelen = sizeof(batch->from[i]);
		header->msg_control = batch->control[i];
		header->msg_controllen = sizeof(batch->control[i]);
	}
}

/**
 * udp_batch_receive() - receive the waiting datagrams, up to one batch
 * @batch: initialised; its former content is overwritten
 * @fd:    the socket
 *
 * Return: number of messages for udp_batch_get(), 0 if nothing was waiting; -errno.
 */
int udp_batch_receive(struct udp_batch *batch, int fd)
{
	int n = recvmmsg(fd, batch->headers, UDP_MAX_MESSAGES, MSG_DONTWAIT, NULL);

	if (n >= 0)
		return n;
	return errno == EAGAIN || errno == EINTR ? 0 : -errno;
}

/**
 * udp_batch_get() - describe one received message
 * @batch:    the batch
 * @i:        which one; each may be asked for once
 * @received: filled in; it points into @batch
 */
void udp_batch_get(struct udp_batch *batch, size_t i, struct udp_received *received)
{
	struct msghdr *header = &batch->headers[i].msg_hdr;

	received->host = ntohl(batch->from[i].sin_addr.s_addr);
	received->tos = 0;
	received->data = batch->buffers[i];
	received->len = batch->headers[i].msg_len;
	received->size = received->len;

	for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control;
	     control = CMSG_NXTHDR(header, control)) {
		if (control->cmsg_level == IPPROTO_UDP && control->cmsg_type == UDP_OPTION_GRO) {
			int size;

			memcpy(&size, CMSG_DATA(control), sizeof(size));
			if (size > 0)
				received->size = (size_t)size;
		} else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_TOS) {
			received->tos = *CMSG_DATA(control);
		}
	}
	/* The kernel has set these to the bytes that it filled; restore the room. */
	header->msg_namelen = sizeof(batch->from[i]);
	header->msg_controllen = sizeof(batch->control[i]);
}
