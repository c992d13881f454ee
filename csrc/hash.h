/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_HASH_H
#define FLANNEL_HASH_H

#include <stdint.h>

/* 2^32 divided by the golden ratio: Knuth, The Art of Computer Programming, volume 3, 6.4. */
#define HASH_MULTIPLIER UINT32_C(2654435769)

/** hash_join() - a key made of two; it depends on their order */
static inline uint32_t hash_join(uint32_t key, uint32_t more)
{
	return key * 31 + more;
}

/**
 * hash_to_slot() - Fibonacci hashing: the high bits of the product depend on all bits of the key
 * @key:    what is hashed
 * @n_bits: 1 to 32; there are 1 << @n_bits slots
 *
 * Return: a slot.
 */
static inline uint32_t hash_to_slot(uint32_t key, unsigned int n_bits)
{
	return key * HASH_MULTIPLIER >> (32 - n_bits);
}

#endif
