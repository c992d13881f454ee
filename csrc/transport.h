/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_TRANSPORT_H
#define FLANNEL_TRANSPORT_H

/* Offsets and lengths in the headers of UDP (RFC 768) and TCP (RFC 9293, 3.1). */

enum {
	UDP_LENGTH = 4,
	UDP_CHECKSUM = 6,
	UDP_HEADER_LEN = 8,

	TCP_SEQ = 4,
	TCP_ACK_NUMBER = 8,
	TCP_FLAGS = 12, /* the data offset in words in the high 4 bits, the flags in the low ones */
	TCP_WINDOW = 14,
	TCP_CHECKSUM = 16,
	TCP_URGENT = 18,
	TCP_HEADER_MIN = 20,
};

/* In the word at TCP_FLAGS. */
#define TCP_FIN	      0x01
#define TCP_PSH	      0x08
#define TCP_ACK	      0x10
#define TCP_CWR	      0x80
#define TCP_ALL_FLAGS 0x0fff

static inline unsigned int tcp_header_len(unsigned int flags)
{
	return (flags >> 12) * 4;
}

#endif
