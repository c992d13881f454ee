/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_CHECKSUM_H
#define FLANNEL_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t checksum_add(uint64_t sum, const void *data, size_t len);
uint16_t checksum_fold(uint64_t sum);
uint16_t checksum_update(uint16_t check, uint16_t before, uint16_t after);
uint64_t checksum_pseudo(const uint8_t *addresses, uint8_t protocol, size_t len);

#endif
