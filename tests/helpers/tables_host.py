"""A PeerTables over tables in memory, whose plan for a peer is that of vxlan."""

import asyncio
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from fake_kernel import FakeTables

from flannel.errors import BadLease
from flannel.kernel.entries import Entry, Fdb, Neighbour, key, routed
from flannel.kernel.peer_tables import PeerTables
from flannel.kernel.repairs import Repairs
from flannel.lease import Lease, LeaseAttrs

LINK = 7
NETWORK = IPv4Network("10.5.0.0/16")


def subnet(number: int) -> IPv4Network:
    return IPv4Network(f"10.5.{number}.0/24")


def peer(number: int, *, host: int | None = None, mac: int | None = None) -> Lease:
    data = {"VtepMAC": bytes((2, 0, 0, 0, 0, mac or number)).hex(":")}
    attrs = LeaseAttrs(IPv4Address(f"192.0.2.{host or number}"), "vxlan", data)
    return Lease(subnet(number), attrs)


class Host:
    """A PeerTables that plans four entries a peer, as vxlan does, and its kernel."""

    def __init__(self, *, has_nexthops: bool = True) -> None:
        self.kernel = FakeTables(has_nexthops=has_nexthops)
        self.repairs = Repairs()
        self.reads = 0
        self.via: IPv4Address | None = None
        """The gateway of all peers; None: each has its own, as with vxlan."""
        self.tables = PeerTables(self.kernel, self.plan, self.read, self.repairs)

    def plan(self, lease: Lease) -> Iterable[Entry]:
        data = lease.attrs.backend_data
        if data is None:
            raise BadLease("it publishes no MAC")
        mac = bytes.fromhex(data["VtepMAC"].replace(":", ""))
        via = self.via or lease.subnet.network_address
        return (
            Fdb(mac, LINK, lease.attrs.public_ip.packed),
            Neighbour(via.packed, LINK, mac),
            *routed(lease.subnet, via, LINK, onlink=True, nexthops=self.kernel.has_nexthops),
        )

    def read(self) -> Iterable[Entry]:
        self.reads += 1
        yield from self.kernel.list_own(NETWORK, LINK)
        yield from self.kernel.list_neighbours(LINK)
        yield from self.kernel.list_fdb(LINK)

    def apply(self, *leases: Lease, changed: Iterable[int] | None = None) -> None:
        subnets = None if changed is None else [subnet(number) for number in changed]
        asyncio.run(self.tables.apply({each.subnet: each for each in leases}, subnets))

    def has(self, *leases: Lease) -> bool:
        """Whether the kernel holds exactly the entries of these leases."""
        wanted = {key(entry): entry for lease in leases for entry in self.plan(lease)}
        return self.kernel.entries == wanted

    def repaired(self) -> int:
        """End a comparison; return how many entries it repaired."""
        before = self.repairs.total
        self.repairs.commit("flannel.1")
        return self.repairs.total - before
