/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The baseline: a tunnel of the same wire format that moves one packet with each system call, as
 * upstream's udp backend does. No checks, no table, one peer.
 *
 *    plain_tunnel DEVICE LOCAL PEER PORT
 */

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACKET_MAX 65536

static int open_tun(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0) {
		perror("plain_tunnel: cannot open TUN device");
		exit(1);
	}
	return fd;
}

/* Count a hop; the checksum by RFC 1624 for the one word that changes. */
static void decrement_ttl(uint8_t *ip)
{
	uint32_t check = (uint32_t)(ip[10] << 8 | ip[11]) + 0x100;

	check += check >> 16;
	ip[8]--;
	ip[10] = (uint8_t)(check >> 8);
	ip[11] = (uint8_t)check;
}

int main(int argc, char **argv)
{
	struct sockaddr_in local = {.sin_family = AF_INET}, peer = {.sin_family = AF_INET};
	static uint8_t packet[PACKET_MAX];
	struct pollfd fds[2];
	int tun, udp;

	if (argc != 5)
		return 2;
	local.sin_port = peer.sin_port = htons((uint16_t)atoi(argv[4]));
	inet_pton(AF_INET, argv[2], &local.sin_addr);
	inet_pton(AF_INET, argv[3], &peer.sin_addr);
	tun = open_tun(argv[1]);
	udp = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	if (udp < 0 || bind(udp, (struct sockaddr *)&local, sizeof(local)) < 0) {
		perror("plain_tunnel: cannot bind");
		return 1;
	}

	fds[0] = (struct pollfd){.fd = tun, .events = POLLIN};
	fds[1] = (struct pollfd){.fd = udp, .events = POLLIN};
	while (poll(fds, 2, -1) > 0) {
		ssize_t len;

		if (fds[0].revents) {
			len = read(tun, packet, sizeof(packet));
			if (len >= 20) {
				decrement_ttl(packet);
				sendto(udp, packet, (size_t)len, 0, (struct sockaddr *)&peer,
				       sizeof(peer));
			}
		}
		if (fds[1].revents) {
			len = recv(udp, packet, sizeof(packet), 0);
			if (len >= 20) {
				decrement_ttl(packet);
				if (write(tun, packet, (size_t)len) < 0)
					continue;
			}
		}
	}
	return 0;
}
