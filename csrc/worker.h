/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FLANNEL_WORKER_H
#define FLANNEL_WORKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>

#include "dataplane.h"
#include "gro.h"
#include "gso.h"
#include "icmp.h"
#include "routes.h"
#include "udp.h"

#define ICMP_SLOT_BITS	10
#define WORKER_N_EVENTS 3 /* one for each descriptor */

/* Bytes read from the TUN device before they are sent, and room for one more packet at the end. */
#define TUN_BATCH_LEN (256 * 1024)
#define TUN_READ_MAX  (sizeof(struct virtio_net_hdr) + UINT16_MAX)

/**
 * struct outbound - a batch on its way from the TUN device to the peers
 * @queue:       the datagrams to send
 * @n_scratch:   bytes in use of @scratch
 * @scratch:     headers of segments
 * @buffer:      the packets as they were read
 */
struct outbound {
	struct udp_queue queue;
	size_t n_scratch;
	uint8_t scratch[UDP_MAX_MESSAGES * UDP_MAX_SEGMENTS * GSO_HEADER_MAX];
	uint8_t buffer[TUN_BATCH_LEN + TUN_READ_MAX];
};

/**
 * struct inbound - a batch on its way from the peers to the TUN device
 * @batch: the datagrams as they were received
 * @gro:   the packets in them
 */
struct inbound {
	struct udp_batch batch;
	struct gro gro;
};

/**
 * struct icmp_limit - keeps ICMP errors few
 * @second: the last second in which there was one, of the monotonic clock
 * @n:      number of errors in it
 */
struct icmp_limit {
	time_t second;
	unsigned int n;
};

/**
 * struct worker - one thread inside flannel_run(); no other thread uses it
 * @settings: a copy, refreshed between batches
 * @routes:   likewise, a reference
 * @stats:    copied out between batches
 * @icmp_of_sender: errors of one kind to one sender; each hash of both has a slot
 * @icmp_of_all:    all errors
 * @n_events: number of descriptors that are ready, for the next turn
 * @events:   which ones, and for what
 */
struct worker {
	int tun_fd;
	int udp_fd;
	int epoll_fd;
	struct flannel_settings settings;
	const struct routes *routes;
	struct flannel_stats stats;
	struct icmp_limit icmp_of_sender[1 << ICMP_SLOT_BITS];
	struct icmp_limit icmp_of_all;
	int n_events;
	struct epoll_event events[WORKER_N_EVENTS];
	struct outbound out;
	struct inbound in;
};

int worker_open(struct worker *worker, int tun_fd, int udp_fd, int stop_fd);
void worker_close(struct worker *worker);
int worker_wait(struct worker *worker);
int worker_turn(struct worker *worker);

int outbound_turn(struct worker *worker);
int inbound_turn(struct worker *worker);

void report_to_tun(struct worker *worker, enum icmp_error error, const struct packet *about);
void report_to_peer(struct worker *worker, enum icmp_error error, uint32_t host,
		    const struct packet *about);

#endif
