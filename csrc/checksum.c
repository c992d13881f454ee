/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The Internet checksum (RFC 1071) and its update by differences (RFC 1624).
 *
 * One's complement addition is independent of byte order (RFC 1071, 2.B). So every uint16_t here
 * has the bytes of a packet in their order in memory, and none is swapped.
 */

#include "checksum.h"

#include <string.h>

/*
 * Most of the time for a large packet is spent on its sum. The compiler makes a second copy of this
 * function for processors with wider registers; the loader chooses one.
 */
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__clang__)
#define WIDE_REGISTERS __attribute__((target_clones("avx2", "default")))
#else
#define WIDE_REGISTERS
#endif

WIDE_REGISTERS
static uint64_t add_words(uint64_t sum, const uint8_t *words, size_t n_words)
{
	uint32_t word;

	for (size_t i = 0; i < n_words; i++) {
		memcpy(&word, words + i * sizeof(word), sizeof(word));
		sum += word;
	}
	return sum;
}

/**
 * checksum_add() - add bytes to a running sum
 * @sum:  0, or what this function returned for the bytes before
 * @data: the bytes, of any alignment
 * @len:  number of bytes; odd for the last piece of a sum only
 *
 * 32-bit words are added in 64 bits. The carries stay in the high bits, from where checksum_fold()
 * adds them: 2^16 is 1 modulo 2^16 - 1. There is room for 16 GiB.
 *
 * Return: the new sum, for this function or checksum_fold().
 */
uint64_t checksum_add(uint64_t sum, const void *data, size_t len)
{
	const uint8_t *bytes = data;
	size_t rest_len = len % sizeof(uint32_t);
	uint32_t rest = 0; /* padded with zeroes, which add nothing */

	sum = add_words(sum, bytes, len / sizeof(uint32_t));
	if (rest_len)
		memcpy(&rest, bytes + len - rest_len, rest_len);
	return sum + rest;
}

/**
 * checksum_fold() - the 16-bit one's complement sum, not inverted
 * @sum: what checksum_add() returned
 *
 * A header holds the complement, ~checksum_fold(sum). The result over bytes that contain a right
 * checksum is 0xffff.
 *
 * Return: the sum, in the byte order of memory.
 */
uint16_t checksum_fold(uint64_t sum)
{
	/* 64 bits -> 33 -> 32 -> 17 -> 16: each carry can cause one more, and no more than one. */
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return (uint16_t)sum;
}

/**
 * checksum_update() - the new header checksum after a change of one word that it covers
 * @check:  the checksum in the header
 * @before: the old word
 * @after:  the new word
 *
 * Equation 3 of RFC 1624, which is right for both zeroes of one's complement.
 *
 * Return: the new checksum for the header.
 */
uint16_t checksum_update(uint16_t check, uint16_t before, uint16_t after)
{
	uint64_t sum = (uint64_t)(uint16_t)~check + (uint16_t)~before + after;

	return (uint16_t)~checksum_fold(sum);
}

/**
 * checksum_pseudo() - the sum of the pseudo-header of TCP and UDP (RFC 793, 3.1)
 * @addresses: source and destination from the IPv4 header, 8 bytes
 * @protocol:  6 or 17
 * @len:       bytes of the transport's header and payload
 *
 * Return: the sum, for checksum_add() or checksum_fold().
 */
uint64_t checksum_pseudo(const uint8_t *addresses, uint8_t protocol, size_t len)
{
	uint8_t rest[4] = {0, protocol, (uint8_t)(len >> 8), (uint8_t)len};

	return checksum_add(checksum_add(0, addresses, 8), rest, sizeof(rest));
}
