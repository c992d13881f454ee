/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which host serves which subnet.
 *
 * A table is made once and then only read, by any number of threads; a change of one lease is a new
 * table (10,000 leases take less than a millisecond). Who may still be reading an old one is the
 * business of its owner, dataplane.c.
 *
 * The longest prefix wins. Leases of one network have one length as a rule, so there is a hash
 * table of all subnets, looked into once for each length that occurs: one step for a lookup,
 * however many the peers.
 */

#include "routes.h"

#include <errno.h>
#include <stdlib.h>

/**
 * struct routes - an immutable table
 * @n_lengths: how many different prefix lengths there are
 * @lengths:   those, the longest first
 * @shift:     32 less the binary logarithm of the number of slots
 * @hosts:     hash set of all hosts, 0 in empty slots; as many slots as @slots has
 * @slots:     hash table of the routes; host is 0 in empty slots. At most half are taken
 */
struct routes {
	size_t n_lengths;
	uint8_t lengths[33];
	unsigned int shift;
	uint32_t *hosts;
	struct flannel_route slots[];
};

static uint32_t prefix_of(uint32_t address, uint32_t prefix_len)
{
	/* A shift by 32 is undefined. */
	return prefix_len ? address & UINT32_MAX << (32 - prefix_len) : 0;
}

/* Fibonacci hashing: the high bits of the product depend on all bits of the key. */
static uint32_t first_slot(const struct routes *routes, uint32_t key)
{
	return key * UINT32_C(2654435769) >> routes->shift;
}

static uint32_t next_slot(const struct routes *routes, uint32_t slot)
{
	return (slot + 1) & ((UINT32_C(1) << (32 - routes->shift)) - 1);
}

/* The slot of this subnet, or the empty one where it would go. */
static uint32_t find_slot(const struct routes *routes, uint32_t subnet, uint32_t prefix_len)
{
	uint32_t slot = first_slot(routes, subnet + prefix_len);
	const struct flannel_route *found = &routes->slots[slot];

	while (found->host && (found->subnet != subnet || found->prefix_len != prefix_len)) {
		slot = next_slot(routes, slot);
		found = &routes->slots[slot];
	}
	return slot;
}

static uint32_t find_host(const struct routes *routes, uint32_t host)
{
	uint32_t slot = first_slot(routes, host);

	while (routes->hosts[slot] && routes->hosts[slot] != host)
		slot = next_slot(routes, slot);
	return slot;
}

static int insert(struct routes *routes, const struct flannel_route *route)
{
	struct flannel_route *slot;

	if (route->prefix_len > 32 || !route->host ||
	    route->subnet != prefix_of(route->subnet, route->prefix_len))
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
	unsigned int shift = 31;
	bool seen[33] = {false};
	struct routes *made;
	size_t n_slots;
	int err = 0;

	if (n > UINT32_C(1) << 28)
		return -ENOMEM;
	while (UINT32_C(1) << (32 - shift) < 2 * n)
		shift--;
	n_slots = (size_t)1 << (32 - shift);
	made = calloc(1, sizeof(*made) + n_slots * sizeof(made->slots[0]));
	if (!made)
		return -ENOMEM;
	made->shift = shift;
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
	for (int len = 32; len >= 0; len--)
		if (seen[len])
			made->lengths[made->n_lengths++] = (uint8_t)len;
	*routes = made;
	return 0;

fail:
	routes_free(made);
	return err;
}

/** routes_free() - give the table back; nobody may be reading it. Content with NULL */
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
		uint32_t slot = find_slot(routes, prefix_of(address, len), len);

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
