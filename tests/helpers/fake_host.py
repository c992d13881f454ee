"""A host with eth0 and a default route, in memory."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from fake_kernel import FakeNetlink, FakeTables

from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link
from flannel.kernel.rtmessages import FoundRoute

HOST = IPv4Address("192.0.2.1")
ETH0 = ExternalInterface(2, "eth0", 1500, HOST, HOST, (IPv4Interface("192.0.2.1/24"),))


class FakeHost:
    """Its kernel, as a daemon gets it, and both of its doors."""

    def __init__(self) -> None:
        self.netlink = FakeNetlink(Link(2, "eth0", "", 1500, True, "02:00:00:00:00:02"))
        self.netlink.address(2, "192.0.2.1/24")
        self.tables = FakeTables()
        self.tables.foreign.append(
            FoundRoute(IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.254"), 2, 0)
        )
        self.kernel = Kernel(self.netlink, self.tables)
