"""The probe: a question through the overlay; the answer shows whether flanneld is ready."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address

import loopback
import pytest
from waiting import running, until

from flannel.health import peer_probe
from flannel.health.peer_probe import (
    LENGTH,
    answer_peers,
    is_ready,
    new_nonce,
    overlay_address,
    question,
)
from flannel.lease import Lease, LeaseAttrs

LEASE = Lease(loopback.NETWORK, LeaseAttrs(IPv4Address("192.0.2.11"), "vxlan"), 86400)
"""Its overlay address is loopback's."""
ADDRESS = str(loopback.NETWORK[0])


@pytest.fixture
def asker() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        yield sock


@pytest.fixture
def port() -> Iterator[int]:
    """A port that is free at the overlay address."""
    with loopback.udp_holder() as holder:
        yield holder.getsockname()[1]


async def ask(asker: socket.socket, port: int, nonce: bytes) -> bool | None:
    """Ask until an answer to ``nonce`` comes: the answering socket may not be bound yet."""
    answers: list[bool | None] = []

    def has_answer() -> bool:
        asker.sendto(question(nonce), (ADDRESS, port))
        while True:
            try:
                found = is_ready(asker.recv(100), nonce)
            except (BlockingIOError, ConnectionRefusedError):
                return bool(answers)
            if found is not None:
                answers.append(found)

    await until(has_answer, "answer")
    return answers[-1]


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        (b"flannel!12345678", True),
        (b"flannel-12345678", False),
        (b"flannel?12345678", None),
        (b"flannel!12345679", None),
        (b"flannel!1234567", None),
        (b"flannel!123456789", None),
        (b"", None),
    ],
)
def test_an_answer_has_the_nonce_of_its_question(answer: bytes, ready: bool | None) -> None:
    assert is_ready(answer, b"12345678") is ready


def test_a_question_is_as_long_as_its_answer() -> None:
    assert len(question(new_nonce())) == LENGTH
    assert new_nonce() != new_nonce()


def test_a_host_without_a_tunnel_has_no_overlay_address() -> None:
    host_gw = Lease(LEASE.subnet, LeaseAttrs(IPv4Address("192.0.2.11"), "host-gw"), 86400)
    assert overlay_address(LEASE) == IPv4Address(ADDRESS)
    assert overlay_address(host_gw) is None


@pytest.mark.parametrize(("backend", "port"), [("host-gw", 8286), ("vxlan", 0)])
def test_without_an_address_or_a_port_nothing_is_answered(backend: str, port: int) -> None:
    lease = Lease(LEASE.subnet, LeaseAttrs(IPv4Address("192.0.2.11"), backend), 86400)

    async def main() -> None:
        async with asyncio.timeout(250):
            await answer_peers(lease, port, lambda: "")

    asyncio.run(main())


def test_the_answer_follows_readiness(asker: socket.socket, port: int) -> None:
    reason = "starting"

    async def main() -> None:
        nonlocal reason
        async with running(answer_peers(LEASE, port, lambda: reason)):
            assert await ask(asker, port, b"starting") is False
            reason = ""
            assert await ask(asker, port, b"is-ready") is True

    asyncio.run(main())


def test_only_whole_questions_are_answered_and_at_most_a_hundred_a_second(
    asker: socket.socket, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, received = 1000.0, 0
    is_bound = asyncio.Event()
    bind = peer_probe._bound

    def bound(address: str, port: int) -> socket.socket:
        sock = bind(address, port)
        is_bound.set()
        return sock

    def monotonic() -> float:
        nonlocal received
        received += 1  # the clock is read once for each datagram
        return now

    monkeypatch.setattr(peer_probe, "_bound", bound)
    monkeypatch.setattr(peer_probe, "monotonic", monotonic)
    junk = (b"", b"flannel?", b"flannel?123456789", b"flannel!12345678", b"x" * LENGTH)
    questions = [question(b"%08d" % number) for number in range(120)]
    answers: list[bytes] = []

    def receive() -> None:
        with suppress(BlockingIOError):
            while True:
                answers.append(asker.recv(100))

    async def main() -> None:
        nonlocal now
        async with running(answer_peers(LEASE, port, lambda: "")):
            await is_bound.wait()
            for datagram in (*junk, *questions):
                asker.sendto(datagram, (ADDRESS, port))
                await asyncio.sleep(0)
            await until(lambda: received == len(junk) + len(questions), "last question")
            receive()
            now += 1
            assert await ask(asker, port, b"one-more") is True

    asyncio.run(main())
    # Junk counts as well: it costs as much to read.
    assert answers == [b"flannel!%08d" % number for number in range(100 - len(junk))]


def test_a_port_that_is_in_use_is_logged_once_and_taken_when_it_is_free(
    port: int,
    asker: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries = 0
    bind = peer_probe._bound

    def counted(address: str, port: int) -> socket.socket:
        nonlocal tries
        tries += 1
        return bind(address, port)

    monkeypatch.setattr(peer_probe, "_RETRY", 0.01)
    monkeypatch.setattr(peer_probe, "_bound", counted)

    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
            holder.bind((ADDRESS, port))
            async with running(answer_peers(LEASE, port, lambda: "")):
                await until(lambda: tries > 3, "fourth try")
                holder.close()
                assert await ask(asker, port, b"is-there") is True

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        f"cannot answer probes at UDP port {port} of {ADDRESS}: Address already in use"
    ]
