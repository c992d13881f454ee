"""Decides whether the overlay's range is free on this host, and which links are ours."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from flannel.kernel.links import Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.kernel.surroundings import Surroundings, look_around
from flannel.network_config import NetworkConfig

DOCKER_BRIDGE = "docker0"
"""dockerd's default bridge, which gets the lease's subnet when docker restarts. With its option
``--bridge`` dockerd uses a different one, unknown to us."""
CONTAINER_BRIDGE = "flannel-br"
"""The bridge of the networks that -hand-over makes; docker, podman or a CNI plugin makes it."""
ALIAS = "flannel"
"""The alias of each link that we make."""

TUN_NAME = "flannel0"
"""Upstream asks the kernel for ``flannel%d``, and gets this as the only one to ask."""


def vxlan_name(vni: int) -> str:
    """The name that tools expect."""
    return f"flannel.{vni}"


@dataclass(frozen=True, slots=True)
class Claim:
    """The overlay's claim to addresses of this host.

    :ivar route_len: the prefix length of the routes that lead into the overlay: a route of this
        host that is less specific takes none of their packets.
    :ivar own: subnets of this host's own lease; its container bridge is there.
    :ivar gateways: public addresses of lease holders; routes over them into the network are those
        of another flannel daemon, which ours will replace.
    """

    config: NetworkConfig
    route_len: int
    own: Collection[IPv4Network] = ()
    gateways: Collection[IPv4Address] = ()

    def meets(self, dst: IPv4Network) -> bool:
        """Whether a route to ``dst`` takes packets of the overlay."""
        config = self.config
        is_among = dst[0] <= config.last_leasable and dst[-1] >= config.subnet_min
        return is_among and dst.prefixlen >= self.route_len

    def is_own(self, dst: IPv4Network) -> bool:
        """Whether ``dst`` is in the subnet of this host."""
        return any(dst.subnet_of(each) for each in self.own)


async def find_overlap(netlink: Netlink, tables: RtNetlink, claim: Claim) -> str:
    """`overlap` with the present addresses and routes of this host.

    :raises KernelError: it cannot be read.
    """
    return overlap(await look_around(netlink, tables), claim)


def overlap(host: Surroundings, claim: Claim) -> str:
    """The first address or route of this host that takes packets of the overlay; "" if none does.

    Less specific routes are like the default route. docker0 has docker's own choice of addresses
    until docker is restarted with the lease's, which it is as soon as there is a lease.
    """
    for address in host.addresses:
        interface, link = address.interface, host.links.get(address.link)
        if _is_expected(link) or claim.is_own(interface.network):
            continue
        # The address is taken from a container even where its network is wide; that of a bridge
        # is the gateway of local containers, and other hosts do not send to it.
        takes_one = claim.config.may_lease(interface.ip) and (link is None or link.kind != "bridge")
        if takes_one or claim.meets(interface.network):
            return f"address {interface} of {host.name(address.link)}"
    for route in host.routes:
        dst = route.dst
        if not claim.meets(dst) or claim.is_own(dst) or _is_expected(host.links.get(route.link)):
            continue
        if dst.subnet_of(claim.config.network) and route.via in claim.gateways:
            continue
        via = f" via {route.via}" if route.via else ""
        return f"route {dst}{via} dev {host.name(route.link)}"
    return ""


def docker_takes(host: Surroundings, claim: Claim) -> str:
    """The network of docker's bridge that takes packets of the overlay; "" if it takes none."""
    for route in host.routes:
        link = host.links.get(route.link)
        if _is_docker(link) and claim.meets(route.dst) and not claim.is_own(route.dst):
            return str(route.dst)
    return ""


def _is_expected(link: Link | None) -> bool:
    if link is None:
        return False
    # The bridge may still have the address of an earlier lease, as docker0.
    return _is_docker(link) or is_container_bridge(link) or is_ours(link)


def is_container_bridge(link: Link) -> bool:
    """Whether it is the bridge of -hand-over."""
    return (link.name, link.kind) == (CONTAINER_BRIDGE, "bridge")


def _is_docker(link: Link | None) -> bool:
    return link is not None and (link.name, link.kind) == (DOCKER_BRIDGE, "bridge")


def is_ours(link: Link) -> bool:
    """Whether a flanneld made the link: one of this version, or upstream's.

    Ours keeps its alias when somebody renames it; upstream's is known by its name only.
    """
    if link.vxlan is None and link.kind != "tun":
        return False
    return link.alias == ALIAS or link.name == name_of_ours(link)


def name_of_ours(link: Link) -> str:
    """The name that we, and upstream, give to a link like this."""
    return TUN_NAME if link.vxlan is None else vxlan_name(link.vxlan.vni)
