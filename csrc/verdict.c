/* SPDX-License-Identifier: Apache-2.0 */

/*
 * May a received packet be carried?
 *
 * A datagram is taken only from an address that holds a lease, a packet in it only if its source is
 * of that very lease, and only if it goes to this host's lease: nobody else can put packets into
 * the overlay, a peer cannot speak for another, and no host relays. This is a filter, not proof:
 * who can forge the source address on the underlay can still get in.
 *
 * Without FLANNEL_CHECK_SOURCE, for hosts whose datagrams come from another address than they have
 * published, the first two rules shrink to: not through the overlay itself, and not in the name of
 * this host. Then anybody who can reach the port can send to the containers of this host.
 */

#include "verdict.h"

static uint32_t mask_of(uint32_t prefix_len)
{
	/* A shift by 32 is undefined. */
	return prefix_len ? UINT32_MAX << (32 - prefix_len) : 0;
}

/**
 * verdict_of() - decide about one received packet, and count its hop
 * @settings: what this host is
 * @routes:   what the peers' leases are
 * @host:     source address of the datagram, in host order
 * @tos:      TOS of the datagram
 * @packet:   filled in if the packet could be parsed
 * @data:     the datagram's payload, changed in place if it is carried; what trails the packet is
 *            not part of @packet
 * @len:      bytes at @data
 *
 * On VERDICT_TTL and VERDICT_TOO_BIG the packet is as it came, so that an ICMP error can quote it.
 *
 * Return: VERDICT_CARRIED, or the reason why not: the first that applies in the order of the enum.
 */
enum verdict verdict_of(const struct flannel_settings *settings, const struct routes *routes,
			uint32_t host, uint8_t tos, struct packet *packet, void *data, size_t len)
{
	uint32_t in_network = mask_of(settings->network_len);
	uint32_t in_subnet = mask_of(settings->subnet_len);
	bool check_source = settings->flags & FLANNEL_CHECK_SOURCE;
	uint32_t source;

	/* A tunnel inside the tunnel would grow with every turn. */
	if ((host & in_network) == settings->network)
		return VERDICT_UNKNOWN_PEER;
	if (check_source && !routes_has_host(routes, host))
		return VERDICT_UNKNOWN_PEER;

	if (len < IPV4_HEADER_MIN)
		return VERDICT_SHORT;
	if (packet_parse(packet, data, len))
		return VERDICT_MALFORMED;

	source = packet_source(packet);
	if (check_source ? routes_find(routes, source) != host
			 : (source & in_subnet) == settings->subnet)
		return VERDICT_SPOOFED;
	if ((packet_destination(packet) & in_subnet) != settings->subnet)
		return VERDICT_NOT_MINE;
	/* Others the kernel fragments where the next link is too small for them: RFC 791, 2.3. */
	if (packet->len > settings->mtu && !packet_may_fragment(packet))
		return VERDICT_TOO_BIG;
	if (packet_decrement_ttl(packet))
		return VERDICT_TTL;
	if (packet_propagate_ecn(packet, tos))
		return VERDICT_ECN;
	return VERDICT_CARRIED;
}
