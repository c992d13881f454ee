/* SPDX-License-Identifier: Apache-2.0 */

/* ICMP errors: RFC 792 for the format, RFC 1812, 4.3.2 for when and how, RFC 1191 for the MTU. */

#include "icmp.h"

#include <string.h>

#include "bytes.h"
#include "checksum.h"

enum {
	ICMP_TYPE = 0,
	ICMP_CODE = 1,
	ICMP_CHECKSUM = 2,
	ICMP_NEXT_MTU = 6,
	ICMP_HEADER_LEN = 8,
};

#define ERROR_HEADER_LEN (IPV4_HEADER_MIN + ICMP_HEADER_LEN)
#define ERROR_TOS	 0xc0 /* internetwork control: RFC 1812, 4.3.2.5 */
#define ERROR_TTL	 64

/* Addresses in 0/8, loopback, multicast and class E belong to no single host. */
static bool is_host(uint32_t address)
{
	uint32_t first = address >> 24;

	return first && first != 127 && first < 224;
}

/* Errors are sent about queries, never about errors. Without a type it counts as an error. */
static bool is_icmp_error(const struct packet *packet)
{
	uint8_t type;

	if (packet->data[IPV4_PROTOCOL] != PROTOCOL_ICMP)
		return false;
	if (packet->len <= packet->header_len)
		return true;

	type = packet->data[packet->header_len + ICMP_TYPE];
	return !(type == 0 || type == 8 || (type >= 13 && type <= 18));
}

/**
 * icmp_build() - build the error to send to the source of a packet
 * @buffer: receives the error
 * @error:  the reason
 * @mtu:    the largest size that would fit, for ICMP_FRAGMENTATION_NEEDED; else 0
 * @source: source address of the error, in host order
 * @about:  the packet that cannot be carried, as it was sent
 *
 * Return: bytes of the error; 0 if there must be none: about an error, about a fragment that is not
 * the first, about a packet whose source or destination is not one host.
 */
size_t icmp_build(uint8_t buffer[ICMP_ERROR_MAX], enum icmp_error error, uint32_t mtu,
		  uint32_t source, const struct packet *about)
{
	uint8_t *icmp = buffer + IPV4_HEADER_MIN;
	size_t quoted = about->len;
	size_t len;

	if (!is_host(packet_source(about)) || !is_host(packet_destination(about)) ||
	    get_be16(about->data + IPV4_FRAGMENT) & IPV4_FRAGMENT_OFFSET || is_icmp_error(about))
		return 0;
	if (quoted > ICMP_ERROR_MAX - ERROR_HEADER_LEN)
		quoted = ICMP_ERROR_MAX - ERROR_HEADER_LEN;
	len = ERROR_HEADER_LEN + quoted;

	memset(buffer, 0, ERROR_HEADER_LEN);
	memcpy(buffer + ERROR_HEADER_LEN, about->data, quoted);

	icmp[ICMP_TYPE] = (uint8_t)(error >> 8);
	icmp[ICMP_CODE] = (uint8_t)error;
	put_be16(icmp + ICMP_NEXT_MTU, mtu);
	store16(icmp + ICMP_CHECKSUM,
		(uint16_t)~checksum_fold(checksum_add(0, icmp, ICMP_HEADER_LEN + quoted)));

	buffer[0] = 0x45;
	buffer[IPV4_TOS] = ERROR_TOS;
	put_be16(buffer + IPV4_TOTAL_LENGTH, (uint32_t)len);
	put_be16(buffer + IPV4_FRAGMENT, IPV4_DF); /* so an id of 0 is right: RFC 6864, 4.1 */
	buffer[IPV4_TTL] = ERROR_TTL;
	buffer[IPV4_PROTOCOL] = PROTOCOL_ICMP;
	put_be32(buffer + IPV4_SOURCE, source);
	memcpy(buffer + IPV4_DESTINATION, about->data + IPV4_SOURCE, sizeof(uint32_t));
	store16(buffer + IPV4_CHECKSUM,
		(uint16_t)~checksum_fold(checksum_add(0, buffer, IPV4_HEADER_MIN)));
	return len;
}
