"""A host of vxlan and host-gw networks without a flanneld, its peers' leases, and its tables."""

import asyncio
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from private_network import ip, link_index, run

from flannel.backends.hostgw import HostGwNetwork
from flannel.backends.vxlan.network import VxlanNetwork
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

CONFIG = NetworkConfig.from_json('{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}')


class Host:
    """A namespace with eth0 and flannel.1, and the networks that serve it."""

    def __init__(self, tables: RtNetlink) -> None:
        ip("link add eth0 type veth peer name far0")
        ip("addr add 192.0.2.1/24 dev eth0")
        ip("link set far0 up")
        ip("link set eth0 up")
        ip("link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.1 dstport 8472 nolearning")
        ip("addr add 10.5.1.0/32 dev flannel.1")
        ip("link set flannel.1 up")
        self.tables = tables
        # The tests below change no links: a Netlink that is not open is never used.
        self.kernel = Kernel(Netlink.__new__(Netlink), tables)
        address = IPv4Address("192.0.2.1")
        self.interface = ExternalInterface(
            link_index("eth0"), "eth0", 1500, address, address, (IPv4Interface("192.0.2.1/24"),)
        )

    def vxlan(self, *, direct_routing: bool = False) -> VxlanNetwork:
        async def link() -> Link:
            return Link(link_index("flannel.1"), "flannel.1", "vxlan", 1450, True, "")

        return VxlanNetwork(
            kernel=self.kernel,
            network=CONFIG.network,
            interface=self.interface,
            mtu=1450,
            guard=Guard("flannel.1", "eth0", port=8472, vni=1),
            direct_routing=direct_routing,
            ensure_link=link,
        )

    def host_gw(self) -> HostGwNetwork:
        return HostGwNetwork(CONFIG, self.interface, self.kernel)


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


def vxlan_peer(number: int, host: int | None = None, vtep: int | None = None) -> Lease:
    attrs = LeaseAttrs(
        IPv4Address(f"192.0.2.{host or number}"), "vxlan", {"VtepMAC": mac(vtep or number)}
    )
    return Lease(IPv4Network(f"10.5.{number}.0/24"), attrs)


def host_gw_peer(number: int, address: str = "") -> Lease:
    attrs = LeaseAttrs(IPv4Address(address or f"192.0.2.{number}"), "host-gw")
    return Lease(IPv4Network(f"10.5.{number}.0/24"), attrs)


def peers(*leases: Lease) -> dict[IPv4Network, Lease]:
    return {lease.subnet: lease for lease in leases}


def apply(
    network: VxlanNetwork | HostGwNetwork, *leases: Lease, changed: list[int] | None = None
) -> None:
    subnets = None if changed is None else [IPv4Network(f"10.5.{n}.0/24") for n in changed]
    asyncio.run(network.apply(peers(*leases), subnets))


def overlay_routes() -> list[str]:
    """The routes into the network as ``ip route`` shows them, without ids."""
    lines = ip("route show root 10.5.0.0/16").splitlines()
    return [" ".join(line.split(" nhid ")[0].split() + line.split()[3:])
            if " nhid " in line else " ".join(line.split()) for line in lines]  # fmt: skip


def neighbours() -> list[str]:
    return sorted(line.strip() for line in ip("neigh show dev flannel.1").splitlines())


def fdb() -> list[str]:
    return sorted(
        line.strip() for line in run("bridge", "fdb", "show", "dev", "flannel.1").splitlines()
    )


def nexthops() -> list[str]:
    return ip("nexthop show").splitlines()


PEER_2 = (
    ["10.5.2.0/24 via 10.5.2.0 dev flannel.1 proto 102 onlink"],
    [f"10.5.2.0 lladdr {mac(2)} PERMANENT"],
    [f"{mac(2)} dst 192.0.2.2 self permanent"],
)
NOTHING: tuple[list[str], list[str], list[str]] = ([], [], [])


def state() -> tuple[list[str], list[str], list[str]]:
    return overlay_routes(), neighbours(), fdb()
