"""PeerTables: keeps the kernel's tables equal to what the peers' leases call for.

One path for start, event, resync and repair. Each peer's lease is planned into entries (pure, by
the backend); what is wanted is compared with what is there; the difference is written in one
batch. What is there comes from a dump when anything may have happened to it, and from memory
when only a lease has changed, so one changed lease costs one lease however many there are.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Collection, Iterable
from ipaddress import IPv4Network

from flannel.errors import BadLease
from flannel.kernel.entries import Entry, Key, Nexthop, Route, diff, key
from flannel.kernel.repairs import Repairs
from flannel.kernel.rtnetlink import Failure, RtNetlink
from flannel.lease import Lease, Peers
from flannel.once import Once

log = logging.getLogger(__name__)

Plan = Callable[[Lease], Iterable[Entry]]
"""The entries that one lease calls for; raises BadLease for a lease that nothing can be made of."""

Read = Callable[[], Iterable[Entry]]
"""The entries in the kernel that are ours to keep or remove."""

_CHUNK = 4096
"""Entries written before other tasks get a turn: 10 to 15 ms."""


class PeerTables:
    """What is wanted of the kernel for all peers, and what it is believed to hold.

    tables = PeerTables(kernel.tables, plan, read)
    await tables.apply(peers)               # reads the kernel
    await tables.apply(peers, changed)      # does not

    Where two leases claim one key with different entries, as two hosts with the same VTEP MAC do,
    the first that came keeps it: a newcomer cannot take a working peer's traffic.
    """

    def __init__(
        self, kernel: RtNetlink, plan: Plan, read: Read, repairs: Repairs | None = None
    ) -> None:
        self._kernel = kernel
        self._plan = plan
        self._read = read
        self._repairs = repairs or Repairs()
        self._planned: dict[IPv4Network, tuple[Lease, tuple[Entry, ...]]] = {}
        self._claims: dict[Key, list[tuple[IPv4Network, Entry]]] = {}
        self._found: dict[Key, Entry] = {}
        self._is_known = False
        self._rested: set[Key] = set()
        """What the last comparison left as it was, for somebody fights over it."""
        self._bad_leases = Once(log)
        self._conflicts = Once(log)
        self._refused: dict[Key, int] = {}

    def holds(self, at: Key) -> Entry | None:
        """What the kernel holds at a key, as far as is known."""
        return self._found.get(at)

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        """Make the kernel match ``peers``; see `flannel.backends.Network.apply`."""
        subnets = peers.keys() | self._planned.keys() if changed is None else changed
        touched: set[Key] = set()
        for subnet in subnets:
            touched |= self._replan(subnet, peers.get(subnet))
        was_known = self._is_known
        if changed is None:
            before, self._found = self._found, {key(entry): entry for entry in self._read()}
            resting = self._repairs.resting()
            if was_known and (before != self._found or self._rested):
                self._note_repairs(before, resting)
            touched = (self._claims.keys() | self._found.keys()) - resting
            self._rested = resting
            self._refused = {each: n for each, n in self._refused.items() if each in touched}
        self._is_known = False  # should the kernel fail half-way
        await self._write(touched)
        self._is_known = True if changed is None else was_known

    def _note_repairs(self, before: dict[Key, Entry], resting: set[Key]) -> None:
        """What is about to be put back, or removed, and was not like that when we left it."""
        found, claims, rested = self._found, self._claims, self._rested
        wrong = []
        for each in (before.keys() | found.keys() | rested) - resting:
            have, wanted = found.get(each), claims[each][0][1] if each in claims else None
            entry = before.get(each) or have or wanted
            if have != wanted and (have != before.get(each) or each in rested) and entry:
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
            claims = [claim for claim in self._claims[each] if claim[0] != subnet]
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
            others = self._claims.get(each)
            if others is None:
                self._claims[each] = [(subnet, entry)]
                continue
            others.append((subnet, entry))
            if others[0][1] != entry:
                owner = self._planned[others[0][0]][0]
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
        wanted = {each: claims[0][1] for each in keys if (claims := self._claims.get(each))}
        difference = diff(self._found, wanted, keys)
        await self._remove(difference.clear)
        refused = await self._put([e for e in difference.put if not isinstance(e, Route)])
        routes = [e for e in difference.put if isinstance(e, Route)]
        await self._put(
            [
                # Where a nexthop's id is somebody else's, the route carries its gateway itself.
                e._replace(nexthop=0) if (Nexthop, e.nexthop, 0) in refused else e
                for e in routes
                if refused.get((Nexthop, e.nexthop, 0)) in (None, errno.EEXIST)
            ]
        )
        await self._remove(difference.drop)
        if any(difference):
            log.debug(
                "kernel: wrote %d, removed %d",
                len(difference.put),
                len(difference.drop),
            )

    async def _put(self, entries: list[Entry]) -> dict[Key, int]:
        """Write; return the keys that the kernel refused, with the error numbers."""
        refused: dict[Key, int] = {}
        news: list[Failure] = []
        for chunk in _chunks(entries):
            failures = {key(failure.entry): failure for failure in self._kernel.put(chunk)}
            for entry in chunk:
                each = key(entry)
                failure = failures.get(each)
                if failure is None:
                    self._found[each] = entry
                    self._refused.pop(each, None)
                else:
                    refused[each] = failure.errno
                    if self._refused.get(each) != failure.errno:
                        self._refused[each] = failure.errno
                        news.append(failure)
            await asyncio.sleep(0)
        for number in {failure.errno for failure in news}:
            first, *others = [failure.entry for failure in news if failure.errno == number]
            more = f" and {len(others)} more" if others else ""
            log.warning("cannot add %s%s: %s", first, more, os.strerror(number))
        return refused

    async def _remove(self, entries: list[Entry]) -> None:
        for chunk in _chunks(entries):
            for failure in self._kernel.delete(chunk):
                log.warning("cannot remove %s: %s", failure.entry, os.strerror(failure.errno))
            for entry in chunk:
                self._found.pop(key(entry), None)
                self._refused.pop(key(entry), None)
            await asyncio.sleep(0)


def _chunks(entries: list[Entry]) -> Iterable[list[Entry]]:
    return (entries[start : start + _CHUNK] for start in range(0, len(entries), _CHUNK))
