/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_ICMP_H
#define FLANNEL_ICMP_H

#include <stddef.h>
#include <stdint.h>

#include "packet.h"

/* An error quotes as much of the packet as fits: RFC 1812, 4.3.2.3. */
#define ICMP_ERROR_MAX 576

/** enum icmp_error - reasons; type and code of RFC 792, type in the high byte */
enum icmp_error {
	ICMP_NET_UNREACHABLE = 3 << 8 | 0,
	ICMP_FRAGMENTATION_NEEDED = 3 << 8 | 4,
	ICMP_TIME_EXCEEDED = 11 << 8 | 0,
};

size_t icmp_build(uint8_t buffer[ICMP_ERROR_MAX], enum icmp_error error, uint32_t mtu,
		  uint32_t source, const struct packet *about);

#endif
