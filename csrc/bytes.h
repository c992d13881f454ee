/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_BYTES_H
#define FLANNEL_BYTES_H

/*
 * Numbers in packets, which have no alignment. load and store copy 16 bits in the order in which
 * they are in memory: enough for a checksum. get and put convert from and to network order.
 */

#include <stdint.h>
#include <string.h>

static inline uint16_t load16(const uint8_t *from)
{
	uint16_t value;

	memcpy(&value, from, sizeof(value));
	return value;
}

static inline void store16(uint8_t *to, uint16_t value)
{
	memcpy(to, &value, sizeof(value));
}

static inline uint16_t get_be16(const uint8_t *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

static inline uint32_t get_be32(const uint8_t *from)
{
	return (uint32_t)get_be16(from) << 16 | get_be16(from + 2);
}

static inline void put_be16(uint8_t *to, uint32_t value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

static inline void put_be32(uint8_t *to, uint32_t value)
{
	put_be16(to, value >> 16);
	put_be16(to + 2, value);
}

#endif
