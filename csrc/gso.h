/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_GSO_H
#define FLANNEL_GSO_H

#include <stddef.h>
#include <stdint.h>

#include "packet.h"

/* An IPv4 and a TCP header, both of their maximum length. */
#define GSO_HEADER_MAX 120

/**
 * struct gso - a super-packet that is cut into segments
 * @header:     the header of all segments; 0 in the fields that differ
 * @header_len: bytes of the IPv4 and the transport header
 * @ip_len:     bytes of the IPv4 header
 * @size:       bytes of payload in each segment; the last may have less
 * @n_segments: number of segments, at least 1
 * @payload:    of the super-packet
 * @payload_len: bytes of it
 * @id:         IPv4 id of the first segment
 * @seq:        TCP sequence number of the first segment
 * @flags:      TCP data offset and flags of the super-packet
 * @ip_sum:     sum over the IPv4 header in @header
 * @sum:        sum over the transport header in @header and the pseudo-header without a length
 */
struct gso {
	uint8_t header[GSO_HEADER_MAX];
	size_t header_len;
	size_t ip_len;
	size_t size;
	size_t n_segments;
	const uint8_t *payload;
	size_t payload_len;
	uint16_t id;
	uint32_t seq;
	uint16_t flags;
	uint64_t ip_sum;
	uint64_t sum;
};

int gso_begin(struct gso *gso, const struct packet *packet, size_t size);
size_t gso_segment(const struct gso *gso, size_t i, uint8_t *header, const uint8_t **payload);

#endif
