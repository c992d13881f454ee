/* SPDX-License-Identifier: Apache-2.0 */

/* The only place that does arithmetic on the lengths inside an IPv4 header (RFC 791, 3.1). */

#include "packet.h"

#include <errno.h>
#include <string.h>

#include "checksum.h"

#define IPV4_HEADER_MIN	  20
#define IPV4_TOTAL_LENGTH 2
#define IPV4_TTL	  8
#define IPV4_CHECKSUM	  10

static uint16_t load16(const uint8_t *from)
{
	uint16_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

/**
 * packet_parse() - find the IPv4 packet in what was read
 * @packet: filled in on success, untouched on failure
 * @data:   what was read
 * @len:    bytes at @data; more than the packet says of itself are trimmed
 *
 * The header checksum is not verified: we change it by differences, so a header that was damaged
 * before it came here still fails where it arrives.
 *
 * Return: 0; -EPROTONOSUPPORT if it is of another IP version than 4; -EBADMSG if the lengths in its
 * header contradict each other or reach beyond @len.
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
	total_len = (size_t)ip[IPV4_TOTAL_LENGTH] << 8 | ip[IPV4_TOTAL_LENGTH + 1];
	if (header_len < IPV4_HEADER_MIN || total_len < header_len || len < total_len)
		return -EBADMSG;

	packet->data = ip;
	packet->header_len = (uint16_t)header_len;
	packet->len = (uint16_t)total_len;
	return 0;
}

/**
 * packet_decrement_ttl() - count one hop and mend the header checksum
 * @packet: the packet, changed in place
 *
 * Return: 0; -ETIME if this hop is one too many, with the packet as it was, so that an ICMP error
 * can quote it (RFC 1812, 5.3.1). A TTL of 0 does not wrap.
 */
int packet_decrement_ttl(struct packet *packet)
{
	uint8_t *ip = packet->data;
	uint16_t check;
	uint16_t before;
	uint16_t after;

	if (ip[IPV4_TTL] <= 1)
		return -ETIME;

	/* Checksums add whole 16-bit words: the one of the TTL also holds the protocol. */
	before = load16(ip + IPV4_TTL);
	ip[IPV4_TTL]--;
	after = load16(ip + IPV4_TTL);

	check = checksum_update(load16(ip + IPV4_CHECKSUM), before, after);
	memcpy(ip + IPV4_CHECKSUM, &check, sizeof(check));
	return 0;
}
