/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reports to a sender why its packet was dropped, by an ICMP error that reaches it.
 *
 * To a sender on this host or in its containers the error goes up the TUN device. The kernel drops
 * packets from there whose source is an address of this host (a martian), so the error cannot come
 * from the tunnel's own address. It comes from settings.error_source, which is routed to the TUN
 * device and which no host has. To a sender behind a peer the error goes to that peer in a
 * datagram, from the tunnel's own address, the only source that the peer accepts.
 */

#include "worker.h"

#include <errno.h>
#include <netinet/in.h>
#include <unistd.h>

#include "hash.h"

/* Errors in a second (RFC 1812, 4.3.2.8). The second is the kernel's icmp_msgs_per_sec. */
#define ICMP_PER_SENDER 10
#define ICMP_PER_SECOND 1000

static bool take(struct icmp_limit *limit, time_t second, unsigned int most)
{
	if (limit->second != second) {
		limit->second = second;
		limit->n = 0;
	}
	if (limit->n == most)
		return false;
	limit->n++;
	return true;
}

/* A sender of many packets that are dropped must not use up the errors of the others. */
static bool is_within_limits(struct worker *worker, enum icmp_error error, uint32_t sender)
{
	uint32_t slot = hash_to_slot(hash_join(sender, error), ICMP_SLOT_BITS);
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (take(&worker->icmp_of_sender[slot], now.tv_sec, ICMP_PER_SENDER) &&
	    take(&worker->icmp_of_all, now.tv_sec, ICMP_PER_SECOND))
		return true;
	worker->stats.icmp_limited++;
	return false;
}

/* Return: bytes of the error; 0 if there must be none, or there were too many. */
static size_t build_within_limits(struct worker *worker, uint8_t buffer[ICMP_ERROR_MAX],
				  enum icmp_error error, uint32_t source,
				  const struct packet *about)
{
	uint32_t mtu = error == ICMP_FRAGMENTATION_NEEDED ? worker->settings.mtu : 0;
	size_t len = icmp_build(buffer, error, mtu, source, about);

	return len && is_within_limits(worker, error, packet_source(about)) ? len : 0;
}

/**
 * report_to_tun() - report a dropped packet to its sender on this host
 * @worker: whose TUN device the packet came from
 * @error:  the reason
 * @about:  the packet
 */
void report_to_tun(struct worker *worker, enum icmp_error error, const struct packet *about)
{
	struct virtio_net_hdr vnet = {0};
	uint8_t buffer[ICMP_ERROR_MAX];
	size_t len =
		build_within_limits(worker, buffer, error, worker->settings.error_source, about);
	struct iovec iov[] = {{&vnet, sizeof(vnet)}, {buffer, len}};

	if (len && writev(worker->tun_fd, iov, 2) > 0)
		worker->stats.icmp_sent++;
}

/**
 * report_to_peer() - report a dropped packet to its sender behind a peer
 * @worker: whose socket the packet came from
 * @error:  the reason
 * @host:   the peer, in host order
 * @about:  the packet
 */
void report_to_peer(struct worker *worker, enum icmp_error error, uint32_t host,
		    const struct packet *about)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons(worker->settings.port),
		.sin_addr.s_addr = htonl(host),
	};
	uint8_t buffer[ICMP_ERROR_MAX];
	size_t len = build_within_limits(worker, buffer, error, worker->settings.subnet, about);

	if (len && sendto(worker->udp_fd, buffer, len, MSG_DONTWAIT | MSG_NOSIGNAL,
			  (const struct sockaddr *)&to, sizeof(to)) > 0)
		worker->stats.icmp_sent++;
}
