/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Preloaded into flanneld, lets one system call on a rtnetlink socket fail.
 *
 * $FAIL_NETLINK names a file, usually absent. It holds the name of a call and an error number: the
 * next such call on a socket of NETLINK_ROUTE removes the file and fails with it. On a non-blocking
 * socket the calls are named recv-nonblock, recvfrom-nonblock and send-nonblock. A datagram that
 * waits is lost, as where the kernel found no memory for it.
 */

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* linux/netlink.h: NETLINK_ROUTE, which is 0 */
#define ROUTE 0

static bool is_rtnetlink(int fd)
{
	int domain = 0, protocol = -1;
	socklen_t len = sizeof(domain);

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) || domain != AF_NETLINK)
		return false;
	len = sizeof(protocol);
	return !getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) && protocol == ROUTE;
}

/**
 * injected() - the error that this call shall fail with
 * @fd:   the socket
 * @name: of the function
 *
 * Return: the error number; 0: none.
 */
static int injected(int fd, const char *name)
{
	const char *path = getenv("FAIL_NETLINK");
	int saved = errno, number = 0;
	char wanted[32] = "", called[32];
	FILE *file;

	if (!path || !is_rtnetlink(fd))
		return 0;
	snprintf(called, sizeof(called), "%s%s", name,
		 fcntl(fd, F_GETFL) & O_NONBLOCK ? "-nonblock" : "");
	file = fopen(path, "re");
	if (file) {
		if (fscanf(file, "%31s %d", wanted, &number) != 2 || strcmp(wanted, called) != 0)
			number = 0;
		fclose(file);
	}
	if (number && unlink(path) != 0)
		number = 0;
	errno = saved;
	return number;
}

ssize_t recv(int fd, void *buf, size_t len, int flags)
{
	ssize_t (*next)(int, void *, size_t, int) =
		(ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
	int number = injected(fd, "recv");

	if (number) {
		next(fd, buf, len, flags | MSG_DONTWAIT);
		errno = number;
		return -1;
	}
	return next(fd, buf, len, flags);
}

ssize_t recvfrom(int fd, void *restrict buf, size_t len, int flags,
		 struct sockaddr *restrict address, socklen_t *restrict address_len)
{
	ssize_t (*next)(int, void *, size_t, int, struct sockaddr *, socklen_t *) =
		(ssize_t (*)(int, void *, size_t, int, struct sockaddr *, socklen_t *))dlsym(
			RTLD_NEXT, "recvfrom");
	int number = injected(fd, "recvfrom");

	if (number) {
		next(fd, buf, len, flags | MSG_DONTWAIT, NULL, NULL);
		errno = number;
		return -1;
	}
	return next(fd, buf, len, flags, address, address_len);
}

ssize_t send(int fd, const void *buf, size_t len, int flags)
{
	ssize_t (*next)(int, const void *, size_t, int) =
		(ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
	int number = injected(fd, "send");

	if (number) {
		errno = number;
		return -1;
	}
	return next(fd, buf, len, flags);
}
