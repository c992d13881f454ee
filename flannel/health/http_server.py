"""A server for a few small pages: GET and HEAD of HTTP/1.1, one request on each connection.

It runs in the daemon's event loop: an answer proves that the loop runs. The size and duration of a
request are bounded, and so is the number of clients (`flannel.health.connections`).
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from flannel.health.connections import BACKLOG, PATIENCE, Connections

log = logging.getLogger(__name__)

_RETRY = 5.0
_LOOK = 2.0
"""Seconds between two looks at the file of a unix socket."""


class Page(NamedTuple):
    """The answer at one path."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


Pages = Mapping[str, Callable[[], Awaitable[Page]]]
Address = tuple[str, int] | Path
"""IP address and port, or the path of a unix socket, which only its owner can reach."""

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@asynccontextmanager
async def serving(address: Address, pages: Pages) -> AsyncIterator[None]:
    """Serve ``pages`` while the body runs.

    If the address cannot be bound, that is logged once and tried again: packets flow on without
    the pages.
    """
    task = asyncio.create_task(_serve(address, pages))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


class _Served:
    """A listening socket, the file that it has in the file system, and the task that answers."""

    def __init__(self, address: Address, pages: Pages) -> None:
        """:raises OSError: the address cannot be bound."""
        self._address = address
        self._listener = _listen(address)
        self._inode = _inode(address)
        connections = Connections(self._listener, lambda head: answer(head, pages))
        self.task = asyncio.create_task(connections.serve())

    @property
    def has_its_file(self) -> bool:
        """Whether the file is still ours: not removed, and not replaced."""
        return _inode(self._address) == self._inode

    async def close(self) -> None:
        """End it, and remove its file."""
        self.task.cancel()
        await asyncio.wait([self.task])
        self._listener.close()
        if isinstance(self._address, Path) and self._inode is not None and self.has_its_file:
            with suppress(OSError):
                self._address.unlink()


async def _serve(address: Address, pages: Pages) -> None:
    is_logged = False
    served: _Served | None = None
    try:
        while True:
            try:
                if served is None or not served.has_its_file:
                    # The previous one stays until there is a new one: its file may come back.
                    made, served = served, _Served(address, pages)
                    if made is not None:
                        await made.close()
                done, _ = await asyncio.wait([served.task], timeout=_LOOK)
                if done:
                    served.task.result()
            except OSError as why:
                if not is_logged:
                    # asyncio makes whole sentences of strerror.
                    reason = os.strerror(why.errno) if why.errno else str(why)
                    log.warning("cannot listen on %s: %s; trying again", _name(address), reason)
                is_logged = True
                if served is not None and served.task.done():
                    await served.close()
                    served = None
                await asyncio.sleep(_RETRY)
    finally:
        if served is not None:
            await served.close()


def _inode(address: Address) -> tuple[int, int] | None:
    """Device and inode of the file of a unix socket; None if there is no such file."""
    if not isinstance(address, Path):
        return None
    try:
        found = address.stat(follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _listen(address: Address) -> socket.socket:
    if not isinstance(address, Path):
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listener = socket.create_server(address, family=family, backlog=BACKLOG)
        # tcp(7): a connection without data is not handed over, for some seconds.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, int(PATIENCE))
        return listener
    address.parent.mkdir(parents=True, exist_ok=True)
    address.unlink(missing_ok=True)  # a killed daemon leaves it
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(address))
        address.chmod(0o600)  # nobody can connect before listen()
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _name(address: Address) -> str:
    return str(address) if isinstance(address, Path) else "{}:{}".format(*address)


async def answer(head: bytes, pages: Pages) -> bytes:
    """The response to a request line with its headers."""
    method, path, page = await _page(head, pages)
    headers = [
        f"HTTP/1.1 {page.status} {_REASONS[page.status]}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if page.status == 405:
        headers.append("Allow: GET, HEAD")
    log.debug("%s %s: %d", method, path, page.status)
    body = b"" if method == "HEAD" else page.body
    return "\r\n".join([*headers, "", ""]).encode() + body


async def _page(head: bytes, pages: Pages) -> tuple[str, str, Page]:
    words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return "", "", Page(400, b"this is not HTTP/1.1\n")
    method, target = words[:2]
    path = target.partition("?")[0]
    if method not in ("GET", "HEAD"):
        return method, path, Page(405, b"only GET and HEAD\n")
    if path not in pages:
        return method, path, Page(404, f"there is {', '.join(pages)}\n".encode())
    try:
        return method, path, await pages[path]()
    except Exception:  # a page with a mistake in it must not end the daemon
        log.exception("cannot answer %s", path)
        return method, path, Page(500, b"a mistake in flanneld: see its log\n")
