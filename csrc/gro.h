/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_GRO_H
#define FLANNEL_GRO_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "packet.h"

#define GRO_MAX_GROUPS	 64
#define GRO_MAX_SEGMENTS 128
#define GRO_SLOT_BITS	 8

/* VIRTIO_NET_HDR_GSO_UDP_L4 of linux/virtio_net.h, which has it since Linux 6.2. */
#define VNET_GSO_UDP_L4 5

/**
 * struct gro_group - packets that will be written to the TUN device as one
 * @vnet:        describes the group to the kernel; filled in by gro_finish()
 * @first:       the first packet, whose header becomes that of the whole
 * @header_len:  bytes of its IPv4 and transport header
 * @segment_len: bytes of its payload
 * @len:         bytes of the whole, headers once
 * @n_segments:  how many packets
 * @next_seq:    TCP sequence number that follows
 * @is_pushed:   the last segment had TCP's PSH
 * @iov:         @vnet, the first packet, the payload of the others: 1 + @n_segments pieces
 */
struct gro_group {
	struct virtio_net_hdr vnet;
	struct packet first;
	size_t header_len;
	size_t segment_len;
	size_t len;
	size_t n_segments;
	uint32_t next_seq;
	bool is_pushed;
	struct iovec iov[1 + GRO_MAX_SEGMENTS];
};

/**
 * struct gro - the packets of one batch
 * @merge_udp: UDP may be merged too
 * @n:         number of groups
 * @open:      for each hash of a flow, the group that its next packet may join, from 1; 0: none
 * @groups:    in the order in which they have to be written
 */
struct gro {
	bool merge_udp;
	size_t n;
	uint8_t open[1 << GRO_SLOT_BITS];
	struct gro_group groups[GRO_MAX_GROUPS];
};

void gro_reset(struct gro *gro, bool merge_udp);
int gro_add(struct gro *gro, const struct packet *packet);
void gro_finish(struct gro_group *group);

#endif
