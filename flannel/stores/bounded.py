"""Answers that end: the bytes and the time of each are bounded while it is read.

What answers at an endpoint may be anything. urllib3 and http.client bound the pause between two
pieces of an answer, and not the pieces: a body, a header, the extension of a chunk, or a row of
"100 Continue" without an end fills the memory, and a byte now and then holds a thread and a
connection for ever. Here the reading itself is bounded, below everything that parses:

    with answer_within(Bounds(seconds=6, bytes=1 << 20)):
        client.request(...)           # through one of `POOLS`

Decompression is turned off, for a small answer may be a large one then; etcd compresses nothing.
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
    """The answer had not ended in its time."""


class TooLong(client.HTTPException):
    """The answer has more bytes than any that is wanted."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an answer may take: seconds until its end, and bytes, headers included."""

    seconds: float
    bytes: int


class _Budget:
    """What is left of the bounds of one answer."""

    def __init__(self, bounds: Bounds) -> None:
        self.deadline = monotonic() + bounds.seconds
        self.bytes = bounds.bytes


_current = threading.local()
"""The budget of what this thread reads: a request and its answer are one thread's."""


@contextmanager
def answer_within(bounds: Bounds) -> Iterator[None]:
    """Bound what this thread reads of answers while the body runs.

    What exceeds it raises `TooLate` or `TooLong`, perhaps as the cause of urllib3's errors.
    """
    _current.budget = _Budget(bounds)
    try:
        yield
    finally:
        del _current.budget


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
                self._socket.settimeout(patience)  # the next request on it has its own
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
        """Python reserves the memory for all of it, so what was announced is checked first."""
        if size is not None and size > self._budget.bytes + _BUFFER:
            raise TooLong
        return super().read(size)


class _Source:
    """What http.client wants of a socket that it reads from."""

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


class _Connection(ResolvedInTime, HTTPConnection):
    response_class = _Response


class _TlsConnection(ResolvedInTime, HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS = {"http": _Pool, "https": _TlsPool}
"""For `urllib3.PoolManager.pool_classes_by_scheme`."""
