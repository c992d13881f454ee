/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Generic receive offload: consecutive packets of a flow become one super-packet, which costs the
 * kernel behind the TUN device little more than one of them would.
 *
 * Nothing is lost: the kernel can cut the super-packet into the packets that it was made of. So
 * only packets whose headers agree in every other field are merged, and only after their checksums
 * have been verified, because the kernel does not verify them again.
 *
 * Order is kept within each flow: a packet joins the last group of its flow or opens one behind it,
 * and groups are written in the order in which they were opened. There are no timers: all groups of
 * a batch are written at its end.
 */

#include "gro.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "hash.h"
#include "transport.h"

/**
 * gro_reset() - forget all packets, for the next batch
 * @gro:       to be emptied
 * @merge_udp: see struct gro
 */
void gro_reset(struct gro *gro, bool merge_udp)
{
	gro->merge_udp = merge_udp;
	gro->n = 0;
	memset(gro->open, 0, sizeof(gro->open));
}

/* The slot of a packet's flow. Without ports, one flow gets several slots. */
static uint8_t *slot_of(struct gro *gro, const struct packet *packet)
{
	const uint8_t *ip = packet->data;
	uint32_t key = hash_join(packet_source(packet), packet_destination(packet));

	if (packet->len >= packet->header_len + 4 && !packet_is_fragment(packet))
		key = hash_join(key, get_be32(ip + packet->header_len));
	return &gro->open[hash_to_slot(key ^ ip[IPV4_PROTOCOL], GRO_SLOT_BITS)];
}

/*
 * Bytes of the IPv4 and transport header of a packet that may be merged; 0 if it may not: it is
 * neither TCP nor UDP, has no payload, or has a TCP flag that a super-packet cannot keep.
 */
static size_t mergeable_header_len(const struct gro *gro, const struct packet *packet)
{
	const uint8_t *transport = packet->data + packet->header_len;
	size_t len = (size_t)packet->len - packet->header_len;
	size_t header_len;

	if (packet->header_len != IPV4_HEADER_MIN || packet_is_fragment(packet))
		return 0;

	switch (packet->data[IPV4_PROTOCOL]) {
	case PROTOCOL_TCP:
		if (len <= TCP_HEADER_MIN)
			return 0;
		if ((get_be16(transport + TCP_FLAGS) & TCP_ALL_FLAGS & ~TCP_PSH) != TCP_ACK)
			return 0;
		header_len = tcp_header_len(get_be16(transport + TCP_FLAGS));
		if (header_len < TCP_HEADER_MIN)
			return 0;
		break;
	case PROTOCOL_UDP:
		if (!gro->merge_udp || len < UDP_HEADER_LEN ||
		    get_be16(transport + UDP_LENGTH) != len)
			return 0;
		header_len = UDP_HEADER_LEN;
		break;
	default:
		return 0;
	}
	if (len <= header_len)
		return 0;
	return packet->header_len + header_len;
}

/* Whether a packet has the same headers as those of a group, and is the next of its flow. */
static bool follows(const struct gro_group *group, const struct packet *packet, size_t header_len)
{
	const uint8_t *ip = packet->data, *first = group->first.data;
	const uint8_t *transport = ip + IPV4_HEADER_MIN, *before = first + IPV4_HEADER_MIN;

	if (header_len != group->header_len || packet->len - header_len > group->segment_len ||
	    group->len + (packet->len - header_len) > UINT16_MAX)
		return false;
	if (memcmp(ip, first, IPV4_TOTAL_LENGTH) ||		    /* header length, TOS */
	    memcmp(ip + IPV4_FRAGMENT, first + IPV4_FRAGMENT, 4) || /* DF, TTL, protocol */
	    memcmp(ip + IPV4_SOURCE, first + IPV4_SOURCE, 12))	    /* addresses, ports */
		return false;
	/* The kernel numbers segments. With DF the id has no meaning (RFC 6864). */
	if (packet_may_fragment(packet) &&
	    get_be16(ip + IPV4_ID) !=
		    ((get_be16(first + IPV4_ID) + group->n_segments) & UINT16_MAX))
		return false;
	if (ip[IPV4_PROTOCOL] == PROTOCOL_UDP)
		return true;
	return get_be32(transport + TCP_SEQ) == group->next_seq &&
	       !memcmp(transport + TCP_ACK_NUMBER, before + TCP_ACK_NUMBER, 4) &&
	       !memcmp(transport + TCP_WINDOW, before + TCP_WINDOW, 2) &&
	       !memcmp(transport + TCP_URGENT, before + TCP_URGENT,
		       header_len - IPV4_HEADER_MIN - TCP_URGENT);
}

static void append(struct gro_group *group, const struct packet *packet)
{
	size_t payload_len = packet->len - group->header_len;

	group->n_segments++;
	group->iov[group->n_segments].iov_base = packet->data + group->header_len;
	group->iov[group->n_segments].iov_len = payload_len;
	group->len += payload_len;
	group->next_seq += (uint32_t)payload_len;
}

static struct gro_group *open_group(struct gro *gro, const struct packet *packet)
{
	struct gro_group *group = &gro->groups[gro->n++];

	group->first = *packet;
	group->len = packet->len;
	group->n_segments = 1;
	group->is_pushed = false;
	group->iov[1].iov_base = packet->data;
	group->iov[1].iov_len = packet->len;
	return group;
}

/* Whether the last packet was the last of its group. */
static bool is_complete(const struct gro_group *group, size_t payload_len)
{
	return payload_len < group->segment_len || group->is_pushed ||
	       group->n_segments == GRO_MAX_SEGMENTS;
}

/**
 * gro_add() - add a packet to the batch
 * @gro:    the batch
 * @packet: its bytes must stay valid until the batch is written
 *
 * Return: 0; -ENOBUFS if there is no room: write the batch, reset it and add the packet again.
 */
int gro_add(struct gro *gro, const struct packet *packet)
{
	uint8_t *slot = slot_of(gro, packet);
	size_t header_len = mergeable_header_len(gro, packet);
	struct gro_group *group;
	size_t payload_len;

	/* A packet that cannot be merged is a group by itself. Later ones must not overtake it. */
	if (!header_len || !packet_transport_ok(packet)) {
		if (gro->n == GRO_MAX_GROUPS)
			return -ENOBUFS;
		open_group(gro, packet);
		*slot = 0;
		/* Only the first fragment has ports, so this one may belong to any flow. */
		if (packet_is_fragment(packet))
			memset(gro->open, 0, sizeof(gro->open));
		return 0;
	}

	payload_len = packet->len - header_len;
	group = *slot ? &gro->groups[*slot - 1] : NULL;
	if (group && follows(group, packet, header_len)) {
		append(group, packet);
	} else {
		if (gro->n == GRO_MAX_GROUPS)
			return -ENOBUFS;
		group = open_group(gro, packet);
		group->header_len = header_len;
		group->segment_len = payload_len;
		group->next_seq = get_be32(packet->data + packet->header_len + TCP_SEQ) +
				  (uint32_t)payload_len;
		*slot = (uint8_t)gro->n;
	}
	if (packet->data[IPV4_PROTOCOL] == PROTOCOL_TCP)
		group->is_pushed =
			get_be16(packet->data + packet->header_len + TCP_FLAGS) & TCP_PSH;
	if (is_complete(group, payload_len))
		*slot = 0;
	return 0;
}

/* Make the first packet's header that of the whole, with the transport's checksum still to do. */
static void write_header(struct gro_group *group)
{
	uint8_t *ip = group->first.data;
	uint8_t *transport = ip + IPV4_HEADER_MIN;
	size_t transport_len = group->len - IPV4_HEADER_MIN;
	uint16_t sum =
		checksum_fold(checksum_pseudo(ip + IPV4_SOURCE, ip[IPV4_PROTOCOL], transport_len));

	put_be16(ip + IPV4_TOTAL_LENGTH, (uint32_t)group->len);
	store16(ip + IPV4_CHECKSUM, 0);
	store16(ip + IPV4_CHECKSUM, (uint16_t)~checksum_fold(checksum_add(0, ip, IPV4_HEADER_MIN)));
	if (ip[IPV4_PROTOCOL] == PROTOCOL_TCP) {
		if (group->is_pushed)
			put_be16(transport + TCP_FLAGS, get_be16(transport + TCP_FLAGS) | TCP_PSH);
		store16(transport + TCP_CHECKSUM, sum);
	} else {
		put_be16(transport + UDP_LENGTH, (uint32_t)transport_len);
		store16(transport + UDP_CHECKSUM, sum);
	}
}

/**
 * gro_finish() - make a group ready to be written
 * @group: afterwards its @iov is a packet behind its virtio_net_hdr
 *
 * A packet that stays alone gets an empty virtio_net_hdr even if its checksum was verified: the
 * kernel's tun.c ignores VIRTIO_NET_HDR_F_DATA_VALID.
 */
void gro_finish(struct gro_group *group)
{
	bool is_tcp = group->first.data[IPV4_PROTOCOL] == PROTOCOL_TCP;

	memset(&group->vnet, 0, sizeof(group->vnet));
	if (group->n_segments > 1) {
		write_header(group);
		group->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
		group->vnet.gso_type = is_tcp ? VIRTIO_NET_HDR_GSO_TCPV4 : VNET_GSO_UDP_L4;
		group->vnet.hdr_len = (uint16_t)group->header_len;
		group->vnet.gso_size = (uint16_t)group->segment_len;
		group->vnet.csum_start = IPV4_HEADER_MIN;
		group->vnet.csum_offset = is_tcp ? TCP_CHECKSUM : UDP_CHECKSUM;
	}
	group->iov[0].iov_base = &group->vnet;
	group->iov[0].iov_len = sizeof(group->vnet);
}
