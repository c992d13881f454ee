"""Store on the etcd v2 API: what keys, values and events mean.

Requests block, so each runs in a thread of its own that ends with it, or with the process: a
daemon thread, for one in an executor would hold up the process's exit as long as a poll lasts.
Everything else here belongs to the event loop.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from ipaddress import IPv4Network
from typing import Any, TypeVar

from flannel.errors import BadLease, ConfigConflict, LeaseChanged, LeaseTaken, StoreUnavailable
from flannel.lease import (
    LONGEST_TTL,
    Lease,
    LeaseAdded,
    LeaseAttrs,
    LeaseEvent,
    LeaseGarbled,
    LeaseRemoved,
    parse_subnet_key,
    subnet_key,
)
from flannel.once import Once
from flannel.stores import Changes, ConfigDocument, Snapshot
from flannel.stores.etcd_endpoints import (
    Answer,
    Conflict,
    Endpoints,
    HistoryLost,
    NotFound,
    ValueRefused,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

_POLL = 10.0
"""Seconds that one long poll lasts. After each that brought nothing a quorum read finds out
whether the member hangs, or the history began anew, as after a restore."""

_LONGEST_ANSWER = 30.0
"""Seconds for all of an answer: 60,000 leases are 15 MB. A member is asked no more once it has been
silent for 2; one that sends a byte now and then would be heard out for ever."""

_HISTORY = 500
"""etcd v2 keeps the last 1,000 events of all keys. A watch that has fallen behind by half of that
on account of foreign keys takes a snapshot while nothing is lost."""

_REMOVED = frozenset({"delete", "expire", "compareAndDelete"})
_WRITTEN = frozenset({"set", "create", "update", "compareAndSwap"})


class EtcdV2Store:
    """See `flannel.stores.Store`."""

    def __init__(self, members: Endpoints, prefix: str) -> None:
        self._members = members
        self._config = f"{prefix}/config"
        self._subnets = f"{prefix}/subnets"
        # By key: what the feed has told, and what `snapshot` has listed, while it can be read.
        self._good: dict[str, Lease] = {}
        self._listed: dict[str, Lease] = {}
        self._seen = 0
        """The index as of which the feed has told everything."""
        self._refreshes = False
        """Whether etcd is known to have ``refresh``: it came with 2.3. To an older one it is a word
        like any other, and the rest a write of an empty value."""
        self._unreadable = Once(log)

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
            # Any write after `index` is news; what it says is read again, with a quorum.
            with suppress(HistoryLost):
                await self._poll(doing, self._config, index)

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
        doing = f"watch {self._subnets}"
        while True:
            self._good, garbled, index = await self._list(self._good)
            rewound, self._seen = index < self._seen, index
            yield Snapshot(tuple(self._good.values()), rewound, garbled)
            while True:
                try:
                    answer = await self._poll(doing, self._subnets, index, recursive="true")
                except HistoryLost:
                    break
                if answer is None:
                    if not index <= await self._current_index() <= index + _HISTORY:
                        break
                    continue
                events, go_on = self._events(answer.document)
                index = self._seen = answer.document["node"]["modifiedIndex"]
                if events:
                    yield Changes(tuple(events))
                if not go_on:
                    break
                # An event costs a request of 0.5 ms, a lease in a list 0.03 ms: far behind, it is
                # quicker to read all than to catch up.
                if answer.etcd_index - index > 8 + len(self._good) // 16:
                    break

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
            return _lease(node)
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
        if not self._refreshes:
            value = lease.attrs.to_json()
            try:
                return await self._swap(lease, lease.attrs, value=value, ttl=ttl, refresh="true")
            except ValueRefused:
                self._refreshes = True
        return await self._swap(lease, lease.attrs, ttl=ttl, refresh="true")

    async def release(self, lease: Lease) -> None:
        """See `flannel.stores.Store`.

        The lease is left to expire at once rather than deleted on condition: a watcher of
        upstream's v0.13 that sees a compareAndDelete hears nothing ever after.
        """
        try:
            await self._swap(lease, lease.attrs, value=lease.attrs.to_json(), ttl=1)
        except LeaseChanged:
            if await self._read(lease.subnet) is not None:
                raise

    async def _swap(self, lease: Lease, attrs: LeaseAttrs, ttl: int | None, **params: str) -> Lease:
        """Write on condition that ``lease`` is as it was read, or is ours and only its index moved.

        A renewal moves the index, and so does a request of ours whose answer was lost. One that
        has become a reservation meanwhile, or the other way round, has changed.
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
        return Lease(subnet, attrs, _ttl(node), node["modifiedIndex"])

    async def _read(self, subnet: IPv4Network) -> Lease | None:
        """The lease for a subnet as the cluster has it; None if there is none that can be read."""
        try:
            return await self.find(subnet)
        except BadLease:
            return None

    async def _list(
        self, before: dict[str, Lease]
    ) -> tuple[dict[str, Lease], frozenset[IPv4Network], int]:
        """Every lease by its key, the subnets whose keys hold none, and the index as of which.

        ``before`` has the leases that were good.
        """
        try:
            answer = await self._ask(
                f"list {self._subnets}", "GET", self._subnets, quorum="true", recursive="true"
            )
        except NotFound as absent:
            return {}, frozenset(), absent.index
        good, garbled = {}, set()
        for node in answer.document["node"].get("nodes", ()):
            name = _name(node)
            kept = before.get(name)
            lease = self._readable(node, kept)
            if lease is None:
                with suppress(BadLease):
                    garbled.add(parse_subnet_key(name))
            if (stands := lease or kept) is not None:
                good[name] = stands
        self._unreadable.summarize()
        return good, frozenset(garbled), answer.etcd_index

    def _events(self, document: dict[str, Any]) -> tuple[list[LeaseEvent], bool]:
        """What an event means for leases, and whether that is all; else look at everything."""
        node, action = document["node"], document.get("action")
        key = str(node.get("key", ""))
        if key.rpartition("/")[0] != self._subnets:
            if len(key) > len(self._subnets):
                return [], True  # something in a directory below it, which is no lease
            # The directory itself, or one above it.
            removed = self._good.values() if action in _REMOVED else ()
            return [LeaseRemoved(lease.subnet) for lease in removed], False
        name = _name(node)
        if action in _REMOVED:
            self._unreadable.forget(name)
            gone = self._good.pop(name, None)
            return [LeaseRemoved(gone.subnet)] if gone is not None else [], True
        if action not in _WRITTEN:
            return [], False
        kept = self._good.get(name)
        lease = self._readable(node, kept)
        if lease is None:
            return [LeaseGarbled(kept.subnet)] if kept is not None else [], True
        self._good[name] = lease
        return [LeaseAdded(lease)], True

    def _readable(self, node: dict[str, Any], kept: Lease | None) -> Lease | None:
        """The lease in a node; None if it holds none, which is said once.

        :param kept: the last good state of that key, which stands until it is mended or removed.
        """
        name = _name(node)
        try:
            lease = _lease(node)
        except BadLease as why:
            keeping = "; keeping what it was" if kept is not None else ""
            value = node.get("value", "")[:200]
            message = f"skipping {self._subnets}/{name[:100]!r}: {why}{keeping}"
            self._unreadable.warn(name, message, about=value)
            return None
        self._unreadable.forget(name)
        return lease

    async def _current_index(self) -> int:
        try:
            return (
                await self._ask("read etcd's index", "GET", self._config, quorum="true")
            ).etcd_index
        except NotFound as absent:
            return absent.index

    async def _ask(self, doing: str, method: str, key: str, **params: str) -> Answer:
        """`Endpoints.ask`; a changed cluster is noticed, said, and asked again."""
        try:
            return await self._heard_out(
                doing, _LONGEST_ANSWER, lambda: self._members.ask(doing, method, key, params)
            )
        except HistoryLost:
            log.warning("another etcd cluster answers at this endpoint now")
            raise StoreUnavailable(f"cannot {doing}: the cluster has changed") from None

    async def _poll(self, doing: str, key: str, index: int, **params: str) -> Answer | None:
        """Wait for the first event after ``index``; None if there was none for a while."""
        params["waitIndex"] = str(index + 1)
        return await self._heard_out(
            doing,
            _POLL + _LONGEST_ANSWER,
            lambda: self._members.poll(doing, key, params, _POLL),
        )

    async def _heard_out(self, doing: str, seconds: float, work: Callable[[], T]) -> T:
        """The result of blocking ``work``, unless it takes longer."""
        first = self._members.first
        try:
            async with asyncio.timeout(seconds):
                return await _in_thread(work)
        except TimeoutError:
            left = self._members.leave(first)
            raise StoreUnavailable(f"cannot {doing}: {left}: its answer has no end") from None


def _name(node: dict[str, Any]) -> str:
    return str(node.get("key", "")).rpartition("/")[2]


def _lease(node: dict[str, Any]) -> Lease:
    """The lease in a node.

    :raises BadLease: its key or value is none of a lease.
    """
    if node.get("dir"):
        raise BadLease("it is a directory")
    subnet = parse_subnet_key(_name(node))
    attrs = LeaseAttrs.from_json(node.get("value", ""))
    return Lease(subnet, attrs, _ttl(node), node["modifiedIndex"])


def _ttl(node: dict[str, Any]) -> int | None:
    """Seconds; None of a key that stays.

    etcd leaves 0 out, which is what a lease has left from its end until etcd deletes it.
    """
    ttl: int | None = node.get("ttl", 0 if "expiration" in node else None)
    return None if ttl is None else min(max(ttl, 0), LONGEST_TTL)


def _held_by(found: Lease | None) -> str:
    return f"held by {found.attrs.host} now" if found is not None else "not there any more"


async def _in_thread(work: Callable[[], T]) -> T:
    """The result of blocking ``work``. Cancelling leaves the thread to its end, unheard."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type] # None only if T allows it

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # whatever it is, it belongs to whoever awaits
            error = raised
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="etcd", daemon=True).start()
    return await result
