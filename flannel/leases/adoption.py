"""Adoption: a new machine takes over the lease of the dead host that had its address.

A machine that was installed anew, or that got the address of a dead host, has a different NodeID.
The lease with its address belongs to another host, which may be alive: two hosts behind one NAT,
two virtual machines that each have 10.0.2.15. Packets cannot show that: a packet to our own address
never leaves this host, and every guard drops packets of a host without a lease. So the new machine
asks the holder in the store, which both read:

    asker    overwrite(lease, AskedBy=...)     the rest of the value, and its lifetime, unchanged
    holder   sees a write to its lease by another host, and writes the lease again
    asker    the lease has not changed for `after` seconds since the question: its holder is dead

Peers see an equal lease and change nothing. Every write of the holder is an answer, a renewal as
well; the compare-and-swap at the end fails if there was one. Time counts only while the store
answers us and this process runs, so an unreachable store, or a pause of all machines, is not taken
for silence.

Nothing is asked and nothing is taken over if the public address is not one of this host's own (NAT:
the packets of both hosts may go to the other one), and if ``after`` is 0.

**Copies.** A copy of a machine has the NodeID of the first one, and a different address. So does a
machine that got another address while it was down. A starting host that finds its own lease with an
address that it has not published itself asks in the same way. If the first one is alive it answers
within a moment: it keeps the subnet, which its containers use, and the copy gets a new NodeID.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from time import monotonic

from flannel.errors import IdentityTaken, LeaseChanged
from flannel.lease import Lease, LeaseAttrs
from flannel.stores import Store

log = logging.getLogger(__name__)

_LONGEST_LOOK = 20.0
"""Seconds between two looks that count as silence at most. Looks are up to 15 s apart: the longest
pause between two attempts to serve, `flannel.backoff.Backoff`, with jitter."""
_ASK_AGAIN = 5
"""A holder that has answered is asked again after this many times ``after``: each question and each
answer wakes every host of the cluster."""

_MOMENT, _POLL = 1.5, 0.1
"""Seconds for the answer of a host with our NodeID, which follows its lease, and between two looks
for it. A host that got another address while it was down cannot be reached meanwhile."""


def copied(lease: Lease) -> IdentityTaken:
    """The error of a host whose ``lease`` another host holds with the same NodeID."""
    return IdentityTaken(
        f"cannot keep lease {lease.subnet}: {lease.attrs.public_ip} holds it now, with the NodeID "
        f"of this host, {lease.attrs.node_id}: one of them is a copy of the other"
    )


class Adoption:
    """For all runs of the network in one process.

    :param after: seconds without an answer after which a lease is taken over; 0: never.
    """

    def __init__(self, store: Store, after: float, clock: Callable[[], float] = monotonic) -> None:
        self.after = after
        self._store = store
        self._clock = clock
        self._asked: Lease | None = None
        """The lease as we wrote it with our question."""
        self._silence = self._looked_at = 0.0
        self._ask_at = 0.0
        self._published: set[IPv4Address] = set()

    def published(self, lease: Lease) -> None:
        """This process has written ``lease`` with its own address."""
        self._published.add(lease.attrs.public_ip)

    async def reclaim(self, lease: Lease, own: LeaseAttrs) -> Lease:
        """Make sure that no other host that is alive holds our own ``lease``; return it.

        :param own: the attributes that this host publishes.
        :raises IdentityTaken: one does.
        :raises LeaseChanged: somebody wrote it at the same moment.
        """
        address = lease.attrs.public_ip
        is_known = address == own.public_ip or address in self._published
        if not self.after or is_known or not lease.attrs.node_id:
            return lease
        asked = await self._write_question(lease, own)
        for _ in range(round(_MOMENT / _POLL)):
            await asyncio.sleep(_POLL)
            found = await self._store.find(lease.subnet)
            if found is None or found.attrs != lease.attrs:
                raise LeaseChanged(f"cannot keep lease {lease.subnet}: somebody has changed it")
            if found.index != asked.index:
                raise copied(found)
        return asked

    async def take_over(self, lease: Lease, own: LeaseAttrs, ttl: int | None) -> Lease | None:
        """Make ``lease`` ours if its holder is known to be dead; None: not yet, call again later.

        :param lease: another host's lease, as it is in the store now.
        :param own: the attributes that this host publishes.
        :raises LeaseChanged: somebody wrote it at the same moment.
        """
        if not self.after:
            return None
        now, asked = self._clock(), self._asked
        if asked is None or (asked.subnet, asked.index) != (lease.subnet, lease.index):
            if asked is not None:
                self._drop_question(lease, now)
            if now >= self._ask_at:
                await self._ask(lease, own)
            return None
        self._silence += min(now - self._looked_at, _LONGEST_LOOK)
        self._looked_at = now
        if self._silence < self.after:
            return None
        taken = await self._store.overwrite(lease, own, ttl)
        self._asked = None
        log.warning(
            "took over lease %s from %s, which has not answered for %d s",
            lease.subnet,
            lease.attrs.host,
            self._silence,
        )
        return taken

    def _drop_question(self, lease: Lease, now: float) -> None:
        """Somebody has written ``lease`` since we asked."""
        self._asked = None
        if lease.attrs.asked_by:  # by a second new host; the last of the two to ask goes on
            self._ask_at = now + 2 * self.after
        else:
            log.info("%s has answered: it holds lease %s", lease.attrs.host, lease.subnet)
            self._ask_at = now + _ASK_AGAIN * self.after

    async def _ask(self, lease: Lease, own: LeaseAttrs) -> None:
        self._asked = await self._write_question(lease, own)
        self._silence, self._looked_at = 0.0, self._clock()

    async def _write_question(self, lease: Lease, own: LeaseAttrs) -> Lease:
        # Random bytes tell this question from others if the answer to its request is lost.
        asker = f"{own.node_id or 'unknown'}-{os.urandom(4).hex()}"
        ttl = lease.ttl if lease.ttl is None else max(lease.ttl, 1)
        return await self._store.overwrite(lease, replace(lease.attrs, asked_by=asker), ttl)
