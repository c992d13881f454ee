/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_PREFIX_H
#define FLANNEL_PREFIX_H

/* Prefixes of IPv4 addresses, in host order. */

#include <stdbool.h>
#include <stdint.h>

#define PREFIX_MAX_LEN 32

/** prefix_mask() - the bits that a prefix of @len bits covers; @len is 0 to PREFIX_MAX_LEN */
static inline uint32_t prefix_mask(uint32_t len)
{
	/* A shift by 32 is undefined. */
	return len ? UINT32_MAX << (PREFIX_MAX_LEN - len) : 0;
}

/** prefix_is_valid() - whether @len is a length, and @address has no bits behind it */
static inline bool prefix_is_valid(uint32_t address, uint32_t len)
{
	return len <= PREFIX_MAX_LEN && !(address & ~prefix_mask(len));
}

/** prefix_contains() - whether the first @len bits of @address are those of @prefix */
static inline bool prefix_contains(uint32_t prefix, uint32_t len, uint32_t address)
{
	return (address & prefix_mask(len)) == prefix;
}

#endif
