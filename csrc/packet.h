/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_PACKET_H
#define FLANNEL_PACKET_H

#include <stddef.h>
#include <stdint.h>

/**
 * struct packet - a view of an IPv4 packet whose bounds have been checked
 * @data:       first byte of the IPv4 header; the bytes belong to the caller
 * @header_len: bytes of the IPv4 header with its options, 20 to 60
 * @len:        bytes of the whole packet with its header; what follows is not part of it
 *
 * Always @header_len <= @len, and @len bytes at @data may be read and written.
 */
struct packet {
	uint8_t *data;
	uint16_t header_len;
	uint16_t len;
};

int packet_parse(struct packet *packet, void *data, size_t len);
int packet_decrement_ttl(struct packet *packet);

#endif
