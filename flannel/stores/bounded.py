"""Bounded answers: bytes and time of each answer are limited while it is read.

Any program may answer at an endpoint. urllib3 and http.client limit the pause between two pieces of
an answer, but not the pieces: an endless body, header, chunk extension, or series of "100 Continue"
fills the memory, and a byte now and then holds a thread and a connection for ever. Here the reading
itself is limited, below all parsers:

    with answer_within(Bounds(seconds=6, bytes=1 << 20)):
        client.request(...)           # through one of `POOLS`

Decompression is turned off, because a small answer may become a large one; etcd does not compress.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import client
from socket import socket
from time import monotonic
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from flannel.stores.resolver import ResolvedInTime

_BUFFER = 1 << 16


class TooLate(TimeoutError):
    """The answer did not end in time."""


class TooLong(client.HTTPException):
    """The answer has more bytes than allowed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of an answer: seconds until its end, and bytes, headers included."""

    seconds: float
    bytes: int


class _Budget:
    """The part of the bounds of one answer that is left."""

    def __init__(self, bounds: Bounds) -> None:
        self.deadline = monotonic() + bounds.seconds
        self.bytes = bounds.bytes


_current = threading.local()
"""The budget of this thread: one thread sends a request and reads its answer."""


@contextmanager
def answer_within(bounds: Bounds) -> Iterator[None]:
    """Limit the answers that this thread reads while the body runs.

    A longer answer raises `TooLate` or `TooLong`, perhaps as the cause of urllib3's errors.
    """
    _current.budget = _Budget(bounds)
    _current.opened_at = None
    try:
        yield
    finally:
        del _current.budget


def connection_age() -> float | None:
    """Seconds since the connection of this thread's last request was made.

    None: the request was not sent.
    """
    opened_at: float | None = _current.opened_at
    return monotonic() - opened_at if opened_at is not None else None


class _RawReader(io.RawIOBase):
    def __init__(self, sock: socket, budget: _Budget) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        budget, patience = self._budget, self._socket.gettimeout()
        left = budget.deadline - monotonic()
        if left <= 0:
            raise TooLate
        if budget.bytes <= 0:
            raise TooLong
        if patience is None or left < patience:
            self._socket.settimeout(left)
            try:
                n = self._raw.readinto(buffer)
            except TimeoutError:
                raise TooLate from None
            finally:
                self._socket.settimeout(patience)  # for the next request on this socket
        else:
            n = self._raw.readinto(buffer)
        budget.bytes -= n or 0
        return n

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _Reader(io.BufferedReader):
    def __init__(self, sock: socket, budget: _Budget) -> None:
        super().__init__(_RawReader(sock, budget), _BUFFER)
        self._budget = budget

    def read(self, size: int | None = -1, /) -> bytes:
        """Check the size first: Python reserves the memory for all of it."""
        if size is not None and size > self._budget.bytes + _BUFFER:
            raise TooLong
        return super().read(size)


class _Source:
    """The part of a socket that http.client reads from."""

    def __init__(self, sock: socket, budget: _Budget) -> None:
        self._socket = sock
        self._budget = budget

    def makefile(self, _mode: str) -> io.BufferedReader:
        return _Reader(self._socket, self._budget)


class _Response(client.HTTPResponse):
    def __init__(self, sock: socket, *args: Any, **options: Any) -> None:
        super().__init__(_Source(sock, _current.budget), *args, **options)  # type: ignore[arg-type]

    def begin(self) -> None:
        super().begin()
        del self.headers["Content-Encoding"]


class _Aged(ResolvedInTime):
    """It knows when it was made."""

    def connect(self) -> None:
        super().connect()
        self._opened_at = monotonic()

    def getresponse(self) -> Any:
        _current.opened_at = self._opened_at
        return super().getresponse()


class _Connection(_Aged, HTTPConnection):
    response_class = _Response


class _TlsConnection(_Aged, HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS = {"http": _Pool, "https": _TlsPool}
"""For `urllib3.PoolManager.pool_classes_by_scheme`."""
