/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which host serves which subnet.
 *
 * A table is made once and then only read, by any number of threads. A change of one lease makes a
 * new table (10,000 leases take less than a millisecond). dataplane.c owns the tables and knows
 * which threads still read an old one.
 *
 * The longest prefix wins. Leases of one network usually have one length, so all subnets are in one
 * hash table, and a lookup takes one step for each length that occurs, for any number of
 * peers.
 */

#include "routes.h"

#include <errno.h>
#include <stdlib.h>

#include "hash.h"
#include "prefix.h"

/* More than there are subnets of any real network; twice as many slots have a number of 32 bits. */
#define ROUTES_MAX (UINT32_C(1) << 28)

/**
 * struct routes - an immutable table
 * @n_lengths: how many different prefix lengths there are
 * @lengths:   those, the longest first
 * @n_bits:    binary logarithm of the number of slots
 * @hosts:     hash set of all hosts, 0 in empty slots; it has as many slots as @slots
 * @slots:     hash table of the routes; host is 0 in empty slots. At most half are in use
 */
struct routes {
	size_t n_lengths;
	uint8_t lengths[PREFIX_MAX_LEN + 1];
	unsigned int n_bits;
	uint32_t *hosts;
	struct flannel_route slots[];
};

static uint32_t next_slot(const struct routes *routes, uint32_t slot)
{
	return (slot + 1) & ((UINT32_C(1) << routes->n_bits) - 1);
}

/* The slot of this subnet, or the empty slot where it would go. */
static uint32_t find_slot(const struct routes *routes, uint32_t subnet, uint32_t prefix_len)
{
	uint32_t slot = hash_to_slot(subnet + prefix_len, routes->n_bits);
	const struct flannel_route *found = &routes->slots[slot];

	while (found->host && (found->subnet != subnet || found->prefix_len != prefix_len)) {
		slot = next_slot(routes, slot);
		found = &routes->slots[slot];
	}
	return slot;
}

static uint32_t find_host(const struct routes *routes, uint32_t host)
{
	uint32_t slot = hash_to_slot(host, routes->n_bits);

	while (routes->hosts[slot] && routes->hosts[slot] != host)
		slot = next_slot(routes, slot);
	return slot;
}

static int insert(struct routes *routes, const struct flannel_route *route)
{
	struct flannel_route *slot;

	if (!route->host || !prefix_is_valid(route->subnet, route->prefix_len))
		return -EINVAL;

	slot = &routes->slots[find_slot(routes, route->subnet, route->prefix_len)];
	if (slot->host)
		return -EEXIST;
	*slot = *route;
	routes->hosts[find_host(routes, route->host)] = route->host;
	return 0;
}

/**
 * routes_new() - make a table
 * @routes: set on success, to be freed with routes_free()
 * @list:   the routes, in any order
 * @n:      how many
 *
 * Return: 0; -EINVAL if a prefix is longer than 32, has host bits set, or leads to host 0; -EEXIST
 * if two are for one subnet; -ENOMEM.
 */
int routes_new(struct routes **routes, const struct flannel_route *list, size_t n)
{
	unsigned int n_bits = 1;
	bool seen[PREFIX_MAX_LEN + 1] = {false};
	struct routes *made;
	size_t n_slots;
	int err = 0;

	if (n > ROUTES_MAX)
		return -ENOMEM;
	while (UINT32_C(1) << n_bits < 2 * n)
		n_bits++;
	n_slots = (size_t)1 << n_bits;
	made = calloc(1, sizeof(*made) + n_slots * sizeof(made->slots[0]));
	if (!made)
		return -ENOMEM;
	made->n_bits = n_bits;
	made->hosts = calloc(n_slots, sizeof(made->hosts[0]));
	if (!made->hosts) {
		err = -ENOMEM;
		goto fail;
	}

	for (size_t i = 0; i < n; i++) {
		err = insert(made, &list[i]);
		if (err)
			goto fail;
		seen[list[i].prefix_len] = true;
	}
	for (int len = PREFIX_MAX_LEN; len >= 0; len--)
		if (seen[len])
			made->lengths[made->n_lengths++] = (uint8_t)len;
	*routes = made;
	return 0;

fail:
	routes_free(made);
	return err;
}

/** routes_free() - free the table, which no thread may be reading; NULL is allowed */
void routes_free(struct routes *routes)
{
	if (!routes)
		return;
	free(routes->hosts);
	free(routes);
}

/**
 * routes_find() - the host that serves an address
 * @routes:  the table
 * @address: in host order
 *
 * Return: the host's address in host order; 0 if no subnet contains @address.
 */
uint32_t routes_find(const struct routes *routes, uint32_t address)
{
	for (size_t i = 0; i < routes->n_lengths; i++) {
		uint32_t len = routes->lengths[i];
		uint32_t slot = find_slot(routes, address & prefix_mask(len), len);

		if (routes->slots[slot].host)
			return routes->slots[slot].host;
	}
	return 0;
}

/** routes_has_host() - whether this host serves any subnet; @host in host order */
bool routes_has_host(const struct routes *routes, uint32_t host)
{
	return host && routes->hosts[find_host(routes, host)];
}
