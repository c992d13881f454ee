/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation
 *
 * A packet takes one hop where it enters the tunnel and another where it leaves it, and both
 * treat it alike:
 *
 * 1. packet_parse() looks at what was read and finds the packet in it, or refuses.
 * 2. packet_decrement_ttl() counts the hop.
 *
 * The loop that moves packets between the TUN device and the UDP socket is not here yet.
 */

#include "dataplane.h"

#include "packet.h"

/**
 * flannel_forward() - do to one IPv4 packet what a hop of the tunnel does
 * @data: the packet, changed in place
 * @len:  bytes at @data; those after the end of the packet are ignored
 *
 * Return: bytes to send on, from @data; -EBADMSG or -EPROTONOSUPPORT as of packet_parse(), -ETIME
 * as of packet_decrement_ttl(). On failure @data is as it was.
 */
int flannel_forward(void *data, size_t len)
{
	struct packet packet;
	int err;

	err = packet_parse(&packet, data, len);
	if (err)
		return err;

	err = packet_decrement_ttl(&packet);
	if (err)
		return err;

	return packet.len;
}
