/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How many small datagrams a second get through.
 *
 *    packet_rate receive ADDRESS PORT SECONDS    print datagrams received in a second
 *    packet_rate send ADDRESS PORT SECONDS       send as fast as sendmmsg() can
 */

/* sendmmsg() and recvmmsg(). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BATCH	       64
#define PAYLOAD	       64
#define UDP_GRO_OPTION 104

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void send_all(int fd, struct sockaddr_in *to, double seconds)
{
	static uint8_t payload[PAYLOAD];
	struct iovec iov = {payload, sizeof(payload)};
	struct mmsghdr messages[BATCH] = {0};
	double end = now() + seconds;

	for (int i = 0; i < BATCH; i++) {
		messages[i].msg_hdr.msg_name = to;
		messages[i].msg_hdr.msg_namelen = sizeof(*to);
		messages[i].msg_hdr.msg_iov = &iov;
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while (now() < end)
		sendmmsg(fd, messages, BATCH, 0);
}

static double receive_all(int fd, double seconds)
{
	static uint8_t buffers[BATCH][65536];
	struct mmsghdr messages[BATCH];
	struct iovec iov[BATCH];
	double begin = 0, last = 0;
	uint64_t n_bytes = 0;

	for (;;) {
		int n;

		memset(messages, 0, sizeof(messages));
		for (int i = 0; i < BATCH; i++) {
			iov[i] = (struct iovec){buffers[i], sizeof(buffers[i])};
			messages[i].msg_hdr.msg_iov = &iov[i];
			messages[i].msg_hdr.msg_iovlen = 1;
		}
		n = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
		if (n <= 0) /* the socket's timeout: the sender has ended */
			break;
		last = now();
		if (begin == 0)
			begin = last;
		else if (last > begin + seconds)
			break;
		for (int i = 0; i < n; i++)
			n_bytes += messages[i].msg_len;
	}
	return last > begin ? (double)n_bytes / PAYLOAD / (last - begin) : 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct timeval timeout = {.tv_sec = 1};
	int size = 8 << 20, on = 1;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 5 || fd < 0)
		return 2;
	inet_pton(AF_INET, argv[2], &address.sin_addr);
	address.sin_port = htons((uint16_t)atoi(argv[3]));
	if (!strcmp(argv[1], "send")) {
		send_all(fd, &address, atof(argv[4]));
		return 0;
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(fd, IPPROTO_UDP, UDP_GRO_OPTION, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&address, sizeof(address))) {
		perror("packet_rate: cannot bind");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	timeout.tv_sec = 5;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	printf("%.0f\n", receive_all(fd, atof(argv[4])));
	return 0;
}
