/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Receiving datagrams, many at a time: with UDP_GRO the kernel merges consecutive datagrams of one
 * size from one peer into one message.
 */

#include "udp.h"

#include <errno.h>
#include <string.h>

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
