/* SPDX-License-Identifier: Apache-2.0 */

/*
 * From the peers to the TUN device. For each batch of datagrams:
 *
 * 1. Cut the datagrams that the kernel has merged into those that the peers sent.
 * 2. Let verdict_of() decide about the packet in each.
 * 3. Merge consecutive packets, and write each group at once.
 */

#include "worker.h"

#include <errno.h>
#include <unistd.h>

#include "verdict.h"

static void count_drop(struct flannel_drops *drops, enum verdict verdict)
{
	switch (verdict) {
	case VERDICT_UNKNOWN_PEER:
		drops->rx_unknown_peer++;
		break;
	case VERDICT_SHORT:
		drops->rx_short++;
		break;
	case VERDICT_MALFORMED:
		drops->rx_malformed++;
		break;
	case VERDICT_SPOOFED:
		drops->rx_spoofed++;
		break;
	case VERDICT_NOT_MINE:
		drops->rx_not_mine++;
		break;
	case VERDICT_TOO_BIG:
		drops->rx_too_big++;
		break;
	case VERDICT_TTL:
		drops->rx_ttl++;
		break;
	case VERDICT_ECN:
		drops->rx_ecn++;
		break;
	case VERDICT_CARRIED:
	case N_VERDICTS:
		break;
	}
}

/* The device is deleted: its descriptor stays useless. */
static bool is_gone(int error)
{
	return error == EBADFD || error == EBADF;
}

/* Return: 0; -errno if the device is gone. */
static int write_groups(struct worker *worker)
{
	struct gro *gro = &worker->in.gro;
	struct flannel_stats *stats = &worker->stats;
	int err = 0;

	for (size_t i = 0; i < gro->n && !err; i++) {
		struct gro_group *group = &gro->groups[i];
		size_t headers_len = (group->n_segments - 1) * group->header_len;
		ssize_t written;

		gro_finish(group);
		do {
			written = writev(worker->tun_fd, group->iov, (int)(1 + group->n_segments));
		} while (written < 0 && errno == EINTR);
		if (written < 0) {
			if (is_gone(errno))
				err = -errno;
			stats->drops.rx_refused += group->n_segments;
			continue;
		}
		stats->rx_writes++;
		stats->rx_packets += group->n_segments;
		stats->rx_bytes += group->len + headers_len;
	}
	gro_reset(gro, worker->settings.flags & FLANNEL_MERGE_UDP);
	return err;
}

static int receive_packet(struct worker *worker, const struct udp_received *from, void *data,
			  size_t len)
{
	struct packet packet;
	enum verdict verdict = verdict_of(&worker->settings, worker->routes, from->host, from->tos,
					  &packet, data, len);
	int err = 0;

	if (verdict == VERDICT_CARRIED) {
		if (gro_add(&worker->in.gro, &packet)) {
			err = write_groups(worker);
			(void)gro_add(&worker->in.gro, &packet);
		}
		return err;
	}
	count_drop(&worker->stats.drops, verdict);
	if (verdict == VERDICT_TTL)
		report_to_peer(worker, ICMP_TIME_EXCEEDED, from->host, &packet);
	if (verdict == VERDICT_TOO_BIG)
		report_to_peer(worker, ICMP_FRAGMENTATION_NEEDED, from->host, &packet);
	return 0;
}

/**
 * inbound_turn() - carry the datagrams that wait at the socket, up to one batch
 * @worker: the worker
 *
 * Return: number of messages; -errno if the socket or the TUN device is gone.
 */
int inbound_turn(struct worker *worker)
{
	int n = udp_batch_receive(&worker->in.batch, worker->udp_fd);
	int err = 0;

	if (n <= 0)
		return n;
	worker->stats.rx_batches++;
	gro_reset(&worker->in.gro, worker->settings.flags & FLANNEL_MERGE_UDP);
	for (int i = 0; i < n && !err; i++) {
		struct udp_received received;
		size_t at = 0;

		udp_batch_get(&worker->in.batch, (size_t)i, &received);
		do {
			size_t rest = received.len - at;
			size_t len = rest < received.size ? rest : received.size;

			err = receive_packet(worker, &received, received.data + at, len);
			at += len;
		} while (at < received.len && !err);
	}
	if (!err)
		err = write_groups(worker);
	return err ? err : n;
}
