/* SPDX-License-Identifier: Apache-2.0 */

/*
 * From the TUN device to the peers. For each packet that is read:
 *
 * 1. Find the packet behind its virtio_net_hdr, and the host that serves its destination.
 * 2. Count the hop.
 * 3. Do the work that the kernel leaves to its device: cut a super-packet into segments, complete
 *    the checksum.
 * 4. Queue the packets. At the end of the batch, or when the queue is full, send them all.
 */

#include "worker.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "bytes.h"
#include "transport.h"

#define VNET_LEN sizeof(struct virtio_net_hdr)

static void send_queued(struct worker *worker)
{
	udp_queue_flush(&worker->out.queue, &worker->stats);
	worker->out.n_scratch = 0;
}

static void queue_packet(struct worker *worker, uint32_t host, uint8_t tos,
			 const struct iovec parts[2])
{
	if (udp_queue_add(&worker->out.queue, host, tos, parts)) {
		send_queued(worker);
		(void)udp_queue_add(&worker->out.queue, host, tos, parts);
	}
}

static int queue_segments(struct worker *worker, uint32_t host, uint8_t tos,
			  const struct packet *packet, size_t size)
{
	struct outbound *out = &worker->out;
	struct gso gso;
	int err = gso_begin(&gso, packet, size);

	if (err)
		return err;
	for (size_t i = 0; i < gso.n_segments; i++) {
		struct iovec parts[2];
		const uint8_t *payload;
		uint8_t *header;

		if (sizeof(out->scratch) - out->n_scratch < gso.header_len ||
		    (out->queue.n == UDP_MAX_MESSAGES))
			send_queued(worker);
		header = out->scratch + out->n_scratch;
		parts[1].iov_len = gso_segment(&gso, i, header, &payload);
		parts[1].iov_base = (uint8_t *)payload;
		parts[0].iov_base = header;
		parts[0].iov_len = gso.header_len;
		out->n_scratch += gso.header_len;
		queue_packet(worker, host, tos, parts);
	}
	return 0;
}

static int queue_whole(struct worker *worker, uint32_t host, uint8_t tos, struct packet *packet,
		       const struct virtio_net_hdr *vnet)
{
	const struct iovec parts[2] = {{packet->data, packet->len}, {NULL, 0}};

	if (vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
		int err = packet_finish_checksum(packet, vnet->csum_start, vnet->csum_offset);

		if (err)
			return err;
	}
	queue_packet(worker, host, tos, parts);
	return 0;
}

/*
 * Bytes of the largest packet that will go into the tunnel. Of TCP the least: its options have not
 * been parsed yet.
 */
static size_t largest_len(const struct packet *packet, const struct virtio_net_hdr *vnet)
{
	size_t transport = UDP_HEADER_LEN;

	if (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		return packet->len;
	if (packet->data[IPV4_PROTOCOL] == PROTOCOL_TCP)
		transport = TCP_HEADER_MIN;
	return packet->header_len + transport + vnet->gso_size;
}

static void send_packet(struct worker *worker, const struct virtio_net_hdr *vnet, void *data,
			size_t len)
{
	struct flannel_stats *stats = &worker->stats;
	struct packet packet;
	uint32_t host;
	uint8_t tos;
	int err = packet_parse(&packet, data, len);

	if (err == -EPROTONOSUPPORT) {
		stats->drops.tx_not_ipv4++;
		return;
	}
	if (err) {
		stats->drops.tx_malformed++;
		return;
	}

	host = routes_find(worker->routes, packet_destination(&packet));
	if (!host) {
		stats->drops.tx_no_route++;
		report_to_tun(worker, ICMP_NET_UNREACHABLE, &packet);
		return;
	}
	if (largest_len(&packet, vnet) > worker->settings.mtu && !packet_may_fragment(&packet)) {
		stats->drops.tx_too_big++;
		report_to_tun(worker, ICMP_FRAGMENTATION_NEEDED, &packet);
		return;
	}
	if (packet_decrement_ttl(&packet)) {
		stats->drops.tx_ttl++;
		report_to_tun(worker, ICMP_TIME_EXCEEDED, &packet);
		return;
	}

	/*
	 * RFC 6040, 4.1: a tunnel whose other end may not pass a mark on (upstream's does not) must
	 * send datagrams without ECN.
	 */
	tos = worker->settings.flags & FLANNEL_ECN ? packet.data[IPV4_TOS] & ECN_MASK : 0;
	if (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE)
		err = queue_whole(worker, host, tos, &packet, vnet);
	else
		err = queue_segments(worker, host, tos, &packet, vnet->gso_size);
	if (err)
		stats->drops.tx_malformed++;
}

/**
 * outbound_turn() - carry the packets that wait at the TUN device, up to one batch
 * @worker: the worker
 *
 * Return: bytes read; -errno if the TUN device is gone.
 */
int outbound_turn(struct worker *worker)
{
	struct outbound *out = &worker->out;
	size_t used = 0;

	while (used < TUN_BATCH_LEN) {
		struct virtio_net_hdr vnet;
		uint8_t *at = out->buffer + used;
		ssize_t len = read(worker->tun_fd, at, TUN_READ_MAX);

		if (len < 0 && errno == EINTR)
			continue;
		if (len < 0 && errno == EAGAIN)
			break;
		if (len <= 0) {
			send_queued(worker);
			return len < 0 ? -errno : -ENODEV;
		}
		if ((size_t)len < VNET_LEN) {
			worker->stats.drops.tx_malformed++;
			continue;
		}
		memcpy(&vnet, at, VNET_LEN);
		send_packet(worker, &vnet, at + VNET_LEN, (size_t)len - VNET_LEN);
		used += (size_t)len;
	}
	send_queued(worker);
	return (int)used;
}
