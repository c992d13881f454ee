/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzzes verdict.c and packet.c: five bytes choose what surrounds the datagram, the rest is the
 * datagram. It lies at the end of its memory, so that the sanitizer sees one byte too far.
 */

#include "verdict.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"

#define NETWORK	 0x0a010000
#define SUBNET	 0x0a010f00
#define PEER	 0xc0a80002
#define PEER_NET 0x0a011000

/* Bits of the third byte: what it takes to get far. */
enum {
	IS_IPV4 = 1,
	IS_WHOLE = 2,
	FROM_PEER_NET = 4,
	TO_SUBNET = 8,
};

static const struct flannel_route list[] = {
	{PEER_NET, 24, PEER},
	{PEER_NET + 0x40, 26, PEER + 1},
	{0x0a012000, 20, PEER + 2},
};

static const uint32_t hosts[] = {PEER, PEER + 1, PEER + 2, PEER + 3, PEER_NET + 1, 0};

static void adjust(uint8_t *ip, size_t len, uint8_t bits)
{
	if (len < IPV4_HEADER_MIN)
		return;
	if (bits & IS_IPV4)
		ip[0] = (uint8_t)(0x45 + (ip[0] & 3));
	if (bits & IS_WHOLE)
		put_be16(ip + IPV4_TOTAL_LENGTH, (uint32_t)len);
	if (bits & FROM_PEER_NET)
		put_be32(ip + IPV4_SOURCE, PEER_NET | ip[IPV4_SOURCE + 3]);
	if (bits & TO_SUBNET)
		put_be32(ip + IPV4_DESTINATION, SUBNET | ip[IPV4_DESTINATION + 3]);
}

/* The carried packet is the one that came, but for a hop, a congestion mark and the checksum. */
static void check_carried(const struct packet *packet, const uint8_t *before)
{
	uint8_t tos = packet->data[IPV4_TOS];
	size_t header_len = packet->header_len;

	assert(packet_source(packet) - PEER_NET < 0x100 || packet_source(packet) >> 12 == 0xa012);
	assert(packet_destination(packet) >> 8 == SUBNET >> 8);
	assert(packet->data[IPV4_TTL] + 1 == before[IPV4_TTL] && packet->data[IPV4_TTL]);
	assert(tos == before[IPV4_TOS] || tos == (before[IPV4_TOS] | ECN_CE) ||
	       (before[IPV4_TOS] & ECN_MASK && tos == (before[IPV4_TOS] & ~ECN_MASK) + ECN_ECT1));
	assert(!memcmp(packet->data + IPV4_TOTAL_LENGTH, before + IPV4_TOTAL_LENGTH,
		       IPV4_TTL - IPV4_TOTAL_LENGTH));
	assert(!memcmp(packet->data + IPV4_SOURCE, before + IPV4_SOURCE,
		       packet->len - IPV4_SOURCE));
	/* As right or as wrong as it was; 0 and 0xffff are the same sum. */
	assert(checksum_fold(checksum_add(0, packet->data, header_len)) % UINT16_MAX ==
	       checksum_fold(checksum_add(0, before, header_len)) % UINT16_MAX);
}

/* What is asked of a packet after that; all of it must stay within its bounds. */
static void look_at(struct packet *packet, const uint8_t *choices)
{
	if (!packet_is_fragment(packet))
		(void)packet_transport_ok(packet);
	(void)packet_may_fragment(packet);
	(void)packet_finish_checksum(packet, choices[3], choices[4]);
	(void)packet_finish_checksum(packet, get_be16(choices + 3), choices[2]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct routes *routes;
	struct flannel_settings settings = {NETWORK, 16, SUBNET, 24, 0, 1472, 8285, 0};
	struct packet packet = {0};
	enum verdict verdict;
	const uint8_t *choices = data;
	uint8_t *datagram, *before;
	uint32_t host;

	if (len < 5)
		return -1;
	len -= 5;
	if (!routes)
		assert(!routes_new(&routes, list, sizeof(list) / sizeof(list[0])));
	datagram = malloc(len);
	before = malloc(len);
	assert((datagram && before) || !len);
	if (len) {
		memcpy(datagram, data + 5, len);
		adjust(datagram, len, choices[2]);
		memcpy(before, datagram, len);
	}

	settings.flags = choices[0] & FLANNEL_CHECK_SOURCE;
	settings.mtu = choices[0] & 2 ? 1472 : 20u + choices[3];
	host = hosts[(choices[0] >> 2) % (sizeof(hosts) / sizeof(hosts[0]))];
	verdict = verdict_of(&settings, routes, host, choices[1], &packet, datagram, len);
	assert(verdict < N_VERDICTS);
	if (verdict == VERDICT_CARRIED) {
		assert(packet.data == datagram && packet.len <= len);
		assert(packet.len <= settings.mtu || packet_may_fragment(&packet));
		assert(packet.header_len >= IPV4_HEADER_MIN && packet.header_len <= packet.len);
		assert((host & 0xffff0000) != NETWORK);
		if (settings.flags & FLANNEL_CHECK_SOURCE) {
			assert(routes_find(routes, packet_source(&packet)) == host);
			check_carried(&packet, before);
		}
	} else if (verdict != VERDICT_ECN && len) {
		assert(!memcmp(datagram, before, len));
	}
	if (packet.data)
		look_at(&packet, choices);
	free(datagram);
	free(before);
	return 0;
}
