"""The ways to carry packets between hosts, by the name that the network config gives them.

    backend = load(config, external_interface, kernel)
    lease = ... # acquired with `await backend.lease_attrs(node_id)`
    network = await backend.start(lease)
    await network.apply(peers)                # the whole set: compare with the kernel, repair
    await network.apply(peers, changed)       # only these subnets are different: quick

    hostgw  plain routes         vxlan  the kernel's VXLAN
    alloc   a lease, no packets  udp    packets carried by csrc/
    traits  the facts about each that others need
    mtu     the MTU of those with a tunnel

A backend knows nothing of etcd: it returns what peers must know of this host, and receives what
this host must know of its peers.
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
        """The name of the link that is the network's own; "" if it has none."""
        ...

    @property
    def guard(self) -> Guard | None:
        """Where the kernel takes in what anybody sends; None if it does so nowhere."""
        ...

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """Make the kernel match ``peers``, which is always the whole set.

        :param changed: the subnets whose lease is not what it was in the last call; None says
            that this is not known, nor what the kernel holds: everything is compared.
        :raises KernelError: the network as a whole cannot be kept; a single peer that cannot be
            reached is logged and tried again at the next comparison.
        """
        ...

    def holds(self, at: Key) -> Entry | None:
        """The entry that the network has last written or found at a key of the kernel's tables."""
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
    """What a `Network` has to tell whose packets do not pass this process: nothing."""

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
        """What to publish of this host; may make the device whose MAC is published.

        :param node_id: which host this is; "" where it can keep no identity.
        :raises KernelError: the device cannot be made.
        :raises AlreadyRunning: another flanneld uses it.
        """
        ...

    async def start(self, lease: Lease) -> Network:
        """Begin to serve ``lease``, this host's own.

        :raises KernelError: the device cannot be set up.
        """
        ...


_Factory = Callable[[NetworkConfig, ExternalInterface, Kernel], Backend]


def load(config: NetworkConfig, interface: ExternalInterface, kernel: Kernel) -> Backend:
    """The backend that ``config`` names, on this interface.

    :raises BadNetworkConfig: there is no such backend, its part of the config is wrong, or this
        host cannot run it.
    """
    factory: _Factory = _module(config).backend
    return factory(config, interface, kernel)


def check(config: NetworkConfig) -> int | None:
    """Validate the part of ``config`` for its backend, as far as that does not depend on the host.

    :returns: the UDP port that has to be open between hosts; None: the backend needs none.
    :raises BadNetworkConfig: there is no such backend, or its part of the config is wrong.
    """
    port: int | None = _module(config).check(config)
    return port


def route_length(config: NetworkConfig) -> int:
    """The prefix length of the routes that a host has to its peers."""
    has_one = traits(config.backend_type).has_one_route
    return config.network.prefixlen if has_one else config.subnet_len


def _module(config: NetworkConfig) -> Any:
    """The backend's module, imported when it is wanted.

    It has functions ``backend(config, interface, kernel)`` and ``check(config)``.
    """
    name = traits(config.backend_type).module
    if not name:
        raise BadNetworkConfig(
            f"cannot use the network config: Backend.Type is {config.backend_type!r}, "
            f"and this version serves {', '.join(sorted(BACKENDS))}"
        )
    return import_module(name)
