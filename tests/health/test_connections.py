"""Connections: a listening socket that fails to accept."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest
from waiting import running, until

from flannel.health import connections
from flannel.health.connections import MAX_CLIENTS, Connections


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is too slow, however long this machine needs for it."""
    monkeypatch.setattr(connections, "PATIENCE", 600.0)


class Listener(socket.socket):
    """A listening socket that fails to accept with each of `errors` in turn."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX)
        self.bind("")  # the kernel chooses an abstract name
        self.listen()
        self.errors: list[int] = []

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()

    def connected(self) -> socket.socket:
        """A client."""
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        client.connect(self.getsockname())
        return client


async def answer(head: bytes) -> bytes:
    return b"answer"


@asynccontextmanager
async def serving(
    listener: Listener, answer: Callable[[bytes], Awaitable[bytes]] = answer
) -> AsyncIterator[Connections]:
    served = Connections(listener, answer)
    async with running(served.serve()):
        yield served


def received(client: socket.socket) -> bytes | None:
    """What the client got: b"" after a close, None before anything."""
    try:
        return client.recv(100)
    except BlockingIOError:
        return None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_the_oldest_waiting_client_is_dropped_for_a_new_one(
    number: int,
) -> None:
    async def main() -> None:
        with Listener() as listener, listener.connected() as old:
            async with serving(listener) as served:
                await until(lambda: len(served._waiting) == 1, "waiting client")
                listener.errors = [number]
                with listener.connected() as new:
                    await until(lambda: received(old) == b"", "end of the old connection")
                    new.sendall(b"GET /a HTTP/1.1\r\n\r\n")
                    await until(lambda: received(new) == b"answer", "answer")

    asyncio.run(main())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM, errno.ECONNABORTED])
def test_a_client_that_cannot_be_accepted_now_is_accepted_later(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_LOOK", 0.01)

    async def main() -> None:
        with Listener() as listener:
            async with serving(listener):
                listener.errors = [number]
                with listener.connected() as client:
                    client.sendall(b"GET /a HTTP/1.1\r\n\r\n")
                    await until(lambda: received(client) == b"answer", "answer")
                assert listener.errors == []

    asyncio.run(main())


def test_a_client_that_closes_before_its_request_is_whole_is_forgotten() -> None:
    async def main() -> None:
        with Listener() as listener:
            async with serving(listener) as served:
                with listener.connected() as client:
                    client.sendall(b"GET /a")
                    await until(lambda: len(served._waiting) == 1, "waiting client")
                await until(lambda: not served._waiting, "end of it")

    asyncio.run(main())


def test_a_probe_is_answered_while_others_wait_for_answers_that_take_long() -> None:
    """Scrapes run a program; any user of the host may ask for a thousand."""

    async def slow(head: bytes) -> bytes:
        if head.startswith(b"GET /metrics"):
            await asyncio.Event().wait()
        return b"alive"

    async def main() -> None:
        with Listener() as listener, ExitStack() as stack:
            async with serving(listener, slow) as served:
                scrapes = []
                for _ in range(MAX_CLIENTS + 50):
                    scrapes.append(stack.enter_context(listener.connected()))
                    scrapes[-1].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
                    await asyncio.sleep(0)  # the queue of those to be accepted is short
                await until(lambda: received(scrapes[49]) == b"", "end of the first ones")
                await until(lambda: len(served._answering) == MAX_CLIENTS, "answers")
                assert received(scrapes[-1]) is None
                probe = stack.enter_context(listener.connected())
                probe.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                await until(lambda: received(probe) == b"alive", "answer to the probe")

    asyncio.run(main())
