/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Theory of operation
 *
 * A packet for a container on another host leaves the kernel through a TUN device and travels to
 * that host as the payload of one UDP datagram, without a header of our own. There it enters the
 * kernel through another TUN device.
 *
 *    containers ── kernel ── TUN device ── outbound.c ─┐
 *                                                      ├─ UDP socket ── underlay ── peers
 *    containers ── kernel ── TUN device ── inbound.c ──┘
 *
 * Calls, wake-ups and passes through the kernel's stack cost more than bytes do. So everything is
 * moved in pieces as large as the kernel gives and takes: super-packets of up to 64 kB at the TUN
 * device, many packets of one size in one message at the socket, many messages in one call. None of
 * this changes the wire, and a peer may move one packet at a time.
 *
 * flannel_run() is the loop of one thread; worker.c has its turns. Nothing is allocated for a
 * packet: struct worker has room for a whole batch.
 *
 * Threads
 *
 * Any thread may call flannel_set(), flannel_set_routes() and flannel_get_stats() at any time, and
 * several may be in flannel_run(), each with its own descriptors. One lock protects all that they
 * share, and is never held for longer than it takes to copy a struct: between batches a worker
 * takes over new settings and routes and publishes its counters. A table that has been replaced is
 * freed when the last worker that reads it takes over the new one.
 */

#include "dataplane.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "prefix.h"
#include "worker.h"

/**
 * struct table - a routing table and the number of its readers
 * @routes:  the table
 * @n_users: the workers that read it, and one more if it is the current table
 */
struct table {
	struct routes *routes;
	unsigned int n_users;
};

/**
 * struct member - a worker as the other threads see it
 * @table: the one it reads
 * @seen:  the version of the settings and routes that it has taken over
 * @stats: its counters as of its last turn
 * @next:  another worker
 */
struct member {
	struct worker worker;
	struct table *table;
	uint64_t seen;
	struct flannel_stats stats;
	struct member *next;
};

/**
 * struct flannel_dataplane - the state that threads share, protected by @lock
 * @version: counts the changes of @settings and @table
 * @past:    counters of workers that have ended
 * @members: workers that run
 */
struct flannel_dataplane {
	pthread_mutex_t lock;
	uint64_t version;
	struct flannel_settings settings;
	struct table *table;
	struct flannel_stats past;
	struct member *members;
};

static int table_new(struct table **table, const struct flannel_route *routes, size_t n)
{
	struct table *made = calloc(1, sizeof(*made));
	int err;

	if (!made)
		return -ENOMEM;
	err = routes_new(&made->routes, routes, n);
	if (err) {
		free(made);
		return err;
	}
	made->n_users = 1;
	*table = made;
	return 0;
}

/* Under the lock: one user less. Return: the table if the caller has to free it, unlocked. */
static struct table *table_put(struct table *table)
{
	return table && !--table->n_users ? table : NULL;
}

static void table_free(struct table *table)
{
	if (!table)
		return;
	routes_free(table->routes);
	free(table);
}

static int validate_settings(const struct flannel_settings *settings)
{
	if (!settings->network_len || !settings->subnet_len ||
	    !prefix_is_valid(settings->network, settings->network_len) ||
	    !prefix_is_valid(settings->subnet, settings->subnet_len))
		return -EINVAL;
	if (!settings->port || settings->mtu < IPV4_HEADER_MIN || settings->mtu > UINT16_MAX)
		return -EINVAL;
	return 0;
}

/**
 * flannel_new() - make a dataplane without routes
 * @dataplane: set on success, to be freed with flannel_free()
 * @settings:  of this host
 *
 * Return: 0; -EINVAL if the settings contradict themselves; -ENOMEM.
 */
int flannel_new(flannel_dataplane **dataplane, const struct flannel_settings *settings)
{
	flannel_dataplane *made;
	int err = validate_settings(settings);

	if (err)
		return err;
	made = calloc(1, sizeof(*made));
	if (!made)
		return -ENOMEM;
	err = table_new(&made->table, NULL, 0);
	if (!err)
		err = -pthread_mutex_init(&made->lock, NULL);
	if (err) {
		table_free(made->table);
		free(made);
		return err;
	}
	made->settings = *settings;
	made->version = 1;
	*dataplane = made;
	return 0;
}

/** flannel_free() - free it; no thread may be in any function of this file. NULL is allowed */
void flannel_free(flannel_dataplane *dataplane)
{
	if (!dataplane)
		return;
	table_free(dataplane->table);
	pthread_mutex_destroy(&dataplane->lock);
	free(dataplane);
}

/**
 * flannel_set() - change the settings while packets flow
 * @dataplane: the dataplane
 * @settings:  the new ones
 *
 * Return: 0; -EINVAL as of flannel_new(): the old ones stay.
 */
int flannel_set(flannel_dataplane *dataplane, const struct flannel_settings *settings)
{
	int err = validate_settings(settings);

	if (err)
		return err;
	pthread_mutex_lock(&dataplane->lock);
	dataplane->settings = *settings;
	dataplane->version++;
	pthread_mutex_unlock(&dataplane->lock);
	return 0;
}

/**
 * flannel_set_routes() - replace the whole table while packets flow
 * @dataplane: the dataplane
 * @routes:    the host of each subnet, in any order
 * @n:         number of routes
 *
 * Each packet is routed by the old table or by the new one. Packets that are read from the TUN
 * device after this function has returned, and after the current batch, are routed by the new one.
 *
 * Return: 0; on failure the old table stays: -EINVAL, -EEXIST, -ENOMEM as of routes_new().
 */
int flannel_set_routes(flannel_dataplane *dataplane, const struct flannel_route *routes, size_t n)
{
	struct table *made;
	struct table *old;
	int err = table_new(&made, routes, n);

	if (err)
		return err;
	pthread_mutex_lock(&dataplane->lock);
	old = table_put(dataplane->table);
	dataplane->table = made;
	dataplane->version++;
	pthread_mutex_unlock(&dataplane->lock);
	table_free(old);
	return 0;
}

/* All of struct flannel_stats is uint64_t; given_up is a set of flags. */
static void add_stats(struct flannel_stats *sum, const struct flannel_stats *more)
{
	uint64_t given_up = sum->given_up | more->given_up;
	uint64_t *to = (uint64_t *)sum;
	const uint64_t *from = (const uint64_t *)more;

	for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
		to[i] += from[i];
	sum->given_up = given_up;
}

/**
 * flannel_get_stats() - the counters of all workers, those that have ended included
 * @dataplane: the dataplane
 * @stats:     filled in
 */
void flannel_get_stats(flannel_dataplane *dataplane, struct flannel_stats *stats)
{
	pthread_mutex_lock(&dataplane->lock);
	*stats = dataplane->past;
	for (const struct member *each = dataplane->members; each; each = each->next)
		add_stats(stats, &each->stats);
	pthread_mutex_unlock(&dataplane->lock);
}

static void join(flannel_dataplane *dataplane, struct member *member)
{
	pthread_mutex_lock(&dataplane->lock);
	member->next = dataplane->members;
	dataplane->members = member;
	pthread_mutex_unlock(&dataplane->lock);
}

static void leave(flannel_dataplane *dataplane, struct member *member)
{
	struct member **link = &dataplane->members;
	struct table *old;

	pthread_mutex_lock(&dataplane->lock);
	while (*link != member)
		link = &(*link)->next;
	*link = member->next;
	add_stats(&dataplane->past, &member->worker.stats);
	old = table_put(member->table);
	pthread_mutex_unlock(&dataplane->lock);
	table_free(old);
}

/* Between batches: publishes the counters, takes over new settings and routes. */
static void synchronise(flannel_dataplane *dataplane, struct member *member)
{
	struct table *old = NULL;

	pthread_mutex_lock(&dataplane->lock);
	member->stats = member->worker.stats;
	if (member->seen != dataplane->version) {
		member->seen = dataplane->version;
		member->worker.settings = dataplane->settings;
		if (member->table != dataplane->table) {
			old = table_put(member->table);
			member->table = dataplane->table;
			member->table->n_users++;
			member->worker.routes = member->table->routes;
		}
		member->worker.out.queue.port = dataplane->settings.port;
	}
	pthread_mutex_unlock(&dataplane->lock);
	table_free(old);
}

static int run_member(flannel_dataplane *dataplane, struct member *member)
{
	int done;

	do {
		synchronise(dataplane, member);
		done = worker_wait(&member->worker);
		if (done)
			break;
		/* Changes made while it slept apply to the packets that have woken it. */
		synchronise(dataplane, member);
		done = worker_turn(&member->worker);
	} while (!done);
	return done < 0 ? done : 0;
}

/**
 * flannel_run() - carry packets until @stop_fd is readable
 * @dataplane: the dataplane
 * @tun_fd:    a TUN device without packet information and with a virtio_net_hdr of 10 bytes
 *             (IFF_NO_PI, IFF_VNET_HDR, TUNSETVNETHDRSZ), or a descriptor that behaves alike
 * @udp_fd:    a UDP socket, bound and not connected
 * @stop_fd:   the loop ends when this is readable; nothing is read from it
 *
 * The caller owns the descriptors, and must not use them meanwhile.
 *
 * Return: 0 after @stop_fd has become readable; -ENODEV or -EBADFD if the TUN device is gone;
 * another -errno if a descriptor cannot be waited for; -ENOMEM.
 */
int flannel_run(flannel_dataplane *dataplane, int tun_fd, int udp_fd, int stop_fd)
{
	struct member *member = calloc(1, sizeof(*member));
	int err;

	if (!member)
		return -ENOMEM;
	err = worker_open(&member->worker, tun_fd, udp_fd, stop_fd);
	if (!err) {
		join(dataplane, member);
		err = run_member(dataplane, member);
		leave(dataplane, member);
		worker_close(&member->worker);
	}
	free(member);
	return err;
}
