/* SPDX-License-Identifier: Apache-2.0 */

/* The only place that does arithmetic on the lengths inside an IPv4 header (RFC 791, 3.1). */

#include "packet.h"

#include <errno.h>

#include "bytes.h"
#include "checksum.h"
#include "transport.h"

/* Changes a byte of the header, and the checksum by the difference. */
static void replace_byte(uint8_t *ip, size_t at, uint8_t value)
{
	size_t word = at & ~(size_t)1;
	uint16_t before = load16(ip + word);

	ip[at] = value;
	store16(ip + IPV4_CHECKSUM,
		checksum_update(load16(ip + IPV4_CHECKSUM), before, load16(ip + word)));
}

/**
 * packet_parse() - find the IPv4 packet in what was read
 * @packet: filled in on success, untouched on failure
 * @data:   what was read
 * @len:    bytes at @data; those behind the packet's total length are not part of it
 *
 * The header checksum is not verified: it is changed by differences, so the receiver still detects
 * a header that was damaged before it came here.
 *
 * Return: 0; -EPROTONOSUPPORT if its IP version is not 4; -EBADMSG if the lengths in its header
 * contradict each other or exceed @len.
 */
int packet_parse(struct packet *packet, void *data, size_t len)
{
	uint8_t *ip = data;
	size_t header_len;
	size_t total_len;

	if (len < 1)
		return -EBADMSG;
	if (ip[0] >> 4 != 4)
		return -EPROTONOSUPPORT;
	if (len < IPV4_HEADER_MIN)
		return -EBADMSG;

	header_len = (ip[0] & 0xfu) * 4;
	total_len = get_be16(ip + IPV4_TOTAL_LENGTH);
	if (header_len < IPV4_HEADER_MIN || total_len < header_len || len < total_len)
		return -EBADMSG;

	packet->data = ip;
	packet->header_len = (uint16_t)header_len;
	packet->len = (uint16_t)total_len;
	return 0;
}

/**
 * packet_decrement_ttl() - count one hop and update the header checksum
 * @packet: the packet, changed in place
 *
 * Return: 0; -ETIME if this hop is one too many. Then the packet is unchanged, so that an ICMP
 * error can quote it (RFC 1812, 5.3.1). A TTL of 0 does not wrap.
 */
int packet_decrement_ttl(struct packet *packet)
{
	uint8_t *ip = packet->data;

	if (ip[IPV4_TTL] <= 1)
		return -ETIME;

	/* Checksums add 16-bit words; the word of the TTL also holds the protocol. */
	replace_byte(ip, IPV4_TTL, (uint8_t)(ip[IPV4_TTL] - 1));
	return 0;
}

/** packet_source() - the source address, in host order */
uint32_t packet_source(const struct packet *packet)
{
	return get_be32(packet->data + IPV4_SOURCE);
}

/** packet_destination() - the destination address, in host order */
uint32_t packet_destination(const struct packet *packet)
{
	return get_be32(packet->data + IPV4_DESTINATION);
}

/** packet_is_fragment() - whether it is a part of a packet, be it the first */
bool packet_is_fragment(const struct packet *packet)
{
	return get_be16(packet->data + IPV4_FRAGMENT) & (IPV4_MF | IPV4_FRAGMENT_OFFSET);
}

/** packet_may_fragment() - whether routers may cut it into fragments */
bool packet_may_fragment(const struct packet *packet)
{
	return !(get_be16(packet->data + IPV4_FRAGMENT) & IPV4_DF);
}

/**
 * packet_propagate_ecn() - copy the congestion mark of a datagram to the packet in it
 * @packet: the packet that came out of a datagram, changed in place
 * @tos:    of the datagram
 *
 * RFC 6040, figure 4.
 *
 * Return: 0; -EBADMSG if the packet has to be dropped instead, because its transport does not know
 * ECN.
 */
int packet_propagate_ecn(struct packet *packet, uint8_t tos)
{
	uint8_t *ip = packet->data;
	uint8_t inner = ip[IPV4_TOS] & ECN_MASK;
	uint8_t outer = tos & ECN_MASK;

	if (outer == ECN_CE && inner == ECN_NONE)
		return -EBADMSG;
	if (outer == ECN_CE || (outer == ECN_ECT1 && inner == ECN_ECT0))
		replace_byte(ip, IPV4_TOS, (uint8_t)((ip[IPV4_TOS] & ~ECN_MASK) | outer));
	return 0;
}

/**
 * packet_transport_ok() - whether a whole TCP or UDP packet is undamaged
 * @packet: not a fragment
 *
 * Return: true if the checksums of the IPv4 header and of TCP or UDP are present and right; false
 * for other protocols, and for UDP without a checksum.
 */
bool packet_transport_ok(const struct packet *packet)
{
	const uint8_t *ip = packet->data;
	size_t len = (size_t)packet->len - packet->header_len;
	uint64_t sum;

	switch (ip[IPV4_PROTOCOL]) {
	case PROTOCOL_TCP:
		break;
	case PROTOCOL_UDP:
		if (len < UDP_HEADER_LEN || !load16(ip + packet->header_len + UDP_CHECKSUM))
			return false;
		break;
	default:
		return false;
	}
	if (checksum_fold(checksum_add(0, ip, packet->header_len)) != 0xffff)
		return false;
	sum = checksum_pseudo(ip + IPV4_SOURCE, ip[IPV4_PROTOCOL], len);
	return checksum_fold(checksum_add(sum, ip + packet->header_len, len)) == 0xffff;
}

/**
 * packet_finish_checksum() - complete a checksum that the kernel has left to its device
 * @packet: the packet, changed in place
 * @start:  where the checksummed part begins, as virtio_net_hdr's csum_start
 * @offset: of the checksum from @start; the field holds the sum of the pseudo-header
 *
 * Return: 0; -EBADMSG if either is outside the packet.
 */
int packet_finish_checksum(struct packet *packet, size_t start, size_t offset)
{
	uint8_t *check;
	uint16_t sum;

	if (start < packet->header_len || start + offset + sizeof(sum) > packet->len)
		return -EBADMSG;

	check = packet->data + start + offset;
	sum = (uint16_t)~checksum_fold(
		checksum_add(0, packet->data + start, (size_t)packet->len - start));
	/* In UDP 0 means no checksum (RFC 768); in TCP 0 and 0xffff are equal. */
	store16(check, sum ? sum : 0xffff);
	return 0;
}
