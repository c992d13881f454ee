/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Generic segmentation offload, in software. The kernel hands super-packets to the TUN device
 * (TUN_F_TSO4, TUN_F_USO4) as to a network card; this file cuts them as the card would.
 *
 * Each segment gets a header of its own. The payload stays where it is and is read once, for the
 * checksum. The part of the checksum that all segments have in common is summed once.
 */

#include "gso.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "transport.h"

/* Saves the fields that differ between segments, and sets them to 0. */
static void begin_tcp(struct gso *gso)
{
	uint8_t *tcp = gso->header + gso->ip_len;

	gso->seq = get_be32(tcp + TCP_SEQ);
	gso->flags = get_be16(tcp + TCP_FLAGS);
	memset(tcp + TCP_SEQ, 0, sizeof(gso->seq));
	memset(tcp + TCP_FLAGS, 0, sizeof(gso->flags));
	memset(tcp + TCP_CHECKSUM, 0, sizeof(uint16_t));
}

/**
 * gso_begin() - prepare to cut a super-packet
 * @gso:    filled in
 * @packet: the super-packet; its payload must stay valid until the last segment is made
 * @size:   bytes of payload in a segment, as gso_size of virtio_net_hdr
 *
 * Return: 0; -EBADMSG if its headers are incomplete, or it is a fragment; -EPROTONOSUPPORT if it is
 * neither TCP nor UDP.
 */
int gso_begin(struct gso *gso, const struct packet *packet, size_t size)
{
	const uint8_t *transport = packet->data + packet->header_len;
	size_t transport_len = (size_t)packet->len - packet->header_len;
	uint8_t protocol = packet->data[IPV4_PROTOCOL];
	size_t header_len;

	if (!size || packet_is_fragment(packet))
		return -EBADMSG;
	if (protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP)
		return -EPROTONOSUPPORT;
	if (protocol == PROTOCOL_UDP) {
		header_len = UDP_HEADER_LEN;
	} else {
		if (transport_len < TCP_HEADER_MIN)
			return -EBADMSG;
		header_len = tcp_header_len(get_be16(transport + TCP_FLAGS));
		if (header_len < TCP_HEADER_MIN)
			return -EBADMSG;
	}
	if (transport_len < header_len)
		return -EBADMSG;

	gso->ip_len = packet->header_len;
	gso->header_len = gso->ip_len + header_len;
	gso->size = size;
	gso->payload = transport + header_len;
	gso->payload_len = transport_len - header_len;
	gso->n_segments = gso->payload_len ? (gso->payload_len + size - 1) / size : 1;

	memcpy(gso->header, packet->data, gso->header_len);
	gso->id = get_be16(gso->header + IPV4_ID);
	memset(gso->header + IPV4_TOTAL_LENGTH, 0, 2 * sizeof(uint16_t)); /* and IPV4_ID */
	memset(gso->header + IPV4_CHECKSUM, 0, sizeof(uint16_t));
	if (protocol == PROTOCOL_TCP) {
		begin_tcp(gso);
	} else {
		memset(gso->header + gso->ip_len + UDP_LENGTH, 0, 2 * sizeof(uint16_t));
	}
	gso->ip_sum = checksum_add(0, gso->header, gso->ip_len);
	gso->sum = checksum_add(checksum_pseudo(gso->header + IPV4_SOURCE, protocol, 0),
				gso->header + gso->ip_len, header_len);
	return 0;
}

/* The sum of a 16-bit number in network order. */
static uint64_t sum_be16(uint32_t value)
{
	uint8_t bytes[sizeof(uint16_t)];

	put_be16(bytes, value);
	return load16(bytes);
}

/**
 * gso_segment() - make one segment
 * @gso:     what gso_begin() filled in
 * @i:       which one, from 0 to @gso->n_segments - 1
 * @header:  place for its header, @gso->header_len bytes
 * @payload: set to its payload, in the super-packet
 *
 * Return: bytes of payload.
 */
size_t gso_segment(const struct gso *gso, size_t i, uint8_t *header, const uint8_t **payload)
{
	uint8_t *transport = header + gso->ip_len;
	size_t at = i * gso->size;
	bool is_last = i + 1 == gso->n_segments;
	size_t len = is_last ? gso->payload_len - at : gso->size;
	uint32_t total_len = (uint32_t)(gso->header_len + len);
	uint32_t transport_len = (uint32_t)(total_len - gso->ip_len);
	uint32_t id = (gso->id + (uint32_t)i) & 0xffff;
	uint64_t sum = checksum_add(gso->sum, gso->payload + at, len) + sum_be16(transport_len);
	uint16_t check;

	memcpy(header, gso->header, gso->header_len);
	put_be16(header + IPV4_TOTAL_LENGTH, total_len);
	put_be16(header + IPV4_ID, id);
	store16(header + IPV4_CHECKSUM,
		(uint16_t)~checksum_fold(gso->ip_sum + sum_be16(total_len) + sum_be16(id)));

	if (header[IPV4_PROTOCOL] == PROTOCOL_TCP) {
		uint32_t seq = gso->seq + (uint32_t)at;
		uint32_t flags = gso->flags;

		/* Like the kernel's tcp_gso_segment(). */
		if (!is_last)
			flags &= ~(uint32_t)(TCP_FIN | TCP_PSH);
		if (i)
			flags &= ~(uint32_t)TCP_CWR;
		put_be32(transport + TCP_SEQ, seq);
		put_be16(transport + TCP_FLAGS, flags);
		sum += sum_be16(seq >> 16) + sum_be16(seq & 0xffff) + sum_be16(flags);
		store16(transport + TCP_CHECKSUM, (uint16_t)~checksum_fold(sum));
	} else {
		put_be16(transport + UDP_LENGTH, transport_len);
		check = (uint16_t)~checksum_fold(sum + sum_be16(transport_len));
		store16(transport + UDP_CHECKSUM, check ? check : 0xffff);
	}
	*payload = gso->payload + at;
	return len;
}
