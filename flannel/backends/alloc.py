"""alloc: leases a subnet; others carry the packets (a cloud's router, static routes)."""

from collections.abc import Collection
from ipaddress import IPv4Network

from flannel.backends import Backend, CarriedByKernel, Network
from flannel.backends.traits import ALLOC
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Key
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs, Peers
from flannel.network_config import NetworkConfig


def check_config(config: NetworkConfig) -> int | None:
    """See `flannel.backends.check_config`; this backend reads no part of the config."""
    return None


def make_backend(config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> Backend:
    """See `flannel.backends.make_backend`."""
    return AllocBackend(config, interface, kernel)


class AllocBackend:
    """Publishes the public address; upstream names no BackendType for it."""

    def __init__(self, config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> None:
        self._config = config
        self._interface = interface
        self._kernel = kernel

    async def lease_attrs(self, node_id: str) -> LeaseAttrs:
        """See `flannel.backends.Backend`."""
        self._kernel.claims.claim(str(self._config.network))
        return LeaseAttrs(self._interface.public_ip, ALLOC.published_as, node_id=node_id)

    async def start(self, _lease: Lease) -> Network:
        """See `flannel.backends.Backend`."""
        tables = self._kernel.tables
        tables.delete([*tables.list_own(self._config.network)])  # of another backend, earlier
        return AllocNetwork(self._interface.mtu)


class AllocNetwork(CarriedByKernel):
    """Keeps nothing; containers may send what the external interface takes."""

    guard = None

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self.device = ""

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """Nothing to do."""

    def holds(self, at: Key) -> Entry | None:
        """It writes none of them."""
