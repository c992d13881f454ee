"""The ways to carry packets between hosts, by the name that the network config gives them.

    port = check_config(config)               # raises if the backend cannot use its part of it
    backend = make_backend(config, external_interface, kernel)
    lease = ... # acquired with `await backend.lease_attrs(node_id)`
    network = await backend.start(lease)
    await network.apply(peers)                # compare all peers with the kernel, repair
    await network.apply(peers, changed)       # write only these subnets: quick

    hostgw  plain routes         vxlan  the kernel's VXLAN
    alloc   a lease, no packets  udp    packets carried by csrc/
    traits  the facts about each backend that other wings need
    mtu     the MTU of backends with a tunnel

A backend does not use etcd: it returns the lease attributes that peers need, and receives the
leases of the peers.
"""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from ipaddress import IPv4Network
from typing import Any, Protocol

from flannel.backends.traits import BACKENDS, traits
from flannel.errors import BadNetworkConfig
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Entry, Key
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs, Peers
from flannel.network_config import NetworkConfig


class Network(Protocol):
    """A running overlay on this host."""

    @property
    def mtu(self) -> int:
        """The largest IP packet, in bytes, that a container may send without fragmentation."""
        ...

    @property
    def device(self) -> str:
        """The name of the network's own link; "" if it has none."""
        ...

    @property
    def guard(self) -> Guard | None:
        """What the firewall must guard; None: nothing."""
        ...

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """Make the kernel match ``peers``, which is always the whole set.

        :param changed: the subnets whose lease has changed since the last call; None: unknown, so
            all entries in the kernel are compared with ``peers``.
        :raises KernelError: the network as a whole cannot be kept; a single peer that cannot be
            reached is logged and tried again at the next comparison.
        """
        ...

    def holds(self, at: Key) -> Entry | None:
        """The entry that the network last wrote or found at a key of the kernel's tables."""
        ...

    def counters(self) -> Mapping[str, int]:
        """Packets that were not carried, by reason; empty where the kernel carries them."""
        ...

    def trouble(self) -> str:
        """Why no packets are carried at the moment; "" if they are, or the kernel carries them."""
        ...

    async def run(self) -> None:
        """Carry packets until cancelled; returns at once where the kernel does that by itself."""
        ...


class CarriedByKernel:
    """The part of a `Network` that is empty if the kernel carries the packets."""

    def counters(self) -> Mapping[str, int]:
        """See `Network`."""
        return {}

    def trouble(self) -> str:
        """See `Network`."""
        return ""

    async def run(self) -> None:
        """See `Network`."""


class Backend(Protocol):
    """One way to carry packets between hosts."""

    async def lease_attrs(self, node_id: str) -> LeaseAttrs:
        """The attributes that this host publishes; may make the device whose MAC is published.

        :param node_id: the identity of this host; "" if it cannot keep one.
        :raises KernelError: the device cannot be made.
        :raises AlreadyRunning: another flanneld uses it.
        """
        ...

    async def start(self, lease: Lease) -> Network:
        """Start to serve ``lease``, this host's own.

        :raises KernelError: the device cannot be set up.
        """
        ...


_Factory = Callable[[NetworkConfig, ExternalInterface, Kernel], Backend]


def make_backend(config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> Backend:
    """The backend that ``config`` names, on this interface.

    :raises BadNetworkConfig: there is no such backend, its part of the config is wrong, or this
        host cannot run it.
    """
    factory: _Factory = _module(config).make_backend
    return factory(config, interface, kernel)


def check_config(config: NetworkConfig) -> int | None:
    """Validate the part of ``config`` for its backend, as far as that does not depend on the host.

    :returns: the UDP port that must be open between hosts; None: the backend needs none.
    :raises BadNetworkConfig: there is no such backend, or its part of the config is wrong.
    """
    port: int | None = _module(config).check_config(config)
    return port


def route_length(config: NetworkConfig) -> int:
    """The prefix length of the routes to peers."""
    has_one = traits(config.backend_type).has_one_route
    return config.network.prefixlen if has_one else config.subnet_len


def _module(config: NetworkConfig) -> Any:
    """The backend's module, imported on demand.

    It has functions ``make_backend(config, interface, kernel)`` and ``check_config(config)``.
    """
    name = traits(config.backend_type).module
    if not name:
        raise BadNetworkConfig(
            f"cannot use the network config: Backend.Type is {config.backend_type!r}, "
            f"and this version serves {', '.join(sorted(BACKENDS))}"
        )
    return import_module(name)
