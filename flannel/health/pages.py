"""Pages: the daemon's `Status`, served over HTTP.

    /healthz   200 while every part of flanneld works; upstream's path and text
    /readyz    200 while containers can use the overlay, else 503 and the reason
    /metrics   for Prometheus
    /status    the whole status, as JSON
    /peers     the other hosts' leases, as JSON

The first three are served at -healthz-ip and -healthz-port; all but /metrics are served at the unix
socket, which only root reaches. The socket is beside -subnet-file: flanneld writes to that
directory anyway, a second daemon on the host has its own, and `flannel` has the same flag.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from flannel.health.http_server import Page, Pages, serving
from flannel.health.status import Status, lease_document
from flannel.options.table import Options
from flannel.printable import as_json, printable
from flannel.systemd import notify, watchdog_interval

log = logging.getLogger(__name__)

SOCKET = "flanneld.sock"
_FRESH = 0.1
"""Seconds; Prometheus asks at most once a second."""


def socket_path(subnet_file: Path) -> Path:
    """The socket of the daemon that writes ``subnet_file``."""
    return subnet_file.with_name(SOCKET)


class Recent:
    """A page that takes long to make: clients that ask within `_FRESH` seconds share one.

    So a flood of requests for it delays the other pages no more than a flood for a short one.
    """

    def __init__(self, make: Callable[[], Coroutine[None, None, Page]]) -> None:
        self._make = make
        self._making: asyncio.Task[Page] | None = None
        self._began_at = 0.0

    async def __call__(self) -> Page:
        """The page, begun to be made at most `_FRESH` seconds ago, or still being made."""
        made = self._making
        if made is None or (made.done() and monotonic() - self._began_at > _FRESH):
            self._began_at = monotonic()
            made = self._making = asyncio.create_task(self._make())
        try:
            return await asyncio.shield(made)
        except Exception:
            self._making = None
            raise


@asynccontextmanager
async def served(options: Options, status: Status) -> AsyncIterator[None]:
    """Serve the pages and feed systemd's watchdog while the body runs."""

    async def healthz() -> Page:
        return _health(status)

    async def readyz() -> Page:
        return _readiness(status)

    async def whole() -> Page:
        await status.read_guard()
        return _json(status.document())

    async def peers() -> Page:
        return _json([lease_document(lease) for lease in status.peers.values()])

    pages = {"/healthz": healthz, "/readyz": readyz, "/status": whole, "/peers": peers}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serving(socket_path(options.subnet_file), pages))
        if options.healthz_port:
            # Imported here: the import takes 90 ms, which a daemon without the port saves.
            from flannel.health import metrics

            exporter = metrics.Exporter(status)

            async def exposition() -> Page:
                await status.read_guard()
                return Page(200, exporter.exposition(), metrics.CONTENT_TYPE)

            public: Pages = {"/healthz": healthz, "/readyz": readyz, "/metrics": Recent(exposition)}
            address = (str(options.healthz_ip), options.healthz_port)
            await stack.enter_async_context(serving(address, public))
        # Created first, so that it runs first after a pause.
        tasks = [asyncio.create_task(status.awake.keep())]
        tasks.append(asyncio.create_task(_watchdog(status, os.environ)))
        try:
            yield
        finally:
            for each in tasks:
                each.cancel()


def _health(status: Status) -> Page:
    dead = status.dead()
    return Page(503, f"{printable(dead)}\n".encode()) if dead else Page(200, b"flanneld is running")


def _readiness(status: Status) -> Page:
    why = status.unready()
    return Page(503, f"{printable(why)}\n".encode()) if why else Page(200, b"flanneld is ready\n")


def _json(document: Any) -> Page:
    return Page(200, as_json(document).encode() + b"\n", "application/json")


async def _watchdog(status: Status, environ: Mapping[str, str]) -> None:
    """Feed systemd's watchdog while every part works; systemd restarts a process that does not."""
    interval = watchdog_interval(environ)
    if interval is None:
        return
    is_logged = False
    while True:
        dead = status.dead()
        if dead and not is_logged:
            log.error("%s; if that lasts, systemd restarts flanneld", dead)
        is_logged = bool(dead)
        if not dead:
            notify("WATCHDOG=1", environ)
        await asyncio.sleep(interval / 3)
