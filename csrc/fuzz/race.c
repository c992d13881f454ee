/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Races the threads of a dataplane, for ThreadSanitizer to watch: race SWAPS LOOKUPS.
 *
 * Two threads carry packets in both directions, between sockets that stand for their TUN devices
 * and two peers on loopback. Meanwhile one thread swaps the routing table, and another the
 * settings, and reads the counters. In every table a peer has its own subnet; all else differs. So
 * whatever a peer receives must be for its subnet: a packet at a wrong host is an error too.
 */

#include <arpa/inet.h>
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "bytes.h"
#include "dataplane.h"
#include "packet.h"

#define N_WORKERS   2
#define N_PEERS	    2
#define N_STRANGERS 60
#define NETWORK	    0x0a010000u
#define SUBNET	    0x0a010000u /* 10.1.0.0/24: this host's; the peers have those behind */
#define HOST(i)	    (0x7f000010u + (uint32_t)(i))
#define VNET_LEN    10
#define PACKET_LEN  28
#define N_SEGMENTS  48

struct worker {
	pthread_t runs, feeds, drains;
	int tun_fd, kernel_fd, udp_fd;
};

static flannel_dataplane *dataplane;
static int stop_fd;
static int peer_fds[N_PEERS];
static struct worker workers[N_WORKERS];
static struct flannel_settings settings = {NETWORK, 16, SUBNET, 24, NETWORK, 1472, 0, 0};
static atomic_bool is_over;
static atomic_ulong n_strays;

static uint32_t peer_subnet(size_t i)
{
	return SUBNET + (uint32_t)(i + 1) * 256;
}

static void write_packet(uint8_t *ip, uint32_t source, uint32_t destination)
{
	memset(ip, 0, PACKET_LEN);
	ip[0] = 0x45;
	put_be16(ip + IPV4_TOTAL_LENGTH, PACKET_LEN);
	ip[IPV4_TTL] = 64;
	ip[IPV4_PROTOCOL] = PROTOCOL_UDP;
	put_be32(ip + IPV4_SOURCE, source);
	put_be32(ip + IPV4_DESTINATION, destination);
}

static void *run(void *arg)
{
	struct worker *worker = arg;
	int err = flannel_run(dataplane, worker->tun_fd, worker->udp_fd, stop_fd);

	assert(!err);
	return NULL;
}

/* Packets for all peers out of the device, and from all peers to the socket. */
static void *feed(void *arg)
{
	struct worker *worker = arg;
	struct sockaddr_in to;
	socklen_t to_len = sizeof(to);
	uint8_t up[VNET_LEN + PACKET_LEN] = {0};
	uint8_t down[N_SEGMENTS * PACKET_LEN];

	assert(!getsockname(worker->udp_fd, (struct sockaddr *)&to, &to_len));
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (uint32_t n = 0; !atomic_load(&is_over); n++) {
		size_t peer = n % N_PEERS;

		write_packet(up + VNET_LEN, SUBNET + 2, peer_subnet(peer) + n % 250 + 1);
		(void)send(worker->kernel_fd, up, sizeof(up), MSG_DONTWAIT);
		if (n % 8)
			continue;
		peer = n / 8 % N_PEERS;
		for (size_t i = 0; i < N_SEGMENTS; i++)
			write_packet(down + i * PACKET_LEN, peer_subnet(peer) + 2, SUBNET + 2);
		(void)sendto(peer_fds[peer], down, sizeof(down), 0, (struct sockaddr *)&to, to_len);
	}
	return NULL;
}

/* Packets that reach the kernel are dropped, so that there is room. */
static void *drain(void *arg)
{
	struct worker *worker = arg;
	uint8_t data[70000];

	while (!atomic_load(&is_over))
		(void)recv(worker->kernel_fd, data, sizeof(data), 0);
	return NULL;
}

static void *receive(void *arg)
{
	size_t peer = (size_t)(int *)arg - (size_t)peer_fds;
	uint8_t data[PACKET_LEN];

	peer /= sizeof(peer_fds[0]);
	while (!atomic_load(&is_over))
		if (recv(peer_fds[peer], data, sizeof(data), 0) == PACKET_LEN &&
		    (get_be32(data + IPV4_DESTINATION) & 0xffffff00) != peer_subnet(peer))
			atomic_fetch_add(&n_strays, 1);
	return NULL;
}

static uint64_t n_lookups(void)
{
	struct flannel_stats stats;

	flannel_get_stats(dataplane, &stats);
	/* On the way in there are two, for the host and for the source. */
	return stats.tx_packets + stats.drops.tx_no_route + stats.drops.tx_refused +
	       stats.drops.tx_congested +
	       2 * (stats.rx_packets + stats.drops.rx_spoofed + stats.drops.rx_refused);
}

static void *change_settings(void *arg)
{
	struct flannel_settings changed = settings;

	(void)arg;
	for (uint32_t n = 0; !atomic_load(&is_over); n++) {
		changed.mtu = 1400 + n % 100;
		changed.flags = (uint16_t)(FLANNEL_CHECK_SOURCE | (n & 1 ? FLANNEL_MERGE_UDP : 0));
		assert(!flannel_set(dataplane, &changed));
		(void)n_lookups();
	}
	return NULL;
}

/* The peers' routes among others of which there are more or fewer, elsewhere each time. */
static void swap(uint32_t n)
{
	struct flannel_route routes[N_PEERS + N_STRANGERS];
	size_t n_routes = 0;

	for (uint32_t i = 0; i < n % N_STRANGERS; i++)
		routes[n_routes++] = (struct flannel_route){NETWORK + (16 + (n + i) % 200) * 256,
							    24, HOST(i % N_PEERS)};
	for (uint32_t i = 0; i < N_PEERS; i++)
		routes[n_routes++] = (struct flannel_route){peer_subnet(i), 24, HOST(i)};
	assert(!flannel_set_routes(dataplane, routes, n_routes));
}

static int bound_socket(uint32_t address, uint16_t *port)
{
	struct timeval patience = {.tv_usec = 10000};
	struct sockaddr_in at = {
		.sin_family = AF_INET,
		.sin_port = htons(*port),
		.sin_addr.s_addr = htonl(address),
	};
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert(fd >= 0 && !bind(fd, (struct sockaddr *)&at, len));
	assert(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
	assert(!getsockname(fd, (struct sockaddr *)&at, &len));
	*port = ntohs(at.sin_port);
	return fd;
}

static void start(pthread_t receivers[N_PEERS])
{
	struct timeval patience = {.tv_usec = 10000};
	int segment_len = PACKET_LEN;
	uint16_t port = 0;

	stop_fd = eventfd(0, EFD_CLOEXEC);
	for (size_t i = 0; i < N_PEERS; i++) {
		peer_fds[i] = bound_socket(HOST(i), &port);
		/* UDP_SEGMENT: many packets in one call. */
		assert(!setsockopt(peer_fds[i], IPPROTO_UDP, 103, &segment_len, sizeof(int)));
	}
	settings.port = port;
	settings.flags = FLANNEL_CHECK_SOURCE;
	assert(!flannel_new(&dataplane, &settings));
	swap(0);
	for (size_t i = 0; i < N_PEERS; i++)
		assert(!pthread_create(&receivers[i], NULL, receive, &peer_fds[i]));
	for (size_t i = 0; i < N_WORKERS; i++) {
		struct worker *worker = &workers[i];
		int pair[2];

		assert(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
		worker->tun_fd = pair[0];
		worker->kernel_fd = pair[1];
		assert(!setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
		port = 0;
		worker->udp_fd = bound_socket(INADDR_LOOPBACK, &port);
		assert(!pthread_create(&worker->runs, NULL, run, worker));
		assert(!pthread_create(&worker->feeds, NULL, feed, worker));
		assert(!pthread_create(&worker->drains, NULL, drain, worker));
	}
}

int main(int argc, char **argv)
{
	unsigned long swaps = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	unsigned long lookups = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	pthread_t receivers[N_PEERS], changes;
	struct flannel_stats stats;
	uint64_t one = 1;
	uint32_t n = 0;

	if (!swaps || !lookups) {
		fprintf(stderr, "usage: race SWAPS LOOKUPS\n");
		return 2;
	}
	start(receivers);
	assert(!pthread_create(&changes, NULL, change_settings, NULL));
	while (n < swaps || n_lookups() < lookups)
		swap(n++);

	atomic_store(&is_over, true);
	assert(write(stop_fd, &one, sizeof(one)) == sizeof(one));
	pthread_join(changes, NULL);
	for (size_t i = 0; i < N_WORKERS; i++) {
		pthread_join(workers[i].runs, NULL);
		pthread_join(workers[i].feeds, NULL);
		pthread_join(workers[i].drains, NULL);
	}
	for (size_t i = 0; i < N_PEERS; i++)
		pthread_join(receivers[i], NULL);
	flannel_get_stats(dataplane, &stats);
	printf("%u swaps, %lu lookups, %lu packets out, %lu in, %lu at a wrong host\n", n,
	       (unsigned long)n_lookups(), (unsigned long)stats.tx_packets,
	       (unsigned long)stats.rx_packets, atomic_load(&n_strays));
	flannel_free(dataplane);
	return n_strays || !stats.tx_packets || !stats.rx_packets ? 1 : 0;
}
