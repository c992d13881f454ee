"""host-gw: plain routes, each peer's host being the gateway to its subnet.

No encapsulation and the full MTU; all hosts must be on one network.
"""

from collections.abc import Collection, Iterable
from ipaddress import IPv4Network

from flannel.backends import Backend, CarriedByKernel, Network
from flannel.backends.traits import HOST_GW
from flannel.errors import BadLease, BadNetworkConfig
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Key, routed
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.peer_tables import PeerTables
from flannel.lease import Lease, LeaseAttrs, Peers
from flannel.network_config import NetworkConfig


def check_config(config: NetworkConfig) -> int | None:
    """See `flannel.backends.check_config`; this backend reads no part of the config."""
    return None


def make_backend(config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> Backend:
    """See `flannel.backends.make_backend`.

    :raises BadNetworkConfig: peers would use ``-public-ip`` as gateway, where we are not.
    """
    if interface.public_ip != interface.address:
        raise BadNetworkConfig(
            f"cannot use backend host-gw on this host: the public address {interface.public_ip} "
            f"is not the address of {interface.name}, {interface.address}, and peers on the same "
            "network must send to that"
        )
    return HostGwBackend(config, interface, kernel)


class HostGwBackend:
    """Publishes the address of the external interface."""

    def __init__(self, config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> None:
        self._config = config
        self._interface = interface
        self._kernel = kernel

    async def lease_attrs(self, node_id: str) -> LeaseAttrs:
        """See `flannel.backends.Backend`."""
        self._kernel.claims.claim(str(self._config.network))
        return LeaseAttrs(self._interface.public_ip, HOST_GW.published_as, node_id=node_id)

    async def start(self, _lease: Lease) -> Network:
        """See `flannel.backends.Backend`."""
        return HostGwNetwork(self._config, self._interface, self._kernel)


class HostGwNetwork(CarriedByKernel):
    """One route a peer, on the external interface."""

    def __init__(self, config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> None:
        self.mtu = interface.mtu
        self.device = ""
        self.guard = Guard(device="", interface=interface.name, routed=True)
        self._interface = interface
        self._kernel = kernel
        self._tables = PeerTables(
            kernel.tables,
            self.plan,
            lambda: kernel.tables.list_own(config.network),
            kernel.repairs,
        )

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """See `flannel.backends.Network`."""
        await self._tables.apply(peers, changed)

    def holds(self, at: Key) -> Entry | None:
        """See `flannel.backends.Network`."""
        return self._tables.holds(at)

    def plan(self, lease: Lease) -> Iterable[Entry]:
        """The route to one peer.

        :raises BadLease: the peer is behind a router, or runs another backend.
        """
        return plan_peer(lease, self._interface, nexthops=self._kernel.tables.has_nexthops)


def plan_peer(lease: Lease, interface: ExternalInterface, *, nexthops: bool) -> tuple[Entry, ...]:
    """See `HostGwNetwork.plan`.

    :param nexthops: the kernel has nexthop objects.
    """
    attrs = lease.attrs
    if attrs.backend != HOST_GW.type:
        raise BadLease(f"its backend is {attrs.backend}, not {HOST_GW.type}")
    if not interface.is_on_link(attrs.public_ip):
        raise BadLease(
            f"{attrs.public_ip} is on no network of {interface.name}, "
            "and host-gw reaches only hosts without a router between"
        )
    return routed(lease.subnet, attrs.public_ip, interface.link, nexthops=nexthops)
