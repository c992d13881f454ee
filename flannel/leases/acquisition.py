"""Acquisition: how a starting host gets its lease: its own, that of a dead host, or a new one.

Policy on a lease store; `flannel.leases.subnets` serves the acquired lease.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Network
from random import Random
from time import monotonic

from flannel.errors import AddressTaken, LeaseChanged, LeaseTaken
from flannel.lease import Lease, LeaseAttrs, LeaseTable
from flannel.leases.adoption import Adoption
from flannel.leases.own_lease import OwnLease
from flannel.leases.subnet_choice import (
    choose_free,
    is_free,
    is_of,
    own_first,
    rival,
    time_to_settle,
)
from flannel.network_config import NetworkConfig
from flannel.stores import Snapshot, Store

log = logging.getLogger(__name__)

ATTEMPTS = 20
"""Attempts to write a lease before the host gives up; each one lost a race against another host."""
_LONGEST_PAUSE = 1.0
"""Seconds between two attempts to take a subnet, at most; the first pauses are much shorter."""


class Acquisition:
    """Gets a lease for this host.

    :param table: the leases in the store at our last look; brought up to date here.
    :param grace: seconds for which leases still count after the store has lost them.
    :param adoption: decides whether the holder of a lease with our public address is dead; None: it
        counts as alive.
    """

    def __init__(
        self,
        store: Store,
        own_lease: OwnLease,
        config: NetworkConfig,
        table: LeaseTable,
        random: Random,
        *,
        grace: float,
        adoption: Adoption | None,
    ) -> None:
        self._store = store
        self._own_lease = own_lease
        self._config = config
        self._table = table
        self._random = random
        self._grace = grace
        self._adoption = adoption

    async def run(
        self,
        attrs: LeaseAttrs,
        previous: IPv4Network | None,
        before: Lease | None,
        seen_since: float,
    ) -> Lease:
        """See `flannel.leases.subnets.SubnetManager.acquire`."""
        for attempt in range(ATTEMPTS):
            found = await self._store.snapshot()
            own = own_first(found.leases, attrs, previous)
            # A store that has lost our lease has lost others as well.
            forgotten = before is not None and not any(each.index >= before.index for each in own)
            self._table.reset(found.leases, monotonic() + self._grace if forgotten else None)
            self._table.expire(monotonic())
            try:
                if before is not None and _is_written_over(before, found):
                    await self._own_lease.repair(replace(before, attrs=attrs))
                    continue
                lease = await self._reuse(own, attrs) or await self._adopt(found.leases, attrs)
                if lease is None:
                    if await self._settle(found.leases, seen_since):
                        continue
                    lease = await self._take(attrs, previous, found.garbled)
            except (LeaseTaken, LeaseChanged) as lost:
                log.info("%s; choosing again", lost)
                pause = min(_LONGEST_PAUSE, 0.02 * 2**attempt)
                await asyncio.sleep(self._random.uniform(0, pause))
            else:
                if self._adoption is not None:
                    self._adoption.published(lease)
                return lease
        raise LeaseTaken(f"cannot lease a subnet: others were quicker {ATTEMPTS} times")

    async def _reuse(self, own: Collection[Lease], attrs: LeaseAttrs) -> Lease | None:
        """Keep the first of our leases that fits the config; None if none does."""
        for lease in own:
            if self._config.fits(lease.subnet):
                if self._adoption is not None and not lease.has_no_host_yet:
                    lease = await self._adoption.reclaim(lease, attrs)
                log.info("lease %s is ours, keeping it", lease.subnet)
                kept = await self._own_lease.write(lease, attrs)
                if lease.has_no_host_yet:
                    await self._leave_others(own, kept)
                return kept
            if lease.ttl is None:
                log.warning("reservation %s does not fit the network config; left alone", lease)
            else:
                log.warning("giving up lease %s: it does not fit the network config", lease)
                await self._store.release(lease)
        return None

    async def _leave_others(self, own: Iterable[Lease], kept: Lease) -> None:
        """Give up the leases from which an operator has moved this host to a reservation."""
        node_id = kept.attrs.node_id
        for lease in own:
            is_left = lease.subnet != kept.subnet and lease.ttl is not None
            if is_left and node_id and lease.attrs.node_id == node_id:
                log.warning("giving up lease %s: %s is reserved for this host", lease, kept.subnet)
                with suppress(LeaseChanged):  # it ends by itself
                    await self._store.release(lease)

    async def _adopt(self, leases: Iterable[Lease], attrs: LeaseAttrs) -> Lease | None:
        """Take over the lease of a dead host with our public address; None if there is none.

        :raises AddressTaken: there is such a lease, and its host is not known to be dead.
        """
        adoption, other = self._adoption, rival(leases, attrs)
        if other is None:
            return None
        if adoption is not None:
            ttl = None if other.ttl is None else self._own_lease.ttl
            taken = await adoption.take_over(other, attrs, ttl)
            if taken is not None:
                return (
                    taken if self._config.fits(taken.subnet) else await self._reuse([taken], attrs)
                )
        ours = f"this one has {attrs.node_id}" if attrs.node_id else "this one cannot keep any"
        cure = "if that host is gone, or was this one before it lost its -state-dir, "
        if adoption is not None and adoption.after:
            cure += f"its lease is taken over when it has not answered for {adoption.after:.0f} s"
        else:
            cure += "release its lease"
        raise AddressTaken(
            f"cannot lease a subnet with public address {attrs.public_ip}: {other.subnet} is "
            f"leased with it by another host, of NodeID {other.attrs.node_id} ({ours}). If "
            f"both are there, give one another -public-ip; {cure}"
        )

    async def _settle(self, leases: Collection[Lease], seen_since: float) -> bool:
        """Wait until other hosts have written their leases again into a store that was emptied.

        Return whether the store has to be read again.
        """
        missing = time_to_settle(leases) - (monotonic() - seen_since)
        if missing <= 0:
            return False
        log.debug("the store is new: waiting %.1f s for leases that are in use", missing)
        await asyncio.sleep(missing)
        return True

    async def _take(
        self, attrs: LeaseAttrs, previous: IPv4Network | None, garbled: frozenset[IPv4Network]
    ) -> Lease:
        leases = self._table.leases.items()
        taken = garbled | {subnet for subnet, each in leases if not is_of(each.attrs, attrs)}
        subnet = previous
        if subnet is None or not is_free(self._config, subnet, taken):
            subnet = choose_free(self._config, taken, self._random)
        return await self._store.create(subnet, attrs, self._own_lease.ttl)


def _is_written_over(own: Lease, found: Snapshot) -> bool:
    """True if the key of ``own`` holds no lease, and before that held no other host's lease."""
    if own.subnet not in found.garbled:
        return False
    return all(is_of(each.attrs, own.attrs) for each in found.leases if each.subnet == own.subnet)
