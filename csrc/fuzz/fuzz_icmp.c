/* SPDX-License-Identifier: Apache-2.0 */

/* Fuzzes icmp.c: a byte chooses the error, two are the MTU, four the source, the rest a packet. */

#include "icmp.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"

enum {
	CHOICES_LEN = 7,
	ERROR_LEN = IPV4_HEADER_MIN + 8,
};

static const enum icmp_error errors[] = {
	ICMP_NET_UNREACHABLE,
	ICMP_FRAGMENTATION_NEEDED,
	ICMP_TIME_EXCEEDED,
};

/* Whether RFC 1812, 4.3.2.7, allows an ICMP error about this packet. */
static bool allows_error(const struct packet *about)
{
	uint32_t source = packet_source(about) >> 24, to = packet_destination(about) >> 24;

	if (get_be16(about->data + IPV4_FRAGMENT) & IPV4_FRAGMENT_OFFSET)
		return false;
	return source && source != 127 && source < 224 && to && to != 127 && to < 224;
}

static void check(const uint8_t *error, size_t len, const uint8_t *choices,
		  const struct packet *about)
{
	size_t quoted = len - ERROR_LEN;
	struct packet packet;

	assert(allows_error(about));
	assert(len <= ICMP_ERROR_MAX && (quoted == about->len || len == ICMP_ERROR_MAX));
	assert(!packet_parse(&packet, (void *)error, len) && packet.len == len);
	assert(packet.header_len == IPV4_HEADER_MIN && error[IPV4_PROTOCOL] == PROTOCOL_ICMP);
	assert(checksum_fold(checksum_add(0, error, IPV4_HEADER_MIN)) == 0xffff);
	assert(checksum_fold(checksum_add(0, error + IPV4_HEADER_MIN, len - IPV4_HEADER_MIN)) ==
	       0xffff);
	assert(packet_source(&packet) == get_be32(choices + 3));
	assert(packet_destination(&packet) == packet_source(about));
	assert(get_be16(error + IPV4_HEADER_MIN) == errors[choices[0] % 3]);
	assert(!get_be16(error + IPV4_HEADER_MIN + 4));
	assert(get_be16(error + IPV4_HEADER_MIN + 6) == get_be16(choices + 1));
	assert(!memcmp(error + ERROR_LEN, about->data, quoted));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const uint8_t *choices = data;
	struct packet about;
	uint8_t *copy, *error;
	size_t error_len;

	if (len < CHOICES_LEN + IPV4_HEADER_MIN)
		return -1;
	len -= CHOICES_LEN;
	copy = malloc(len);
	error = malloc(ICMP_ERROR_MAX);
	assert(copy && error);
	memcpy(copy, data + CHOICES_LEN, len);
	if (choices[0] & 0x80) {
		copy[0] = (uint8_t)(0x45 + (copy[0] & 3));
		put_be16(copy + IPV4_TOTAL_LENGTH, (uint32_t)len);
	}

	if (!packet_parse(&about, copy, len)) {
		error_len = icmp_build(error, errors[choices[0] % 3], get_be16(choices + 1),
				       get_be32(choices + 3), &about);
		if (error_len)
			check(error, error_len, choices, &about);
		/* icmp_build() makes no error about ICMP, but for an echo request. */
		else if (about.len > about.header_len)
			assert(!allows_error(&about) || (copy[IPV4_PROTOCOL] == PROTOCOL_ICMP &&
							 copy[about.header_len] != 8));
	}
	free(copy);
	free(error);
	return 0;
}
