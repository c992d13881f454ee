/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_PACKET_H
#define FLANNEL_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Offsets in an IPv4 header, RFC 791, 3.1. */
enum {
	IPV4_TOS = 1,
	IPV4_TOTAL_LENGTH = 2,
	IPV4_ID = 4,
	IPV4_FRAGMENT = 6,
	IPV4_TTL = 8,
	IPV4_PROTOCOL = 9,
	IPV4_CHECKSUM = 10,
	IPV4_SOURCE = 12,
	IPV4_DESTINATION = 16,
	IPV4_HEADER_MIN = 20,
	IPV4_HEADER_MAX = 60,
};

#define IPV4_DF		     0x4000 /* in the word at IPV4_FRAGMENT: do not fragment */
#define IPV4_MF		     0x2000 /* more fragments follow */
#define IPV4_FRAGMENT_OFFSET 0x1fff

/* The two low bits of the TOS, RFC 3168, 5. */
enum ecn {
	ECN_NONE = 0, /* the transport does not know ECN */
	ECN_ECT1 = 1, /* it does; figure 4 of RFC 6040 distinguishes these two */
	ECN_ECT0 = 2,
	ECN_CE = 3, /* congestion experienced */
	ECN_MASK = 3,
};

enum {
	PROTOCOL_ICMP = 1,
	PROTOCOL_TCP = 6,
	PROTOCOL_UDP = 17,
};

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
uint32_t packet_source(const struct packet *packet);
uint32_t packet_destination(const struct packet *packet);
bool packet_is_fragment(const struct packet *packet);
bool packet_may_fragment(const struct packet *packet);
int packet_propagate_ecn(struct packet *packet, uint8_t tos);
bool packet_transport_ok(const struct packet *packet);
int packet_finish_checksum(struct packet *packet, size_t start, size_t offset);

#endif
