/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The work of one thread on its descriptors, turn by turn.
 *
 * Each turn carries at most one batch in each direction, so that neither direction starves the
 * other, and a stop is noticed soon.
 */

#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

enum event {
	EVENT_STOP,
	EVENT_TUN,
	EVENT_UDP,
};

static int set_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static int watch(const struct worker *worker, int fd, enum event event)
{
	struct epoll_event wanted = {.events = EPOLLIN, .data.u32 = event};

	return epoll_ctl(worker->epoll_fd, EPOLL_CTL_ADD, fd, &wanted) ? -errno : 0;
}

/**
 * worker_open() - make a worker ready for its first turn
 * @worker:  all zero; to be closed with worker_close() after success
 * @tun_fd:  as of flannel_run(), like the others
 * @udp_fd:  the socket
 * @stop_fd: readable when the worker has to stop
 *
 * Return: 0; -errno if a descriptor cannot be waited for.
 */
int worker_open(struct worker *worker, int tun_fd, int udp_fd, int stop_fd)
{
	int err;

	worker->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (worker->epoll_fd < 0)
		return -errno;
	err = set_nonblocking(tun_fd);
	if (!err)
		err = watch(worker, stop_fd, EVENT_STOP);
	if (!err)
		err = watch(worker, tun_fd, EVENT_TUN);
	if (!err)
		err = watch(worker, udp_fd, EVENT_UDP);
	if (err) {
		worker_close(worker);
		return err;
	}

	worker->tun_fd = tun_fd;
	worker->udp_fd = udp_fd;
	worker->stats.given_up = udp_prepare(udp_fd);
	udp_queue_init(&worker->out.queue, udp_fd,
		       !(worker->stats.given_up & FLANNEL_NO_UDP_SEGMENT));
	udp_batch_init(&worker->in.batch);
	return 0;
}

/** worker_close() - close all but the descriptors of worker_open(), which belong to the caller */
void worker_close(struct worker *worker)
{
	close(worker->epoll_fd);
	udp_queue_close(&worker->out.queue);
}

/**
 * worker_wait() - wait until a descriptor is ready
 * @worker: the worker
 *
 * Return: 0, also after a signal; -errno.
 */
int worker_wait(struct worker *worker)
{
	worker->n_events = epoll_wait(worker->epoll_fd, worker->events, WORKER_N_EVENTS, -1);
	return worker->n_events < 0 && errno != EINTR ? -errno : 0;
}

static int tun_turn(struct worker *worker, bool is_broken)
{
	int done = outbound_turn(worker);

	/* epoll would report it at every turn, and read() reports nothing. */
	return !done && is_broken ? -ENODEV : done;
}

static int udp_turn(struct worker *worker, bool is_broken)
{
	int done = inbound_turn(worker);

	/* An error of the socket is about one datagram; reading it has cleared it. */
	if (done < 0 && is_broken && done != -EBADF && done != -EBADFD)
		return 0;
	return done;
}

/**
 * worker_turn() - carry one batch in each direction that is ready
 * @worker: the worker, after worker_wait()
 *
 * Return: 0; 1 to stop; -errno if a descriptor is gone.
 */
int worker_turn(struct worker *worker)
{
	int done = 0;

	for (int i = 0; i < worker->n_events && done >= 0; i++) {
		bool is_broken = worker->events[i].events & (EPOLLERR | EPOLLHUP);

		switch (worker->events[i].data.u32) {
		case EVENT_STOP:
			return 1;
		case EVENT_TUN:
			done = tun_turn(worker, is_broken);
			break;
		default:
			done = udp_turn(worker, is_broken);
			break;
		}
	}
	return done < 0 ? done : 0;
}
