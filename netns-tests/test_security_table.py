"""Each cell of the table in docs/security.md: what is delivered, what is counted and where."""

import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from attacks import (
    AS_ROOT,
    AS_USER,
    PORT,
    WITH_NET_RAW,
    Sending,
    datagram,
    inner,
    raw,
    send,
    tunnelled,
)
from guard_rig import Rig, build
from namespaces import Namespace
from scapy.layers.inet import IP, UDP
from world import World

DOCUMENT = Path(__file__).parents[1] / "docs/security.md"
BACKENDS = ("vxlan", "udp", "host-gw")
SO_MARK = 36  # asm-generic/socket.h
BIT = struct.pack("=I", 0x10000000).hex()


def cells() -> Iterator[tuple[str, str, str, str]]:
    """Sender, packet, backend and what the document says of them."""
    section = DOCUMENT.read_text().partition("## Who can send what\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| ") and "`vxlan`" not in line:
            sender, what, *outcomes = (cell.strip() for cell in line.strip("|").split("|"))
            for backend, outcome in zip(BACKENDS, outcomes, strict=True):
                if outcome:
                    yield sender, what, backend, outcome


@pytest.fixture(scope="module")
def rig_of() -> Iterator[Callable[[str], Rig]]:
    """The hosts of a backend, made once for all of its cells."""
    made: dict[str, Rig] = {}
    with ExitStack() as stack:

        def find(backend: str) -> Rig:
            if backend not in made:
                world = stack.enter_context(World())
                made[backend] = rig = build(world, (backend, "nft", True), stack)
                for host in rig.hosts:
                    world.net.ip(f"route add {host.subnet} via {host.address}")
            return made[backend]

        yield find


def to_own_host(rig: Rig) -> bytes:
    """A tunnel packet as the second host would send it to the first."""
    if rig.backend == "host-gw":
        return inner(rig.names[0], rig.victim.address)  # not used
    here, there, _ = rig.hosts
    packet = inner(rig.victim.address, rig.containers[0].address)
    payload, port = tunnelled(rig.backend, packet, here)
    outer = IP(src=str(there.address), dst=str(here.address)) / UDP(sport=port, dport=port)
    return bytes(outer / payload)


def attempt(rig: Rig, sender: str, what: str) -> None:
    """Have ``sender`` send ``what``."""
    senders: dict[str, tuple[Namespace, tuple[str, ...]]] = {
        "stranger on the underlay": (rig.world.net, AS_ROOT),
        "root of a host with a lease": (rig.hosts[0], AS_ROOT),
        "user of a host": (rig.hosts[0], AS_USER),
        "container": (rig.containers[0], AS_USER),
        "container with NET_RAW": (rig.containers[0], WITH_NET_RAW),
        "container of another network": (rig.other, AS_USER),
    }
    where, who = senders[sender]
    options = ((socket.SOL_SOCKET, SO_MARK, BIT),) if sender.startswith("root") else ()
    payload = rig.payload(rig.names[0]) if rig.backend != "host-gw" else b""
    sendings: dict[str, Sending] = {
        "tunnel packet": datagram(payload, rig.hosts[1].address, rig.port),
        "tunnel packet, forged source": datagram(
            payload, rig.hosts[1].address, rig.port, options=options
        ),
        "tunnel packet for its own host, forged as a peer's": raw(to_own_host(rig)),
        "plain packet": datagram(b"packet", rig.victim.address, PORT),
        "packet": datagram(b"packet", rig.victim.address, PORT),
        "packet, forged source": raw(inner(rig.names[0], rig.victim.address)),
    }
    send(where, who, sendings[what])


@pytest.mark.parametrize(("sender", "what", "backend", "outcome"), [*cells()])
def test_each_cell_of_the_table_is_true(
    rig_of: Callable[[str], Rig], sender: str, what: str, backend: str, outcome: str
) -> None:
    rig = rig_of(backend)
    rig.newly_dropped(0), rig.newly_dropped(1)
    attempt(rig, sender, what)
    caught = rig.caught()
    if outcome == "delivered":
        assert [data for data, _ in caught] == [b"packet"]
        assert (rig.newly_dropped(0), rig.newly_dropped(1)) == ({}, {})
    else:
        (counter,) = re.findall(r"`(\w+)`", outcome)
        assert caught == []
        where = 1 if "there:" in outcome else 0
        rig.wait_dropped({counter: 1}, where)
        assert rig.newly_dropped(1 - where) == {}


def test_the_table_has_all_cells() -> None:
    assert len([*cells()]) == 30
