"""EtcdV2Store: the store on etcd's v2 API.

Requests block, so each runs in its own thread, which ends with the request or with the process: a
thread of an executor would delay the process's exit until a poll ends. Everything else runs in the
event loop's thread.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from ipaddress import IPv4Network
from random import SystemRandom
from time import monotonic
from typing import NamedTuple, TypeVar

from flannel.errors import BadLease, ConfigConflict, LeaseChanged, LeaseTaken, StoreUnavailable
from flannel.lease import Lease, LeaseAttrs, subnet_key
from flannel.stores import Changes, ConfigDocument, Snapshot
from flannel.stores.etcd_endpoints import (
    Answer,
    Conflict,
    Endpoints,
    HistoryLost,
    NotFound,
    ValueRefused,
)
from flannel.stores.etcd_v2_nodes import LeaseNodes, lease_in, ttl_of
from flannel.threads import NoThread, in_thread

log = logging.getLogger(__name__)
T = TypeVar("T")
_random = SystemRandom()

_POLL = 10.0
"""Seconds that one long poll lasts, on average: hosts that started together do not ask together.
After a poll without an event, a quorum read checks whether the member hangs, or the history began
anew, as after a restore."""

_HISTORY = 500
"""etcd v2 keeps the last 1,000 events of all keys. If foreign keys have put a watch behind by half
of that, it has to begin at a newer index."""
_LEAD = 1.5
"""Seconds before the end of a poll at which etcd's index is read, at most: the poll has that long
to deliver an event from before. With many foreign writes it is less, so that the next poll finds
the history that it needs: this works for up to 3,000 foreign writes a second."""
_LEAST_LEAD = 0.2
_RELIST = 600.0
"""Seconds, on average, after which all leases are read again if a poll's silence was relied on; for
more than 3,000 leases longer, so that each host reads 1.4 kB a second."""


class _Silence(NamedTuple):
    """A poll ended without an event.

    :ivar now: etcd's index after it.
    :ivar until: the index up to which there was certainly no event.
    """

    now: int
    until: int


class EtcdV2Store:
    """See `flannel.stores.Store`."""

    def __init__(self, members: Endpoints, prefix: str) -> None:
        self._members = members
        self.health = members.health
        self._config = f"{prefix}/config"
        self._subnets = f"{prefix}/subnets"
        self._nodes = LeaseNodes(self._subnets)
        # By key: the leases that the feed has yielded, and those that `snapshot` has listed.
        self._good: dict[str, Lease] = {}
        self._listed: dict[str, Lease] = {}
        self._seen = 0
        """The index up to which the feed has yielded everything."""
        self._lead = _LEAD
        self._knows_refresh = False
        """Whether etcd is known to support ``refresh``, as 2.3 and later do. An older one ignores
        the parameter and writes an empty value."""

    def close(self) -> None:
        """See `flannel.stores.Store`."""
        self._members.close()

    async def follow_config(self) -> AsyncIterator[ConfigDocument | None]:
        """See `flannel.stores.Store`."""
        doing = f"read {self._config}"
        last: int | None = None
        first = True
        while True:
            version = 0
            document = None
            try:
                answer = await self._ask(doing, "GET", self._config, quorum="true")
                node, index = answer.document["node"], answer.etcd_index
                version = node["modifiedIndex"]
                document = ConfigDocument(node.get("value", ""), version)
            except NotFound as absent:
                index = absent.index
            if first or version != last:
                first, last = False, version
                yield document
            # After any write past `index`, the document is read again, with a quorum.
            with suppress(HistoryLost):
                await self._poll(doing, self._config, index, _POLL * _random.uniform(0.8, 1.2))

    async def write_config(self, text: str, before: ConfigDocument | None) -> None:
        """See `flannel.stores.Store`."""
        condition = {"prevIndex": str(before.version)} if before else {"prevExist": "false"}
        try:
            await self._ask(f"write {self._config}", "PUT", self._config, value=text, **condition)
        except (Conflict, NotFound):
            async for found in self.follow_config():
                # Ours: written by a request whose answer was lost.
                if found is not None and found.text == text:
                    return
                break
            raise ConfigConflict(
                f"cannot write {self._config}: somebody else has written it meanwhile"
            ) from None

    async def follow_leases(self) -> AsyncIterator[Snapshot | Changes]:
        """See `flannel.stores.Store`."""
        while True:
            self._good, garbled, index = await self._list(self._good)
            rewound, self._seen = index < self._seen, index
            yield Snapshot(tuple(self._good.values()), rewound, garbled)
            relist_at: float | None = None
            while relist_at is None or monotonic() < relist_at:
                try:
                    found = await self._await_event(index)
                except HistoryLost:
                    break
                if isinstance(found, _Silence):
                    if found.now < index or found.now - found.until > _HISTORY:
                        break
                    if found.until > index:
                        index = self._seen = found.until
                        relist_at = relist_at or self._time_to_relist()
                    continue
                events, is_all = self._nodes.apply(found.document, self._good)
                index = self._seen = found.document["node"]["modifiedIndex"]
                if events:
                    yield Changes(tuple(events))
                if not is_all:
                    break
                # An event costs a request of 0.5 ms, a lease in a list 0.03 ms: if the watch is far
                # behind, it is quicker to read all leases than to catch up.
                if found.etcd_index - index > 8 + len(self._good) // 16:
                    break

    def _time_to_relist(self) -> float:
        return monotonic() + _RELIST * max(1, len(self._good) / 3000) * _random.uniform(0.5, 1.5)

    async def _await_event(self, index: int) -> Answer | _Silence:
        """Poll for the first event after ``index``.

        Foreign writes push the history of our keys out of etcd's window while no key of ours is
        written. So the poll has to prove that there was no event up to a newer index: etcd's index
        is read a moment before the end of the poll, and the poll would deliver an earlier event by
        its end. That is a proof if one member answers both, has applied all events up to that
        index, and the connection works; to make up for the rest, all leases are listed now and
        then.
        """
        seconds = _POLL * _random.uniform(0.8, 1.2)
        doing, member = f"watch {self._subnets}", self._members.first
        poll = asyncio.ensure_future(
            self._poll(doing, self._subnets, index, seconds, recursive="true")
        )
        began, now, asked_at = monotonic(), None, 0.0
        try:
            await asyncio.wait((poll,), timeout=seconds - self._lead)
            if not poll.done():
                now, asked_at = await self._current_index(), monotonic()
            answer = await poll
        finally:
            if not poll.cancel() and not poll.cancelled():
                poll.exception()  # mark it as retrieved
        if answer is not None:
            return answer
        if now is None:  # it ended too early to prove anything
            return _Silence(await self._current_index(), index)
        is_proof = self._members.first == member and monotonic() - asked_at > self._lead / 2
        rate = (now - index) / (monotonic() - began)
        self._lead = min(_LEAD, max(_LEAST_LEAD, 400 / max(rate, 1)))
        if now - index <= _HISTORY or not is_proof:
            return _Silence(now, index)
        return _Silence(now, now)

    async def snapshot(self) -> Snapshot:
        """See `flannel.stores.Store`."""
        self._listed, garbled, _ = await self._list({**self._good, **self._listed})
        return Snapshot(tuple(self._listed.values()), garbled=garbled)

    async def find(self, subnet: IPv4Network) -> Lease | None:
        """See `flannel.stores.Store`."""
        key = f"{self._subnets}/{subnet_key(subnet)}"
        try:
            answer = await self._ask(f"read {key}", "GET", key, quorum="true")
        except NotFound:
            return None
        node = answer.document["node"]
        try:
            return lease_in(node)
        except BadLease as why:
            why.index = 0 if node.get("dir") else node["modifiedIndex"]
            raise

    async def create(self, subnet: IPv4Network, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """See `flannel.stores.Store`."""
        try:
            return await self._put(subnet, attrs, value=attrs.to_json(), ttl=ttl, prevExist="false")
        except Conflict:
            found = await self._read(subnet)
            # Ours: written by a request whose answer was lost.
            if found is not None and found.attrs == attrs:
                return found
            raise LeaseTaken(f"cannot lease {subnet}: it is {_held_by(found)}") from None

    async def replace(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """See `flannel.stores.Store`."""
        return await self._swap(lease, attrs, value=attrs.to_json(), ttl=ttl)

    async def overwrite(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None) -> Lease:
        """See `flannel.stores.Store`."""
        value = attrs.to_json()
        try:
            return await self._put(
                lease.subnet, attrs, value=value, prevExist="true", prevIndex=lease.index, ttl=ttl
            )
        except (Conflict, NotFound):
            found = await self._read(lease.subnet)
            # Ours: written by a request whose answer was lost.
            if found is not None and found.attrs.to_json() == value:
                return found
            raise LeaseChanged(
                f"cannot write lease {lease.subnet}: it is {_held_by(found)}"
            ) from None

    async def renew(self, lease: Lease, ttl: int) -> Lease:
        """See `flannel.stores.Store`."""
        if not self._knows_refresh:
            value = lease.attrs.to_json()
            try:
                return await self._swap(lease, lease.attrs, value=value, ttl=ttl, refresh="true")
            except ValueRefused:
                self._knows_refresh = True
        return await self._swap(lease, lease.attrs, ttl=ttl, refresh="true")

    async def release(self, lease: Lease) -> None:
        """See `flannel.stores.Store`.

        The lease is made to expire at once instead of being deleted conditionally: a watcher of
        upstream's v0.13 that sees a compareAndDelete gets no further events.
        """
        try:
            await self._swap(lease, lease.attrs, value=lease.attrs.to_json(), ttl=1)
        except LeaseChanged:
            if await self._read(lease.subnet) is not None:
                raise

    async def _swap(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None, **params: str) -> Lease:
        """Write on condition that ``lease`` is unchanged, or is ours and only its index differs.

        A renewal changes the index, and so does our own request whose answer was lost. A lease that
        has become a reservation meanwhile, or the other way round, counts as changed.
        """
        index, kinds = lease.index, {lease.ttl is None, ttl is None}
        for _ in range(2):
            try:
                return await self._put(
                    lease.subnet, attrs, prevExist="true", prevIndex=index, ttl=ttl, **params
                )
            except (Conflict, NotFound):
                found = await self._read(lease.subnet)
                if found is None or found.attrs not in (lease.attrs, attrs):
                    break
                if (found.ttl is None) not in kinds:
                    break
                index = found.index
        raise LeaseChanged(f"cannot write lease {lease.subnet}: it is {_held_by(found)}")

    async def _put(
        self, subnet: IPv4Network, attrs: LeaseAttrs, **params: str | int | None
    ) -> Lease:
        key = f"{self._subnets}/{subnet_key(subnet)}"
        given = {name: str(value) for name, value in params.items() if value is not None}
        node = (await self._ask(f"write {key}", "PUT", key, **given)).document["node"]
        return Lease(subnet, attrs, ttl_of(node), node["modifiedIndex"])

    async def _read(self, subnet: IPv4Network) -> Lease | None:
        """The lease for a subnet, read with a quorum; None if there is no readable one."""
        try:
            return await self.find(subnet)
        except BadLease:
            return None

    async def _list(
        self, before: dict[str, Lease]
    ) -> tuple[dict[str, Lease], frozenset[IPv4Network], int]:
        """Every lease by its key, the subnets whose keys do not hold one, and etcd's index.

        :param before: the last good leases.
        """
        try:
            answer = await self._ask(
                f"list {self._subnets}", "GET", self._subnets, quorum="true", recursive="true"
            )
        except NotFound as absent:
            return {}, frozenset(), absent.index
        good, garbled = self._nodes.read(answer.document["node"], before)
        return good, garbled, answer.etcd_index

    async def _current_index(self) -> int:
        try:
            return (
                await self._ask("read etcd's index", "GET", self._config, quorum="true")
            ).etcd_index
        except NotFound as absent:
            return absent.index

    async def _ask(self, doing: str, method: str, key: str, **params: str) -> Answer:
        """`Endpoints.ask`; a changed cluster is logged and raises `StoreUnavailable`."""
        try:
            return await self._bounded(doing, lambda: self._members.ask(doing, method, key, params))
        except HistoryLost:
            log.warning("another etcd cluster answers at this endpoint now")
            raise StoreUnavailable(f"cannot {doing}: the cluster has changed") from None

    async def _poll(
        self, doing: str, key: str, index: int, seconds: float, **params: str
    ) -> Answer | None:
        """Wait for the first event after ``index``; None if there was none within ``seconds``."""
        params["waitIndex"] = str(index + 1)
        return await self._bounded(doing, lambda: self._members.poll(doing, key, params, seconds))

    async def _bounded(self, doing: str, work: Callable[[], T]) -> T:
        """The result of blocking ``work``, which ends in time."""
        first = self._members.first
        try:
            async with asyncio.timeout(self._members.patience):
                return await in_thread(work)
        except TimeoutError:
            left = self._members.leave(first)
            raise StoreUnavailable(f"cannot {doing}: {left}: no answer in time") from None
        except NoThread as why:
            self._members.miss()
            raise StoreUnavailable(f"cannot {doing}: {why}") from None


def _held_by(found: Lease | None) -> str:
    return f"held by {found.attrs.host} now" if found is not None else "not there any more"
