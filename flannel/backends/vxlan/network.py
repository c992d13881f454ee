"""VxlanNetwork: what a peer's lease means for routes, ARP and the FDB."""

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from ipaddress import IPv4Network

from flannel.backends import CarriedByKernel
from flannel.backends.traits import VXLAN
from flannel.document import Members, shown
from flannel.errors import BadLease
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Fdb, Key, Neighbour, routed
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link
from flannel.kernel.peer_tables import PeerTables
from flannel.lease import Lease, Peers

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-])(?:[0-9a-fA-F]{2}\1){4}[0-9a-fA-F]{2}")


class VxlanNetwork(CarriedByKernel):
    """Serves one lease over the link that ``ensure_link`` keeps."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        network: IPv4Network,
        interface: ExternalInterface,
        mtu: int,
        guard: Guard,
        direct_routing: bool,
        ensure_link: Callable[[], Awaitable[Link]],
    ) -> None:
        self.mtu = mtu
        self.device = guard.device
        self.guard = guard
        self._kernel = kernel
        self._network = network
        self._interface = interface
        self._direct_routing = direct_routing
        self._ensure_link = ensure_link
        self._link = 0
        self._tables = self._new_tables()

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """See `flannel.backends.Network`."""
        if changed is None:
            link = (await self._ensure_link()).index
            if link != self._link:
                # Plans name the link by its index: a rebuilt link calls for new ones.
                self._link = link
                self._tables = self._new_tables()
        await self._tables.apply(peers, changed)

    def holds(self, at: Key) -> Entry | None:
        """See `flannel.backends.Network`."""
        return self._tables.holds(at)

    def plan(self, lease: Lease) -> Iterable[Entry]:
        """The entries for one peer.

        :raises BadLease: it runs another backend, or publishes no usable MAC.
        """
        direct = self._interface if self._direct_routing else None
        return plan_peer(lease, self._link, direct, nexthops=self._kernel.tables.has_nexthops)

    def _new_tables(self) -> PeerTables:
        return PeerTables(self._kernel.tables, self.plan, self._read, self._kernel.repairs)

    def _read(self) -> Iterable[Entry]:
        tables = self._kernel.tables
        yield from tables.list_own(self._network, self._link)
        yield from tables.list_neighbours(self._link)
        yield from tables.list_fdb(self._link)


def plan_peer(
    lease: Lease, link: int, direct: ExternalInterface | None, *, nexthops: bool
) -> tuple[Entry, ...]:
    """See `VxlanNetwork.plan`.

    :param link: the index of the VXLAN link.
    :param direct: the interface on whose networks peers are reached without the tunnel.
    :param nexthops: the kernel has nexthop objects.
    """
    attrs = lease.attrs
    if attrs.backend != VXLAN.type:
        raise BadLease(f"its backend is {attrs.backend}, not {VXLAN.type}")
    if direct is not None and direct.is_on_link(attrs.public_ip):
        return routed(lease.subnet, attrs.public_ip, direct.link, nexthops=nexthops)
    mac = parse_vtep_mac(attrs.backend_data)
    via = lease.subnet.network_address
    return (
        Fdb(mac, link, attrs.public_ip.packed),
        Neighbour(via.packed, link, mac),
        *routed(lease.subnet, via, link, onlink=True, nexthops=nexthops),
    )


def parse_vtep_mac(backend_data: object) -> bytes:
    """The peer's MAC from its BackendData, 6 bytes.

    :raises BadLease: there is none, or none that one host can have.
    """
    text = Members(backend_data).get("VtepMAC") if isinstance(backend_data, dict) else None
    if not isinstance(text, str) or not _MAC.fullmatch(text):
        raise BadLease(f"its VtepMAC is {shown(text)}, not a MAC address")
    mac = bytes.fromhex(text.replace(text[2], ""))
    if mac[0] & 1 or not any(mac):  # IEEE 802: bit 0 of the first octet marks a group
        raise BadLease(f"its VtepMAC is {text}, not the address of one host")
    return mac
