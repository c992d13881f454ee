"""LeaseKeeper: keeps our lease and follows the peers' leases while a network is served.

    LeaseKeeper.run
      ├── keep      renews our lease in time, takes it again, writes it again
      ├── follow    the store's events -> SubnetManager.peers -> upkeep and firewall
      ├── expire    drops leases that the store has lost, when their grace is over
      ├── save      saves the leases, for a start while the store is unreachable
      └── log_news  logs which peers have changed

An unreachable store ends none of these tasks: they retry until it answers, and log that once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network
from time import monotonic

from flannel.backoff import Backoff
from flannel.conditions import Condition
from flannel.daemon.peer_news import PeerNews, listed
from flannel.errors import StoreUnreachable
from flannel.health.status import Status
from flannel.leases.subnets import SubnetManager, retry_pause
from flannel.logs import fields

log = logging.getLogger(__name__)

_STEADY = 2.0
"""Seconds without an error after which following the leases counts as working again."""
_QUIET = 60.0
"""Seconds. If our lease is lost again within this time, somebody may be removing it again and
again, so the pause before it is taken again grows..."""
_LONGEST_QUARREL = 1.3
"""...up to this many seconds, which jitter makes 2 s. Peers cannot reach us in the pause."""

_NEWS_PAUSE = 10.0
"""Seconds between two lines that name the peers that have changed."""

_SAVE_RETRY = 10.0
"""Seconds until a save that failed is tried again."""
_SAVE_PAUSE, _SAVE_SHARE, _LONGEST_SAVE_PAUSE = 1.0, 50, 60.0
"""The pause between two saves: at least the first, in seconds; at least the duration of the last
save times the second; at most the third, in seconds, as a save also takes long if the process was
paused."""


class LeaseKeeper:
    """Keeps the leases of one network, ours and the peers'.

    :param peers_changed: called with the subnets whose peer has changed.
    :param save: writes the leases to a file; returns whether that succeeded.
    :param margin: seconds that must be left of our lease at its renewal.
    """

    def __init__(
        self,
        subnets: SubnetManager,
        status: Status,
        *,
        peers_changed: Callable[[set[IPv4Network]], None],
        save: Callable[[], Awaitable[bool]],
        margin: float,
    ) -> None:
        self._subnets = subnets
        self._status = status
        self._conditions = status.conditions
        self._peers_changed = peers_changed
        self._save = save
        self._margin = margin
        self._unsaved = asyncio.Event()
        self._unsaved.set()
        self._news = PeerNews(subnets.peers)
        self._has_news = asyncio.Event()

    async def run(self) -> None:
        """Keep and follow until cancelled.

        :raises LeaseLost: in an exception group; our subnet belongs to another host now.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keep())
            tasks.create_task(self.follow())
            tasks.create_task(self.expire())
            tasks.create_task(self.save())
            tasks.create_task(self.log_news())

    async def keep(self) -> None:
        """Make sure that the store holds our lease, with enough time left."""
        subnets = self._subnets
        quarrel = Backoff(0.25, _LONGEST_QUARREL)
        last_loss = float("-inf")
        is_renewed = subnets.is_verified
        while True:
            if subnets.is_in_order:
                delay = subnets.renewal_delay(self._margin)
                self._status.leased(subnets.own, delay, is_renewed=is_renewed)
                is_renewed = False
                try:
                    async with asyncio.timeout(delay):
                        await subnets.own_changed()
                    continue  # its lifetime differs, or it is not in order any more
                except TimeoutError:
                    pass
            elif (
                not subnets.is_forgotten
            ):  # if it is, new hosts must see soon that the subnet is in use
                if monotonic() - last_loss < _QUIET:
                    await quarrel.wait()
                else:
                    quarrel.reset()
                last_loss = monotonic()
            await self._ask_until_kept()
            is_renewed = True
            self._unsaved.set()

    async def _ask_until_kept(self) -> None:
        backoff = self._backoff()
        while True:
            try:
                await self._subnets.keep()
            except StoreUnreachable as why:
                message = f"cannot keep the lease yet: {why}"
                self._conditions.report(Condition.LEASE, message, about=type(why))
                await backoff.wait()
            else:
                self._conditions.clear(Condition.LEASE)
                log.debug("kept lease %s", self._subnets.own)
                return

    async def follow(self) -> None:
        """Keep the peers up to date."""
        backoff = self._backoff()
        loop = asyncio.get_running_loop()
        while True:
            steady: asyncio.TimerHandle | None = None
            began = monotonic()
            try:
                async for changed in self._subnets.follow():
                    self._pass_on(changed)
                    self._conditions.clear(Condition.RESUMED)
                    # After the first list the watch may still fail at once.
                    steady = steady or loop.call_later(_STEADY, self._is_steady)
            except StoreUnreachable as why:
                message = f"cannot follow the leases: {why}; packets flow on"
                self._conditions.report(Condition.WATCH, message, about=type(why))
            finally:
                if steady is not None:
                    steady.cancel()
            if monotonic() - began > _STEADY:
                backoff = self._backoff()
            await backoff.wait()

    def _is_steady(self) -> None:
        self._conditions.clear(Condition.WATCH)

    async def expire(self) -> None:
        """Drop leases that the store has lost, when their grace is over."""
        while True:
            await asyncio.sleep(1)
            changed = self._subnets.expire()
            if changed:
                log.warning("dropping leases that the store has lost: %s", listed(sorted(changed)))
                self._pass_on(changed)

    async def save(self) -> None:
        """Save the leases soon after each change, and unsaved changes at the end."""
        try:
            while True:
                await self._unsaved.wait()
                self._unsaved.clear()
                began = monotonic()
                if not await self._save():
                    self._unsaved.set()
                    await asyncio.sleep(_SAVE_RETRY)
                    continue
                pause = _SAVE_SHARE * (monotonic() - began)
                await asyncio.sleep(min(max(_SAVE_PAUSE, pause), _LONGEST_SAVE_PAUSE))
        finally:
            if self._unsaved.is_set():
                await self._save()

    async def log_news(self) -> None:
        """Log a change of the peers at once, and those of the next seconds together."""
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            peers = self._subnets.peers
            line = self._news.line(peers)
            if not line:
                continue
            about = fields(changed=self._news.count, peers=len(peers))
            log.info("peers: %s; there are %d now", line, len(peers), extra=about)
            await asyncio.sleep(_NEWS_PAUSE)

    def _pass_on(self, changed: set[IPv4Network]) -> None:
        if changed:
            self._unsaved.set()
            self._news.note(changed)
            self._has_news.set()
            if log.isEnabledFor(logging.DEBUG):
                peers = self._subnets.peers
                for subnet in sorted(changed):
                    log.debug("peer: %s", peers.get(subnet, f"{subnet} is gone"))
        self._peers_changed(changed)

    def _backoff(self) -> Backoff:
        return Backoff(0.1, retry_pause(len(self._subnets.peers)))
