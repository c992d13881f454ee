/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fuzzes gro.c, and gso.c with what it made: whatever is merged and cut again must be the packets
 * that came, in the same order in each flow.
 *
 * The input is a list of packets: struct choices, then bytes. Most are the next packet of an
 * earlier one's flow, with one byte changed perhaps.
 */

#include "gro.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "gso.h"
#include "transport.h"

#define MAX_PACKETS 200
#define MAX_LEN	    3000 /* bytes; more than 20 of them do not fit one super-packet */

/**
 * struct choices - how a packet is made
 * @how:   bits of enum how
 * @back:  how many packets ago was the one that it follows
 * @len:   bytes of payload of one that follows, else of all
 * @at:    which byte of its header is changed
 * @value: to what
 */
struct choices {
	uint8_t how;
	uint8_t back;
	uint8_t len;
	uint8_t at;
	uint8_t value;
};

enum how {
	IS_RAW = 1,	   /* made of the input's bytes, and follows none */
	IS_CHANGED = 2,	   /* @at, @value */
	IS_DAMAGED = 4,	   /* its checksums are left as they are */
	IS_SAME_SIZE = 8,  /* as long as the one before, whatever @len is */
	IS_LARGE = 16 + 32 /* @len counts more */
};

/* A packet as it came, and whether it has been found again. */
struct sent {
	struct packet packet; /* in memory of its own, which gro.c may change */
	uint8_t before[MAX_LEN];
	bool is_found;
};

static struct sent sent[MAX_PACKETS];
static size_t n_sent;
static size_t n_found; /* so many, from the first, have been found without a gap */
static struct gro gro;

static size_t transport_len(const struct packet *packet)
{
	return (size_t)packet->len - packet->header_len;
}

static void write_checksums(const struct packet *packet)
{
	uint8_t *ip = packet->data, *transport = ip + packet->header_len;
	size_t len = transport_len(packet);
	bool is_tcp = ip[IPV4_PROTOCOL] == PROTOCOL_TCP;
	uint8_t *check = transport + (is_tcp ? TCP_CHECKSUM : UDP_CHECKSUM);
	uint64_t sum = checksum_pseudo(ip + IPV4_SOURCE, ip[IPV4_PROTOCOL], len);
	uint16_t folded;

	store16(ip + IPV4_CHECKSUM, 0);
	store16(ip + IPV4_CHECKSUM,
		(uint16_t)~checksum_fold(checksum_add(0, ip, packet->header_len)));
	if (len < (is_tcp ? TCP_HEADER_MIN : UDP_HEADER_LEN))
		return;
	store16(check, 0);
	folded = (uint16_t)~checksum_fold(checksum_add(sum, transport, len));
	store16(check, folded || is_tcp ? folded : 0xffff);
}

/* The headers of an earlier packet, as many bytes of payload, and what a sender counts counted. */
static size_t make_next(uint8_t *data, const struct sent *from, size_t payload_len, uint8_t salt)
{
	const uint8_t *ip = from->before;
	size_t header_len = from->packet.header_len, old_len = from->packet.len;
	bool is_tcp = ip[IPV4_PROTOCOL] == PROTOCOL_TCP;

	header_len += is_tcp ? TCP_HEADER_MIN : UDP_HEADER_LEN;
	if (is_tcp && header_len <= old_len) {
		size_t stated = tcp_header_len(get_be16(ip + from->packet.header_len + TCP_FLAGS));

		header_len = from->packet.header_len + (stated < TCP_HEADER_MIN ? 20 : stated);
	}
	if (header_len > old_len)
		header_len = old_len;
	memcpy(data, ip, header_len);
	for (size_t i = 0; i < payload_len; i++)
		data[header_len + i] = (uint8_t)(salt + i * 7);
	put_be16(data + IPV4_TOTAL_LENGTH, (uint32_t)(header_len + payload_len));
	put_be16(data + IPV4_ID, get_be16(data + IPV4_ID) + 1u);
	data += from->packet.header_len;
	if (is_tcp && header_len >= from->packet.header_len + (size_t)TCP_HEADER_MIN)
		put_be32(data + TCP_SEQ,
			 get_be32(data + TCP_SEQ) + (uint32_t)(old_len - header_len));
	if (!is_tcp && header_len >= from->packet.header_len + (size_t)UDP_HEADER_LEN)
		put_be16(data + UDP_LENGTH, (uint32_t)(UDP_HEADER_LEN + payload_len));
	return header_len + payload_len;
}

static size_t payload_len(const struct choices *choices, const struct sent *from)
{
	size_t len = choices->len;

	if (choices->how & IS_SAME_SIZE) {
		size_t header_len = from->packet.header_len;

		header_len += from->before[IPV4_PROTOCOL] == PROTOCOL_TCP ? 20 : 8;
		return from->packet.len > header_len ? from->packet.len - header_len : 1;
	}
	return (choices->how & IS_LARGE) == IS_LARGE ? len * 8 : len % 64;
}

/* Make one packet. Return: bytes of the input that are used up, 0 if there are too few. */
static size_t make(const uint8_t *input, size_t len)
{
	static uint8_t data[MAX_LEN];
	struct sent *new = &sent[n_sent];
	struct choices choices;
	struct packet packet;
	size_t data_len, used = sizeof(choices);

	if (len < sizeof(choices))
		return 0;
	memcpy(&choices, input, sizeof(choices));
	if (choices.how & IS_RAW || !n_sent) {
		data_len = IPV4_HEADER_MIN + UDP_HEADER_LEN + choices.len % 64;
		if (len - used < data_len)
			return 0;
		memcpy(data, input + used, data_len);
		used += data_len;
		data[0] = (uint8_t)(choices.at & 8 ? 0x46 : 0x45);
		put_be16(data + IPV4_TOTAL_LENGTH, (uint32_t)data_len);
		data[IPV4_PROTOCOL] = choices.at & 1 ? PROTOCOL_TCP : PROTOCOL_UDP;
		if (choices.at & 2) {
			put_be16(data + IPV4_FRAGMENT, choices.at & 4 ? IPV4_DF : 0);
			put_be16(data + IPV4_HEADER_MIN + UDP_LENGTH,
				 (uint32_t)data_len - IPV4_HEADER_MIN);
		}
		if (choices.at & 3 && data_len >= 40)
			put_be16(data + IPV4_HEADER_MIN + TCP_FLAGS,
				 choices.value & 1 ? 0x5010 : 0x6018);
	} else {
		const struct sent *from = &sent[n_sent - 1 - choices.back % n_sent];
		size_t payload = payload_len(&choices, from);

		if (payload > MAX_LEN - 100)
			payload = MAX_LEN - 100;
		data_len = make_next(data, from, payload, choices.value);
	}
	if (choices.how & IS_CHANGED)
		data[choices.at % data_len] = choices.value;
	if (packet_parse(&packet, data, data_len))
		return used;
	if (!(choices.how & IS_DAMAGED))
		write_checksums(&packet);
	new->packet = packet;
	new->packet.data = malloc(packet.len);
	assert(new->packet.data);
	memcpy(new->packet.data, data, packet.len);
	memcpy(new->before, data, packet.len);
	new->is_found = false;
	n_sent++;
	return used;
}

/* Two packets may be of one flow: a fragment that is not the first does not show which. */
static bool is_same_flow(const struct packet *a, const uint8_t *a_data, const struct packet *b)
{
	size_t len = 4;

	if (a_data[IPV4_PROTOCOL] != b->data[IPV4_PROTOCOL] ||
	    memcmp(a_data + IPV4_SOURCE, b->data + IPV4_SOURCE, 8))
		return false;
	if (get_be16(a_data + IPV4_FRAGMENT) & IPV4_FRAGMENT_OFFSET ||
	    get_be16(b->data + IPV4_FRAGMENT) & IPV4_FRAGMENT_OFFSET)
		return true;
	if (transport_len(a) < len || transport_len(b) < len)
		return transport_len(a) < len && transport_len(b) < len;
	return !memcmp(a_data + a->header_len, b->data + b->header_len, len);
}

/* Zero has two representations in one's complement. */
static bool is_same_sum(const uint8_t *a, const uint8_t *b)
{
	return load16(a) % UINT16_MAX == load16(b) % UINT16_MAX;
}

static bool is_same(const uint8_t *a, const uint8_t *b, const struct packet *shape)
{
	size_t ip_len = shape->header_len;
	size_t check = ip_len + TCP_CHECKSUM;

	if (memcmp(a, b, IPV4_ID) || memcmp(a + IPV4_FRAGMENT, b + IPV4_FRAGMENT, 4))
		return false;
	/* The id has a meaning only where a packet may be fragmented. */
	if (packet_may_fragment(shape) && (memcmp(a + IPV4_ID, b + IPV4_ID, 2) ||
					   !is_same_sum(a + IPV4_CHECKSUM, b + IPV4_CHECKSUM)))
		return false;
	if (a[IPV4_PROTOCOL] != PROTOCOL_TCP || shape->len < ip_len + TCP_HEADER_MIN)
		return !memcmp(a + IPV4_SOURCE, b + IPV4_SOURCE, shape->len - IPV4_SOURCE);
	return !memcmp(a + IPV4_SOURCE, b + IPV4_SOURCE, check - IPV4_SOURCE) &&
	       is_same_sum(a + check, b + check) &&
	       !memcmp(a + check + 2, b + check + 2, shape->len - check - 2);
}

/* The oldest packet of its flow that has not been found must be this one. */
static void find(const struct packet *packet)
{
	for (size_t i = n_found; i < n_sent; i++) {
		struct sent *each = &sent[i];

		if (each->is_found || !is_same_flow(&each->packet, each->before, packet))
			continue;
		assert(each->packet.len == packet->len &&
		       each->packet.header_len == packet->header_len);
		assert(is_same(each->before, packet->data, packet));
		each->is_found = true;
		while (n_found < n_sent && sent[n_found].is_found)
			n_found++;
		return;
	}
	abort(); /* this packet was not sent */
}

static void check_segments(const struct packet *whole, size_t size)
{
	struct gso gso;

	assert(!gso_begin(&gso, whole, size));
	for (size_t i = 0; i < gso.n_segments; i++) {
		static uint8_t data[UINT16_MAX];
		const uint8_t *payload;
		struct packet packet;
		size_t len = gso_segment(&gso, i, data, &payload);

		memcpy(data + gso.header_len, payload, len);
		assert(!packet_parse(&packet, data, gso.header_len + len));
		find(&packet);
	}
}

static void check_group(struct gro_group *group)
{
	static uint8_t data[UINT16_MAX];
	const struct virtio_net_hdr *vnet = &group->vnet;
	struct packet packet;
	size_t len = 0;

	gro_finish(group);
	assert(group->iov[0].iov_base == vnet && group->iov[0].iov_len == 10);
	for (size_t i = 1; i <= group->n_segments; i++) {
		assert(len + group->iov[i].iov_len <= sizeof(data));
		memcpy(data + len, group->iov[i].iov_base, group->iov[i].iov_len);
		len += group->iov[i].iov_len;
	}
	assert(!packet_parse(&packet, data, len) && packet.len == len && group->len == len);
	if (vnet->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
		assert(group->n_segments == 1);
		assert(!vnet->flags);
		find(&packet);
		return;
	}
	assert(vnet->flags == VIRTIO_NET_HDR_F_NEEDS_CSUM && vnet->csum_start == IPV4_HEADER_MIN);
	assert((len - vnet->hdr_len + vnet->gso_size - 1) / vnet->gso_size == group->n_segments);
	/* The sum of the pseudo-header is there, so that the device can do the rest. */
	assert(!packet_finish_checksum(&packet, vnet->csum_start, vnet->csum_offset));
	assert(packet_transport_ok(&packet));
	check_segments(&packet, vnet->gso_size);
}

static void check_batch(void)
{
	for (size_t i = 0; i < gro.n; i++)
		check_group(&gro.groups[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	bool merge_udp = len && data[0] & 0x80;
	size_t used;

	n_sent = 0;
	n_found = 0;
	gro_reset(&gro, merge_udp);
	while (n_sent < MAX_PACKETS && (used = make(data, len))) {
		data += used;
		len -= used;
	}
	for (size_t i = 0; i < n_sent; i++) {
		if (!gro_add(&gro, &sent[i].packet))
			continue;
		assert(gro.n == GRO_MAX_GROUPS);
		check_batch();
		gro_reset(&gro, merge_udp);
		assert(!gro_add(&gro, &sent[i].packet));
	}
	check_batch();
	assert(n_found == n_sent);
	for (size_t i = 0; i < n_sent; i++)
		free(sent[i].packet.data);
	return 0;
}
