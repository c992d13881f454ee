"""The contract of a lease store; every implementation keeps it.

    etcd_v2         the store on etcd's v2 API
    etcd_v2_nodes   translates etcd's nodes and events into leases
    etcd_endpoints  asks the members of an etcd cluster in turn, on python-etcd
    resolver        names of endpoints, resolved in a bounded time
    tls_trouble     which side refuses which certificate, and why
    idle_cuts       a balancer that ends silent connections
    bounded         answers of bounded size and time

    store = open_store(options.etcd)
    async for document in store.follow_config():    # None while there is no document
        ...
    async for news in store.follow_leases():         # a Snapshot first, then mostly Changes
        ...
    lease = await store.create(subnet, attrs, ttl)   # never overwrites another host's lease
    lease = await store.renew(lease, ttl)            # sends no event

Every write is a compare-and-swap, and its outcome is known when it returns: if the answer to a
request was lost, the implementation reads what is there before it returns.

Every method may raise `StoreUnavailable` or `StoreDenied`. An iterator that raised is finished;
a new one starts from a snapshot again, so nothing is missed.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any, Protocol

from flannel.lease import Lease, LeaseAttrs, LeaseEvent


@dataclass(frozen=True, slots=True)
class ConfigDocument:
    """The text at ``<prefix>/config``, and the store's number of the last write to it.

    A lease with a larger ``index`` was written later.
    """

    text: str
    version: int


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How a store answers; moments are of the monotonic clock.

    :ivar endpoint: the endpoint that is asked first.
    :ivar answered_at: when a request was last answered; None: not yet.
    :ivar heard_at: when a request last ended, with an answer or an error; 0: not yet.
    :ivar errors: the number of requests that no endpoint served.
    """

    endpoint: str
    answered_at: float | None
    heard_at: float
    errors: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every lease in the store; all others are gone.

    :ivar rewound: True if the store's history differs from that of the news before: it was emptied
        or restored, and a subnet that is missing here may still be in use.
    :ivar garbled: subnets whose key holds a value that is not a lease. The last good lease of such
        a key is still among the leases.
    """

    leases: tuple[Lease, ...]
    rewound: bool = False
    garbled: frozenset[IPv4Network] = frozenset()


@dataclass(frozen=True, slots=True)
class Changes:
    """The events since the last news, oldest first; never empty."""

    events: tuple[LeaseEvent, ...]


class Store(Protocol):
    """Holds the cluster's network config and leases."""

    def follow_config(self) -> AsyncIterator[ConfigDocument | None]:
        """Yield the config document (None: there is none), and again after each write."""
        ...

    async def write_config(self, text: str, before: ConfigDocument | None) -> None:
        """Replace the config document ``before``, which was read earlier; None: there was none.

        :raises ConfigConflict: the store holds a different document now.
        """
        ...

    def follow_leases(self) -> AsyncIterator[Snapshot | Changes]:
        """Yield a `Snapshot`, then all changes in order, those of our own lease included.

        Another `Snapshot` may follow at any time: if history was lost, or if reading all leases is
        quicker than catching up. Keys and values that are not leases are logged once and left out.
        """
        ...

    def health(self) -> StoreHealth:
        """How the store answers at the moment; sends no request."""
        ...

    def close(self) -> None:
        """Close the connections that no request uses; the next request makes a new one."""
        ...

    async def snapshot(self) -> Snapshot:
        """Every lease, read with a quorum of the store's members."""
        ...

    async def find(self, subnet: IPv4Network) -> Lease | None:
        """The lease for ``subnet``, read with a quorum; None if there is none.

        :raises BadLease: the key exists and does not hold a lease; ``index`` is that of its last
            write, 0 if it cannot be overwritten.
        """
        ...

    async def create(self, subnet: IPv4Network, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """Make a lease of ``ttl`` seconds, or a reservation (None).

        :raises LeaseTaken: the subnet is leased already, with different attributes.
        """
        ...

    async def replace(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """Write ``attrs`` and ``ttl`` over ``lease``, of which only subnet and index count.

        :raises LeaseChanged: the store holds another lease, or none, for this subnet.
        """
        ...

    async def overwrite(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """As `replace`, for another host's lease.

        A lease that its holder has renewed meanwhile counts as changed, though only its index
        differs.

        :raises LeaseChanged: the store holds another lease, or none, for this subnet.
        """
        ...

    async def renew(self, lease: Lease, ttl: int) -> Lease:
        """Let ``lease`` last ``ttl`` seconds from now; watchers get no event.

        :raises LeaseChanged: the store holds another lease, or none, for this subnet.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Remove ``lease``; a lease that is missing already is no error.

        :raises LeaseChanged: another host holds the subnet.
        """
        ...


class StoreOptions(Protocol):
    """The address of the store and how to reach it: `flannel.options.table.EtcdOptions`."""

    @property
    def access(self) -> Mapping[str, Any]:
        """The arguments of `flannel.stores.etcd_endpoints.Endpoints`."""
        ...

    @property
    def prefix(self) -> str:
        """The key of the network, without a slash at its end."""
        ...


def open_store(options: StoreOptions) -> Store:
    """The store that the options name; sends no request yet."""
    # Imported here: these libraries take longer to load than the rest of flanneld.
    from flannel.stores.etcd_endpoints import Endpoints
    from flannel.stores.etcd_v2 import EtcdV2Store

    return EtcdV2Store(Endpoints(**options.access), options.prefix)
