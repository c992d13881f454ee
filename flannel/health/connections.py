"""Connections: the clients of one server; each sends one small request.

A client can connect as fast as it likes, so a connection costs little: a socket and an entry in a
table until a whole request has arrived. When there are too many, the server drops the client that
has been connected longest without a whole request, or, if most have sent one, the first of those. A
probe sends its request at once, so it is answered in any case.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

log = logging.getLogger(__name__)

MAX_HEAD = 8192
"""Bytes of a request with its headers; a scraper sends some hundred."""
PATIENCE = 5.0
"""Seconds for a request, and as many for its answer."""
MAX_CLIENTS = 256
"""Connections at a time; a process has 1,024 descriptors by default."""
BACKLOG = 4096
"""Connections that wait in the kernel to be accepted."""
_MAX_ACCEPTED = 64
"""New connections between two reads of what the others have sent: a quarter of `MAX_CLIENTS`, so
that no client is dropped for a new one before its request is read."""
_LOOK = 1.0
"""Seconds between two searches for clients that are too slow; and between two attempts to accept
after the process had no descriptor left."""


class Connections:
    """The clients of one listening socket.

    :param answer: makes the response to a request line with its headers.
    """

    def __init__(
        self, listener: socket.socket, answer: Callable[[bytes], Awaitable[bytes]]
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[socket.socket, tuple[float, bytearray]] = {}
        """When each client connected, and the bytes it has sent; in the order of connecting."""
        self._answering: dict[asyncio.Task[None], None] = {}
        """Those whose answer is being made or sent, in the order of their requests."""

    async def serve(self) -> None:
        """Serve until cancelled; then all connections are closed."""
        try:
            while True:
                self._loop.add_reader(self._listener, self._accept)
                await asyncio.sleep(_LOOK)
                self._drop_the_slow()
        finally:
            self._loop.remove_reader(self._listener)
            for sock in list(self._waiting):
                self._drop(sock)
            for task in list(self._answering):
                task.cancel()

    def _accept(self) -> None:
        for _ in range(_MAX_ACCEPTED):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as why:
                if why.errno in (errno.EMFILE, errno.ENFILE) and self._drop_the_oldest():
                    continue
                log.debug("cannot accept a connection: %s", why.strerror)
                if why.errno != errno.ECONNABORTED:
                    self._loop.remove_reader(self._listener)  # until the next look
                return
            if len(self._waiting) + len(self._answering) >= MAX_CLIENTS:
                self._make_room()
            sock.setblocking(False)
            self._waiting[sock] = monotonic(), bytearray()
            self._loop.add_reader(sock, self._read, sock)

    def _read(self, sock: socket.socket) -> None:
        _, head = self._waiting[sock]
        try:
            data = sock.recv(MAX_HEAD)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        head += data
        if b"\r\n\r\n" in head:
            del self._waiting[sock]
            self._loop.remove_reader(sock)
            task = self._loop.create_task(self._respond(sock, bytes(head)))
            self._answering[task] = None
            task.add_done_callback(lambda done: self._has_ended(done, sock))
        elif not data or len(head) >= MAX_HEAD:
            self._drop(sock)

    async def _respond(self, sock: socket.socket, head: bytes) -> None:
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(PATIENCE):
                await self._loop.sock_sendall(sock, await self._answer(head))

    def _has_ended(self, task: asyncio.Task[None], sock: socket.socket) -> None:
        self._answering.pop(task, None)
        sock.close()  # not by the task: one that is cancelled at once never runs

    def _make_room(self) -> None:
        """Drop the oldest client of those that are more: that wait, or that are being answered.

        An answer may take long to make, as /metrics, which runs a program; a probe's does not. So
        it is not a probe that is dropped, even if all others have sent whole requests.
        """
        if len(self._answering) > MAX_CLIENTS // 2:
            oldest = next(iter(self._answering))
            del self._answering[oldest]
            oldest.cancel()
        else:
            self._drop_the_oldest()

    def _drop_the_slow(self) -> None:
        latest = monotonic() - PATIENCE
        while self._waiting:
            sock, (since, _) = next(iter(self._waiting.items()))
            if since > latest:
                return
            self._drop(sock)

    def _drop_the_oldest(self) -> bool:
        """Drop the client that has waited longest; return whether there was one."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self._drop(oldest)
        return True

    def _drop(self, sock: socket.socket) -> None:
        del self._waiting[sock]
        self._loop.remove_reader(sock)
        sock.close()
