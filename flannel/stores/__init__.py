"""What we ask of a lease store; any implementation keeps this contract.

    etcd_v2         a store in etcd's v2 API
    etcd_v2_nodes   what its nodes and events mean for leases
    etcd_endpoints  asks the members of an etcd cluster in turn, on python-etcd
    resolver        names of endpoints, resolved in a bounded time
    bounded         answers of bounded size and time

    store = open_store(options.etcd)
    async for document in store.follow_config():    # None while there is none
        ...                                          # until one is good
    async for news in store.follow_leases():         # a Snapshot first, then mostly Changes
        ...
    lease = await store.create(subnet, attrs, ttl)   # nobody else's is ever overwritten
    lease = await store.renew(lease, ttl)            # wakes nobody

Every write is a compare-and-swap, and its outcome is known when it returns: an implementation
whose request may have been carried out without an answer looks before it reports.

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
    """The text at ``<prefix>/config`` and a number that differs for every write to it."""

    text: str
    version: int


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How a store answers; moments are of the monotonic clock.

    :ivar endpoint: the one that is asked first.
    :ivar answered_at: when a request was last answered; None: not yet.
    :ivar heard_at: when a request last came to any end, be it that nobody answered; 0: not yet.
    :ivar errors: requests that nobody served.
    """

    endpoint: str
    answered_at: float | None
    heard_at: float
    errors: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every lease there is; whatever is not here is gone.

    :ivar rewound: the store's history is another than that of the news before: it was emptied or
        restored, and what is not here may be in use all the same.
    :ivar garbled: subnets whose key holds no lease. Where one was read before, it still stands
        among the leases.
    """

    leases: tuple[Lease, ...]
    rewound: bool = False
    garbled: frozenset[IPv4Network] = frozenset()


@dataclass(frozen=True, slots=True)
class Changes:
    """What has happened since the last news, oldest first; never empty."""

    events: tuple[LeaseEvent, ...]


class Store(Protocol):
    """Where the cluster keeps its network config and its leases."""

    def follow_config(self) -> AsyncIterator[ConfigDocument | None]:
        """Yield the config document as it is now (None: there is none), and again at each write."""
        ...

    async def write_config(self, text: str, before: ConfigDocument | None) -> None:
        """Write the config document over ``before`` as it was read; None: there was none.

        :raises ConfigConflict: the store holds another document by now.
        """
        ...

    def follow_leases(self) -> AsyncIterator[Snapshot | Changes]:
        """Yield a `Snapshot`, then what changes, our own lease included, in order.

        Another `Snapshot` may come at any time: when history was lost, or reading all is quicker
        than catching up. Keys and values that are not leases are logged once and left out.
        """
        ...

    def health(self) -> StoreHealth:
        """How the store answers at the moment; asks nothing."""
        ...

    def close(self) -> None:
        """Drop the connections that no request is using; the next request makes a new one."""
        ...

    async def snapshot(self) -> Snapshot:
        """Every lease, as agreed by a majority of the store's members at this moment."""
        ...

    async def find(self, subnet: IPv4Network) -> Lease | None:
        """The lease for ``subnet``, agreed upon like a snapshot; None if there is none.

        :raises BadLease: the key is there and holds none; ``index`` is that of its last write, 0
            if it cannot be written over.
        """
        ...

    async def create(self, subnet: IPv4Network, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """Make a lease of ``ttl`` seconds, or a reservation (None).

        :raises LeaseTaken: the subnet is leased already, with other attributes than these.
        """
        ...

    async def replace(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """Write ``attrs`` and ``ttl`` over ``lease`` as it was read; of it, subnet and index count.

        :raises LeaseChanged: the store holds another lease, or none, for this subnet.
        """
        ...

    async def overwrite(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """As `replace`, for another host's lease.

        A lease that its holder has renewed meanwhile, which changes nothing but its index, is not
        what it was.

        :raises LeaseChanged: the store holds another lease, or none, for this subnet.
        """
        ...

    async def renew(self, lease: Lease, ttl: int) -> Lease:
        """Let ``lease`` last ``ttl`` seconds from now; no watcher hears of it.

        :raises LeaseChanged: the store holds another lease, or none, for this subnet.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Give ``lease`` up; content if it is not there any more.

        :raises LeaseChanged: somebody else holds the subnet.
        """
        ...


class StoreOptions(Protocol):
    """Where the store is and how it is reached: `flannel.options.table.EtcdOptions`."""

    @property
    def access(self) -> Mapping[str, Any]:
        """The arguments of `flannel.stores.etcd_endpoints.Endpoints`."""
        ...

    @property
    def prefix(self) -> str:
        """The key of the network, without a slash at its end."""
        ...


def open_store(options: StoreOptions) -> Store:
    """The store that the options name; asks nothing yet."""
    # Imported here: the libraries behind it take longer to load than all else of flanneld.
    from flannel.stores.etcd_endpoints import Endpoints
    from flannel.stores.etcd_v2 import EtcdV2Store

    return EtcdV2Store(Endpoints(**options.access), options.prefix)
