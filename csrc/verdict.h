/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_VERDICT_H
#define FLANNEL_VERDICT_H

#include <stddef.h>
#include <stdint.h>

#include "dataplane.h"
#include "packet.h"
#include "routes.h"

/** enum verdict - whether a received packet is carried; all but the first are counted drops */
enum verdict {
	VERDICT_CARRIED,
	VERDICT_UNKNOWN_PEER,
	VERDICT_SHORT,
	VERDICT_MALFORMED,
	VERDICT_SPOOFED,
	VERDICT_NOT_MINE,
	VERDICT_TOO_BIG,
	VERDICT_TTL,
	VERDICT_ECN,
	N_VERDICTS,
};

enum verdict verdict_of(const struct flannel_settings *settings, const struct routes *routes,
			uint32_t host, uint8_t tos, struct packet *packet, void *data, size_t len);

#endif
