/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_DATAPLANE_H
#define FLANNEL_DATAPLANE_H

#include <stddef.h>
#include <stdint.h>

#include "dataplane.cdef"

#endif
