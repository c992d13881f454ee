/* SPDX-License-Identifier: Apache-2.0 */

/* Fuzzes gso.c: a byte chooses how the packet is adjusted, two are the segment size. */

#include "gso.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "transport.h"

#define CHOICES_LEN 3

/* Bits of the first byte: what it takes to get far. */
enum {
	IS_WHOLE = 1,
	IS_TCP = 2,
	IS_UDP = 4,
	HAS_OFFSET = 8,
	IS_SMALL = 16,
};

static void adjust(uint8_t *ip, size_t len, uint8_t bits)
{
	size_t header_len = (ip[0] & 0xfu) * 4;

	if (!(bits & IS_WHOLE))
		return;
	ip[0] = (uint8_t)(0x40 | (header_len < IPV4_HEADER_MIN ? 5 : header_len / 4));
	header_len = (ip[0] & 0xfu) * 4;
	put_be16(ip + IPV4_TOTAL_LENGTH, (uint32_t)len);
	if (bits & (IS_TCP | IS_UDP)) {
		put_be16(ip + IPV4_FRAGMENT, IPV4_DF);
		ip[IPV4_PROTOCOL] = bits & IS_TCP ? PROTOCOL_TCP : PROTOCOL_UDP;
	}
	if (bits & HAS_OFFSET && header_len + TCP_HEADER_MIN <= len)
		ip[header_len + TCP_FLAGS] |= 0x50;
}

/* Compare one segment with the super-packet, but for the fields that have to differ. */
static void check_segment(const struct gso *gso, size_t i, const struct packet *whole,
			  struct packet *segment)
{
	const uint8_t *a = whole->data, *b = segment->data;
	size_t ip_len = whole->header_len, at = i * gso->size;
	bool is_last = i + 1 == gso->n_segments;

	assert(segment->header_len == ip_len && packet_transport_ok(segment));
	assert(is_last || segment->len == gso->header_len + gso->size);
	assert(a[IPV4_TOS] == b[IPV4_TOS] && !memcmp(a + IPV4_FRAGMENT, b + IPV4_FRAGMENT, 4));
	assert(!memcmp(a + IPV4_SOURCE, b + IPV4_SOURCE, ip_len - IPV4_SOURCE + 4));
	assert(get_be16(b + IPV4_ID) == (uint16_t)(get_be16(a + IPV4_ID) + i));
	a += ip_len;
	b += ip_len;
	if (whole->data[IPV4_PROTOCOL] == PROTOCOL_UDP) {
		assert(get_be16(b + UDP_LENGTH) == segment->len - ip_len);
		return;
	}
	assert(get_be32(b + TCP_SEQ) == (uint32_t)(get_be32(a + TCP_SEQ) + at));
	assert(!memcmp(a + TCP_ACK_NUMBER, b + TCP_ACK_NUMBER, 4) && a[TCP_FLAGS] == b[TCP_FLAGS]);
	assert(!memcmp(a + TCP_WINDOW, b + TCP_WINDOW, 2));
	assert(!memcmp(a + TCP_URGENT, b + TCP_URGENT, gso->header_len - ip_len - TCP_URGENT));
	assert((a[TCP_FLAGS + 1] & ~b[TCP_FLAGS + 1] &
		~((is_last ? 0 : TCP_FIN | TCP_PSH) | (i ? TCP_CWR : 0))) == 0);
	assert((b[TCP_FLAGS + 1] & ~a[TCP_FLAGS + 1]) == 0);
}

static void cut(const struct packet *whole, size_t size)
{
	struct gso gso;
	size_t done = 0;
	uint8_t *header;
	int err = gso_begin(&gso, whole, size);

	assert(!err || err == -EBADMSG || err == -EPROTONOSUPPORT);
	if (err)
		return;
	assert(gso.header_len <= GSO_HEADER_MAX && gso.n_segments);
	header = malloc(gso.header_len);
	assert(header);
	for (size_t i = 0; i < gso.n_segments; i++) {
		static uint8_t data[UINT16_MAX];
		const uint8_t *payload;
		struct packet segment;
		size_t len = gso_segment(&gso, i, header, &payload);

		assert(payload == whole->data + gso.header_len + done);
		memcpy(data, header, gso.header_len);
		memcpy(data + gso.header_len, payload, len);
		assert(!packet_parse(&segment, data, gso.header_len + len));
		assert(segment.len == gso.header_len + len);
		check_segment(&gso, i, whole, &segment);
		done += len;
	}
	free(header);
	assert(gso.header_len + done == whole->len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct packet packet;
	size_t size;
	uint8_t *copy;

	if (len < CHOICES_LEN + IPV4_HEADER_MIN)
		return -1;
	len -= CHOICES_LEN;
	copy = malloc(len);
	assert(copy);
	memcpy(copy, data + CHOICES_LEN, len);
	adjust(copy, len, data[0]);
	size = data[0] & IS_SMALL ? data[2] : get_be16(data + 1);
	if (!packet_parse(&packet, copy, len))
		cut(&packet, size);
	free(copy);
	return 0;
}
