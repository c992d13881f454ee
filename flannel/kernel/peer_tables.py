"""PeerTables: keeps the kernel's tables equal to the entries that the peers' leases require.

One path for start, event, resync and repair. The backend plans each peer's lease into entries
(pure); the wanted entries are compared with the found ones; the difference is written in one batch.
The found entries come from a dump if any of them may have changed, and from memory if only a lease
has changed: a changed lease costs one lease, for any number of peers.
"""

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Network
from typing import NamedTuple, Protocol

from flannel.errors import BadLease
from flannel.kernel.entries import Entry, Key, Nexthop, Route, diff, key
from flannel.kernel.repairs import Repairs
from flannel.kernel.rtnetlink import Failure
from flannel.lease import Lease, Peers
from flannel.once import Once

log = logging.getLogger(__name__)

Plan = Callable[[Lease], Iterable[Entry]]
"""The entries that one lease requires; raises BadLease for a lease that cannot be served."""

Read = Callable[[], Iterable[Entry]]
"""The entries in the kernel that are ours to keep or remove."""

_CHUNK = 4096
"""Entries written before other tasks get a turn: 10 to 15 ms."""


class Tables(Protocol):
    """The part of `flannel.kernel.rtnetlink.RtNetlink` that is used here."""

    def put(self, entries: Sequence[Entry]) -> list[Failure]:
        """Add entries; return those that the kernel refused."""
        ...

    def delete(self, entries: Sequence[Entry]) -> list[Failure]:
        """Remove entries; return those that the kernel refused to remove."""
        ...


class _Claim(NamedTuple):
    """The entry that one lease wants at a key."""

    subnet: IPv4Network
    entry: Entry


class PeerTables:
    """The entries wanted for all peers, and those that the kernel is believed to hold.

    tables = PeerTables(kernel.tables, plan, read)
    await tables.apply(peers)               # reads the kernel
    await tables.apply(peers, changed)      # does not

    Where two leases claim one key with different entries, as two hosts with the same VTEP MAC do,
    the first claim counts: a new host cannot take a working peer's traffic.
    """

    def __init__(
        self, tables: Tables, plan: Plan, read: Read, repairs: Repairs | None = None
    ) -> None:
        self._tables = tables
        self._plan = plan
        self._read = read
        self._repairs = repairs or Repairs()
        self._planned: dict[IPv4Network, tuple[Lease, tuple[Entry, ...]]] = {}
        self._claims: dict[Key, list[_Claim]] = {}
        self._found: dict[Key, Entry] = {}
        self._is_known = False
        self._rested: set[Key] = set()
        """Keys that the last comparison left alone, because somebody else keeps changing them."""
        self._bad_leases = Once(log)
        self._conflicts = Once(log)
        self._logged_refusals: dict[Key, int] = {}
        """By key, the error number of a refusal that was logged and still lasts."""

    def holds(self, at: Key) -> Entry | None:
        """The entry that the kernel holds at a key, as far as is known."""
        return self._found.get(at)

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """Make the kernel match ``peers``; see `flannel.backends.Network.apply`."""
        subnets = peers.keys() | self._planned.keys() if changed is None else changed
        touched: set[Key] = set()
        for subnet in subnets:
            touched |= self._replan(subnet, peers.get(subnet))
        for once in (self._bad_leases, self._conflicts):
            once.summarize()
        was_known = self._is_known
        if changed is None:
            touched = self._compare()
        self._is_known = False  # in case the kernel fails half-way
        await self._write(touched)
        self._is_known = True if changed is None else was_known

    def _compare(self) -> set[Key]:
        """Read the kernel, note what others have changed, return the keys to bring up to date."""
        before, self._found = self._found, {key(entry): entry for entry in self._read()}
        resting = self._repairs.resting()
        if self._is_known and (before != self._found or self._rested):
            self._note_repairs(before, resting)
        self._rested = resting
        touched = (self._claims.keys() | self._found.keys()) - resting
        self._logged_refusals = {
            each: number for each, number in self._logged_refusals.items() if each in touched
        }
        return touched

    def _wanted(self, at: Key) -> Entry | None:
        claims = self._claims.get(at)
        return claims[0].entry if claims else None

    def _note_repairs(self, before: dict[Key, Entry], resting: set[Key]) -> None:
        """Note the entries that somebody else has changed and that are repaired now."""
        found, rested = self._found, self._rested
        wrong = []
        for each in (before.keys() | found.keys() | rested) - resting:
            left, have, wanted = before.get(each), found.get(each), self._wanted(each)
            is_changed_by_others = have != left or each in rested
            entry = left or have or wanted
            if have != wanted and is_changed_by_others and entry is not None:
                wrong.append(entry)
        self._repairs.note_entries(wrong)

    def _replan(self, subnet: IPv4Network, lease: Lease | None) -> set[Key]:
        """Bring one peer's claims up to date; return the keys whose entry may differ now."""
        before, entries = self._planned.get(subnet, (None, ()))
        if lease == before:
            return set()
        touched = set()
        for entry in entries:
            touched.add(each := key(entry))
            claims = [claim for claim in self._claims[each] if claim.subnet != subnet]
            if claims:
                self._claims[each] = claims
            else:
                del self._claims[each]
        if lease is None:
            del self._planned[subnet]
            self._bad_leases.forget(subnet)
            self._conflicts.forget(subnet)
            return touched
        entries = self._planned_entries(lease)
        self._planned[subnet] = lease, entries
        for entry in entries:
            touched.add(each := key(entry))
            claims = self._claims.setdefault(each, [])
            claims.append(_Claim(subnet, entry))
            if claims[0].entry != entry:
                owner, _ = self._planned[claims[0].subnet]
                self._conflicts.warn(
                    subnet,
                    f"cannot serve lease {lease} in full: {entry} belongs to lease {owner}",
                )
        return touched

    def _planned_entries(self, lease: Lease) -> tuple[Entry, ...]:
        try:
            entries = tuple(self._plan(lease))
        except BadLease as why:
            self._bad_leases.warn(lease.subnet, f"cannot use lease {lease}: {why}")
            return ()
        self._bad_leases.forget(lease.subnet)
        return entries

    async def _write(self, keys: Collection[Key]) -> None:
        wanted = {each: entry for each in keys if (entry := self._wanted(each)) is not None}
        difference = diff(self._found, wanted, keys)
        await self._remove(difference.clear)
        others = [entry for entry in difference.put if not isinstance(entry, Route)]
        refusals = await self._put(others)
        routes = (entry for entry in difference.put if isinstance(entry, Route))
        await self._put(_routes_to_write(routes, refusals))
        await self._remove(difference.drop)
        if any(difference):
            log.debug(
                "kernel: wrote %d, removed %d",
                len(difference.put),
                len(difference.drop),
            )

    async def _put(self, entries: Sequence[Entry]) -> dict[Key, int]:
        """Write; return the error numbers of the entries that the kernel refused, by key."""
        refusals: dict[Key, int] = {}
        news: list[Failure] = []
        for chunk in _chunks(entries):
            failures = {key(failure.entry): failure for failure in self._tables.put(chunk)}
            for entry in chunk:
                each = key(entry)
                failure = failures.get(each)
                if failure is None:
                    self._found[each] = entry
                    self._logged_refusals.pop(each, None)
                    continue
                refusals[each] = failure.errno
                if self._logged_refusals.get(each) != failure.errno:
                    self._logged_refusals[each] = failure.errno
                    news.append(failure)
            await asyncio.sleep(0)
        for number in {failure.errno for failure in news}:
            first, *others = [failure for failure in news if failure.errno == number]
            more = f" and {len(others)} more" if others else ""
            log.warning("cannot add %s%s: %s", first.entry, more, first.why)
        return refusals

    async def _remove(self, entries: Sequence[Entry]) -> None:
        for chunk in _chunks(entries):
            for failure in self._tables.delete(chunk):
                log.warning("cannot remove %s: %s", failure.entry, failure.why)
            for entry in chunk:
                self._found.pop(key(entry), None)
                self._logged_refusals.pop(key(entry), None)
            await asyncio.sleep(0)


def _routes_to_write(routes: Iterable[Route], refusals: dict[Key, int]) -> list[Entry]:
    """The routes whose nexthop the kernel took.

    Where another program has the nexthop's id, the route gets a gateway of its own.
    """
    chosen: list[Entry] = []
    for route in routes:
        refusal = refusals.get((Nexthop, route.nexthop, 0))
        if refusal is None:
            chosen.append(route)
        elif refusal == errno.EEXIST:
            chosen.append(route._replace(nexthop=0))
    return chosen


def _chunks(entries: Sequence[Entry]) -> Iterable[Sequence[Entry]]:
    return (entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK))
