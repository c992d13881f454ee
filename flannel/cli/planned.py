"""Planner: the kernel's entries that a peer's lease requires on this host, as flanneld plans them.

    planner = make_planner(facts, host)      # None: too little is known
    entries = planner.entries(lease)         # raises BadLease: flanneld cannot use the lease
    hop = planner.hop(lease)                 # the link and gateway of packets to its containers

While flanneld does not run, device and interface follow from the config, and from the own lease.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from flannel.backends.hostgw import plan_peer as plan_hostgw
from flannel.backends.traits import HOST_GW, UDP, VXLAN
from flannel.backends.vxlan import VxlanConfig
from flannel.backends.vxlan.network import plan_peer as plan_vxlan
from flannel.cli.context import Context, DaemonDown
from flannel.cli.facts import Facts
from flannel.cli.host_view import Host
from flannel.errors import BadLease, BadNetworkConfig, KernelError, StoreError
from flannel.handover import subnet_env
from flannel.kernel.entries import Entry, Nexthop, Route
from flannel.kernel.host import TUN_NAME, vxlan_name
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link
from flannel.lease import Lease
from flannel.network_config import NetworkConfig


class Hop(NamedTuple):
    """Where packets to a peer's containers leave this host.

    :ivar link: the index of the link.
    :ivar via: the gateway; None: there is none.
    """

    link: int
    via: IPv4Address | None


@dataclass(frozen=True, slots=True)
class Planner:
    """Plans for one backend.

    :ivar backend: its type: vxlan, host-gw or udp.
    :ivar device: the overlay's own link; None with host-gw.
    :ivar interface: the external interface; None: it is not known.
    :ivar direct: peers on the interface's networks are reached without the tunnel.
    :ivar nexthops: the kernel has nexthop objects.
    """

    backend: str
    device: Link | None
    interface: ExternalInterface | None
    direct: bool
    nexthops: bool

    def entries(self, lease: Lease) -> tuple[Entry, ...]:
        """The entries of one peer; none with udp, which has one route for all.

        :raises BadLease: flanneld cannot use the lease.
        """
        if self.backend == VXLAN.type and self.device is not None:
            direct = self.interface if self.direct else None
            return plan_vxlan(lease, self.device.index, direct, nexthops=self.nexthops)
        if self.backend == HOST_GW.type and self.interface is not None:
            return plan_hostgw(lease, self.interface, nexthops=self.nexthops)
        return ()

    def hop(self, lease: Lease) -> Hop | None:
        """The way to the peer's containers; None: not known.

        :raises BadLease: flanneld cannot use the lease.
        """
        for entry in self.entries(lease):
            if isinstance(entry, Route | Nexthop):
                return Hop(entry.link, IPv4Address(entry.via))
        return Hop(self.device.index, None) if self.device is not None else None


def make_planner(facts: Facts, host: Host) -> Planner | None:
    """The planner of this host's backend; None: backend, device or interface are not known."""
    config, backend = facts.config, facts.backend
    if config is None or config.backend_type != backend:  # flanneld has not followed a change yet
        return None
    interface = _interface(facts, host)
    nexthops = host.tables.has_nexthops
    if backend == HOST_GW.type and interface is not None:
        return Planner(backend, None, interface, direct=True, nexthops=nexthops)
    if backend == UDP.type:
        device = host.link(facts.device or TUN_NAME)
        return Planner(backend, device, interface, direct=False, nexthops=nexthops)
    if backend == VXLAN.type:
        settings = VxlanConfig.from_config(config)
        device = host.link(facts.device or vxlan_name(settings.vni))
        direct = settings.direct_routing
        if direct and interface is None:
            return None
        return Planner(backend, device, interface, direct=direct, nexthops=nexthops)
    return None


def _interface(facts: Facts, host: Host) -> ExternalInterface | None:
    """The external interface as flanneld reports it, or that of the own lease's address."""
    name, ip = "", None
    if facts.interface is not None:
        name, ip = str(facts.interface["name"]), IPv4Address(facts.interface["address"])
    else:
        own = [lease for lease in facts.leases or () if lease.subnet == facts.subnet]
        ip = own[0].attrs.public_ip if own else None
        on = [each.link for each in host.addresses if each.interface.ip == ip]
        name = host.name(on[0]) if on else ""
    link = host.link(name)
    if link is None or ip is None:
        return None
    networks = tuple(each.interface for each in host.addresses if each.link == link.index)
    return ExternalInterface(link.index, link.name, link.mtu, ip, ip, networks)


async def find_left_out(context: Context, leases: Collection[Lease]) -> dict[IPv4Network, str]:
    """Why flanneld here cannot use a lease, by subnet; only those that it cannot use.

    Empty if too little is known of this host.
    """
    facts = Facts(env=subnet_env.read(context.options.subnet_file), leases=tuple(leases))
    with suppress(DaemonDown):
        facts.status = await context.ask_daemon("/status")
    try:
        document = await context.config_document()
        facts.config = NetworkConfig.from_json(document.text) if document is not None else None
        async with context.kernel() as kernel:
            host = await Host.look(kernel.netlink, kernel.tables)
            planner = make_planner(facts, host)
    except (StoreError, BadNetworkConfig, KernelError):
        return {}
    found: dict[IPv4Network, str] = {}
    if planner is None:
        return found
    for lease in leases:
        try:
            planner.entries(lease)
        except BadLease as why:
            found[lease.subnet] = str(why)
    return found
