/* SPDX-License-Identifier: Apache-2.0 */

/*
 * May a received packet be carried?
 *
 * A datagram is accepted only from an address that holds a lease; the packet in it only if its
 * source is in that lease and its destination in this host's lease. So strangers cannot put packets
 * into the overlay, a peer cannot use the addresses of another, and no host relays. This is a
 * filter, not a proof: a sender that forges its address on the underlay can still get in.
 *
 * Without FLANNEL_CHECK_SOURCE, for hosts whose datagrams come from a different address than they
 * have published, the first two rules shrink to: not through the overlay itself, and not with a
 * source in this host's lease. Then all who reach the port can send to the containers of this host.
 */

#include "verdict.h"

#include "prefix.h"

/* Hosts may have addresses inside the network, but none that is leased. */
static bool is_of_overlay(const struct flannel_settings *settings, const struct routes *routes,
			  uint32_t address)
{
	return prefix_contains(settings->network, settings->network_len, address) &&
	       (prefix_contains(settings->subnet, settings->subnet_len, address) ||
		routes_find(routes, address));
}

/**
 * verdict_of() - decide about one received packet, and count its hop
 * @settings: of this host
 * @routes:   the peers' leases
 * @host:     source address of the datagram, in host order
 * @tos:      TOS of the datagram
 * @packet:   filled in if the packet could be parsed; bytes behind its total length are not part of
 *            it
 * @data:     the datagram's payload, changed in place if it is carried
 * @len:      bytes at @data
 *
 * On VERDICT_TTL and VERDICT_TOO_BIG the packet is unchanged, so that an ICMP error can quote it.
 *
 * Return: VERDICT_CARRIED, or the first reason against it in the order of the enum.
 */
enum verdict verdict_of(const struct flannel_settings *settings, const struct routes *routes,
			uint32_t host, uint8_t tos, struct packet *packet, void *data, size_t len)
{
	bool check_source = settings->flags & FLANNEL_CHECK_SOURCE;
	uint32_t source;

	/* A tunnel inside the tunnel would grow with every turn. */
	if (is_of_overlay(settings, routes, host))
		return VERDICT_UNKNOWN_PEER;
	if (check_source && !routes_has_host(routes, host))
		return VERDICT_UNKNOWN_PEER;

	if (len < IPV4_HEADER_MIN)
		return VERDICT_SHORT;
	if (packet_parse(packet, data, len))
		return VERDICT_MALFORMED;

	source = packet_source(packet);
	if (check_source ? routes_find(routes, source) != host
			 : prefix_contains(settings->subnet, settings->subnet_len, source))
		return VERDICT_SPOOFED;
	if (!prefix_contains(settings->subnet, settings->subnet_len, packet_destination(packet)))
		return VERDICT_NOT_MINE;
	/* Without DF the kernel cuts it where the next link is too small: RFC 791, 2.3. */
	if (packet->len > settings->mtu && !packet_may_fragment(packet))
		return VERDICT_TOO_BIG;
	if (packet_decrement_ttl(packet))
		return VERDICT_TTL;
	if (packet_propagate_ecn(packet, tos))
		return VERDICT_ECN;
	return VERDICT_CARRIED;
}
