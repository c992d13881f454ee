"""A monitor that reads recorded messages from a socket pair."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Network
from typing import Any

import pytest
from recorded_notices import ETH0, FLANNEL_1, NOTICES, datagram

from flannel.kernel import monitor as module
from flannel.kernel.entries import Entry, Key
from flannel.kernel.monitor import Hint, Monitor, Watched
from flannel.kernel.subscription import Subscription

OWN_PORT = 4711


class Near(socket.socket):
    """The end that is read; ``errors`` are raised first."""

    errors: list[int]

    def recv(self, *args: Any) -> bytes:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().recv(*args)


class Wire:
    """Opens socket pairs, as often as it is asked; the far end of the last is the kernel's."""

    def __init__(self) -> None:
        self.far: list[socket.socket] = []
        self.near: list[Near] = []
        self.refuses: list[int] = []

    def open(self) -> socket.socket:
        if self.refuses:
            number = self.refuses.pop(0)
            raise OSError(number, os.strerror(number))
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        made = Near(fileno=near.detach())
        made.errors = []
        made.setblocking(False)
        self.near.append(made)
        self.far.append(far)
        return made

    def send(self, *names: str, port: int | None = None) -> None:
        for name in names:
            for notice in NOTICES[name]:
                sent = notice if port is None else notice._replace(port=port)
                self.far[-1].send(datagram(sent))

    def close(self) -> None:
        for far in self.far:
            far.close()


class Watching:
    """A monitor that runs, and the hints that it gave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wire = Wire()
        self.hints: list[Hint] = []
        self.indices = {"eth0": ETH0, "flannel.1": FLANNEL_1}
        self.held: dict[Key, Entry] = {}
        self.device = "flannel.1"
        self._told = asyncio.Event()
        monkeypatch.setattr(module, "_index", lambda name: self.indices.get(name, 0))

    def run(self, scenario: Callable[[], Coroutine[Any, Any, None]]) -> list[Hint]:
        async def main() -> None:
            def subscribe(port: int) -> Subscription:
                return Subscription(port, self.wire.open)

            with Monitor(OWN_PORT, subscribe) as self.monitor:
                network = IPv4Network("10.5.0.0/16")
                watched = Watched(network, self.device, "eth0", self.held.get)
                self.monitor.watch(watched, self.note)
                await asyncio.wait_for(scenario(), 250)

        try:
            asyncio.run(main())
        finally:
            self.wire.close()
        return self.hints

    def note(self, hint: Hint) -> None:
        """Remember a hint."""
        self.hints.append(hint)
        self._told.set()

    async def hint(self) -> Hint:
        """The next one."""
        await self._told.wait()
        self._told.clear()
        return self.hints[-1]

    def of(self, *names: str, port: int | None = None) -> Hint:
        """The one hint that these messages lead to."""

        async def scenario() -> None:
            self.wire.send(*names, port=port)
            await self.hint()

        (hint,) = self.run(scenario)
        return hint


async def until(condition: Callable[[], bool]) -> None:
    """Return in the turn of the loop in which ``condition`` comes true.

    A timer that this turn has started cannot end before, however long the process stops.
    """
    while not condition():  # noqa: ASYNC110 # the next turn reads what the test has sent
        await asyncio.sleep(0)
