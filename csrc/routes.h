/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_ROUTES_H
#define FLANNEL_ROUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane.h"

struct routes;

int routes_new(struct routes **routes, const struct flannel_route *list, size_t n);
void routes_free(struct routes *routes);
uint32_t routes_find(const struct routes *routes, uint32_t address);
bool routes_has_host(const struct routes *routes, uint32_t host);

#endif
