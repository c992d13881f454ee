"""Threads for the packet loop, which outlive it: the next loop does not depend on starting one.

A host whose processes are at their limit cannot start a thread, and that must not stop the packets
when the device is made again or the network config changes. So a thread that has run a loop waits
for the next one, until the process ends.

    with parked.running([partial(dataplane.run, tun, udp, stop), ...]) as runs:
        ...                             # a future for each; to end them is up to the caller
    # all have ended
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event

from flannel.errors import KernelError
from flannel.threads import NoThread, start

Run = Callable[[], object]

_BEGIN = 3.0
"""Seconds for a thread to begin; without memory for it, it never does."""


class ParkedThreads:
    """Threads that wait for functions to run."""

    def __init__(self) -> None:
        self._parked: list[_Thread] = []

    @contextmanager
    def running(self, functions: Sequence[Run]) -> Iterator[list["Future[None]"]]:
        """Run each function in a thread of its own, all or none.

        At the end of the block it waits until all have returned, and their futures' callbacks too.

        :raises KernelError: there are too few threads, and no other can be started.
        """
        while len(self._parked) < len(functions):
            self._parked.append(_Thread())
        threads = [self._parked.pop() for _ in functions]
        runs = [thread.run(function) for thread, function in zip(threads, functions, strict=True)]
        try:
            yield runs
        finally:
            wait(runs)
            # A future wakes those who wait, then calls its callbacks, which need the event loop.
            wait([thread.run(_nothing) for thread in threads])
            self._parked += threads


def _nothing() -> None:
    pass


class _Thread:
    """One thread, which ends with the process.

    :raises KernelError: it cannot be started.
    """

    def __init__(self) -> None:
        self._given: SimpleQueue[tuple[Run, Future[None]]] = SimpleQueue()
        self._begun = Event()
        try:
            start(self._serve)
        except NoThread as error:
            raise KernelError("start a thread", errno.EAGAIN) from error
        if not self._begun.wait(_BEGIN):
            raise KernelError("start a thread", errno.ENOMEM)

    def run(self, function: Run) -> "Future[None]":
        """Run it as soon as the thread has nothing else to do."""
        future: Future[None] = Future()
        self._given.put((function, future))
        return future

    def _serve(self) -> None:
        self._begun.set()
        while True:
            function, future = self._given.get()
            try:
                function()
            except BaseException as error:  # the task that waits for the future handles it
                future.set_exception(error)
            else:
                future.set_result(None)
            del function, future  # while it waits, it keeps no dataplane alive


parked = ParkedThreads()
"""Of this process."""
