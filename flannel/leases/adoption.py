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
"""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from flannel.lease import Lease, LeaseAttrs
from flannel.stores import Store

log = logging.getLogger(__name__)

_LONGEST_LOOK = 20.0
"""Seconds between two looks that count as silence at most. Looks are up to 15 s apart: the longest
pause between two attempts to serve, `flannel.backoff.Backoff`, with jitter."""
_ASK_AGAIN = 5
"""A holder that has answered is asked again after this many times ``after``: each question and each
answer wakes every host of the cluster."""


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
        # Random bytes tell this question from others if the answer to its request is lost.
        asker = f"{own.node_id or 'unknown'}-{os.urandom(4).hex()}"
        ttl = lease.ttl if lease.ttl is None else max(lease.ttl, 1)
        question = replace(lease.attrs, asked_by=asker)
        self._asked = await self._store.overwrite(lease, question, ttl)
        self._silence, self._looked_at = 0.0, self._clock()
