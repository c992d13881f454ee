"""A store in memory that keeps the contract of `flannel.stores.Store`, for tests of policy."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Network

from flannel.errors import BadLease, ConfigConflict, LeaseChanged, LeaseTaken, StoreUnreachable
from flannel.lease import Lease, LeaseAdded, LeaseAttrs, LeaseEvent, LeaseRemoved
from flannel.stores import Changes, ConfigDocument, Snapshot, StoreHealth


class FakeStore:
    """Leases last until `remove`; ``stale`` makes the next snapshots those of an earlier moment.

    :ivar refusal: what every request ends with at the moment.
    :ivar garbled: subnets of which the key holds no lease, and by which write; as in etcd's, what
        such a one was before still stands in snapshots.
    """

    def __init__(self) -> None:
        self.leases: dict[IPv4Network, Lease] = {}
        self.garbled: dict[IPv4Network, int] = {}
        self.index = 0
        self.stale: list[Snapshot] = []
        self.renewals = 0
        self.refusal: StoreUnreachable | None = None
        self.closed = 0
        self._config: ConfigDocument | None = None
        self._readers: list[asyncio.Queue[ConfigDocument | StoreUnreachable | None]] = []
        self._watchers: list[asyncio.Queue[Snapshot | Changes | StoreUnreachable]] = []

    async def follow_config(self) -> AsyncIterator[ConfigDocument | None]:
        self._answer()
        queue: asyncio.Queue[ConfigDocument | StoreUnreachable | None] = asyncio.Queue()
        self._readers.append(queue)
        yield self._config
        while True:
            news = await queue.get()
            if isinstance(news, StoreUnreachable):
                raise news
            yield news

    async def write_config(self, text: str, before: ConfigDocument | None) -> None:
        self._answer()
        if before != self._config:
            raise ConfigConflict("cannot write the network config: it has changed meanwhile")
        self.configure(text)

    def configure(self, text: str | None) -> None:
        """Write the network config as an operator does; None removes it."""
        self.index += 1
        self._config = ConfigDocument(text, self.index) if text is not None else None
        for queue in self._readers:
            queue.put_nowait(self._config)

    def go_down(self, why: StoreUnreachable) -> None:
        """Refuse all requests, and break those that wait for news."""
        self.refusal = why
        for reader in self._readers:
            reader.put_nowait(why)
        for watcher in self._watchers:
            watcher.put_nowait(why)

    async def follow_leases(self) -> AsyncIterator[Snapshot | Changes]:
        self._answer()
        queue: asyncio.Queue[Snapshot | Changes | StoreUnreachable] = asyncio.Queue()
        self._watchers.append(queue)
        yield self._now()
        while True:
            news = await queue.get()
            if isinstance(news, StoreUnreachable):
                raise news
            yield news

    def health(self) -> StoreHealth:
        return StoreHealth("fake", None, 0, 0)

    def close(self) -> None:
        self.closed += 1

    async def snapshot(self) -> Snapshot:
        self._answer()
        return self.stale.pop(0) if self.stale else self._now()

    async def find(self, subnet: IPv4Network) -> Lease | None:
        self._answer()
        if subnet in self.garbled:
            bad = BadLease("it is garbage")
            bad.index = self.garbled[subnet]
            raise bad
        return self.leases.get(subnet)

    async def create(self, subnet: IPv4Network, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        self._answer()
        found = self.leases.get(subnet)
        if subnet in self.garbled:
            raise LeaseTaken(f"cannot lease {subnet}")
        if found is None:
            return self.put(subnet, attrs, ttl)
        if found.attrs != attrs:
            raise LeaseTaken(f"cannot lease {subnet}")
        return found

    async def replace(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        self._check(lease)
        return self.put(lease.subnet, attrs, ttl)

    async def overwrite(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        return await self.replace(lease, attrs, ttl)

    async def renew(self, lease: Lease, ttl: int) -> Lease:
        self._check(lease)
        self.renewals += 1
        return self.put(lease.subnet, lease.attrs, ttl, quietly=True)

    async def release(self, lease: Lease) -> None:
        self._check(lease)
        self.remove(lease.subnet)

    def put(
        self, subnet: IPv4Network, attrs: LeaseAttrs, ttl: int | None, *, quietly: bool = False
    ) -> Lease:
        """Write as some host does, without conditions."""
        self.index += 1
        lease = self.leases[subnet] = Lease(subnet, attrs, ttl, self.index)
        self.garbled.pop(subnet, None)
        if not quietly:
            self._tell(LeaseAdded(lease))
        return lease

    def garble(self, subnet: IPv4Network, index: int | None = None) -> None:
        """Write what is no lease, unheard.

        :param index: of that write; 0 makes it one that cannot be written over.
        """
        self.index += 1
        self.garbled[subnet] = self.index if index is None else index

    def remove(self, subnet: IPv4Network) -> None:
        """Delete, or let expire."""
        del self.leases[subnet]
        self._tell(LeaseRemoved(subnet))

    def tell(self, news: Snapshot | Changes) -> None:
        """Let watchers hear something."""
        for queue in self._watchers:
            queue.put_nowait(news)

    def _tell(self, event: LeaseEvent) -> None:
        self.tell(Changes((event,)))

    def _now(self) -> Snapshot:
        return Snapshot(tuple(self.leases.values()), garbled=frozenset(self.garbled))

    def _answer(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def _check(self, lease: Lease) -> None:
        self._answer()
        found = self.leases.get(lease.subnet)
        index = self.garbled.get(lease.subnet, found.index if found is not None else None)
        if index != lease.index:
            raise LeaseChanged(f"cannot write lease {lease.subnet}")
