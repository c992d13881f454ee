"""A Status in the middle of a run of the network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from time import monotonic
from types import SimpleNamespace
from typing import Any

from flannel.firewall.keeper import Counter
from flannel.health.status import PARTS, Status
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig
from flannel.options.table import parse
from flannel.stores import StoreHealth

CONFIG = NetworkConfig.from_json('{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}')
HOST, PEER = IPv4Address("192.0.2.11"), IPv4Address("192.0.2.12")
ETH0 = ExternalInterface(2, "eth0", 1500, HOST, HOST, (IPv4Interface("192.0.2.11/24"),))
OWN = Lease(IPv4Network("10.1.5.0/24"), LeaseAttrs(HOST, "vxlan", {"VtepMAC": "x"}), 86400)
PEERS = {IPv4Network("10.1.9.0/24"): Lease(IPv4Network("10.1.9.0/24"), LeaseAttrs(PEER), 86400)}


class FakeNetwork:
    """A network whose device is loopback's, which every namespace has."""

    device, mtu = "lo", 1450

    def __init__(self) -> None:
        self.wrong = ""

    def counters(self) -> dict[str, int]:
        return {"rx_spoofed": 7}

    def trouble(self) -> str:
        return self.wrong


class FakeFirewall:
    """A guard that has dropped something.

    :ivar refusal: raised instead of returning the counters.
    :ivar readings: how often the counters were read.
    """

    is_guarded, wants_guard, repairs, failures = True, True, 2, 3

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.readings = 0

    async def counters(self) -> Mapping[str, Counter]:
        self.readings += 1
        if self.refusal is not None:
            raise self.refusal
        return {"stranger": Counter(5, 500)}


class OneStatus:
    """A Status, and all that it reads."""

    def __init__(self) -> None:
        self.heard = StoreHealth("http://192.0.2.1:2379", monotonic(), monotonic(), 3)
        self.status = Status(parse([], {}), lambda: self.heard)
        self.network: Any = FakeNetwork()
        self.firewall = FakeFirewall()

    @contextmanager
    def serve(self) -> Iterator[None]:
        """One run of the network."""
        subnets = SimpleNamespace(peers=PEERS)
        self.status.serve(CONFIG, ETH0, subnets, self.network, self.firewall)
        yield
        self.status.end("the body is over")

    def finish(self) -> None:
        """All parts are done."""
        self.status.leased(OWN, 40000.0)
        for part in PARTS:
            self.status.has(part)
