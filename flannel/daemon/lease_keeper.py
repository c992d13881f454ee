"""LeaseKeeper: while a network is served, our lease is kept and the peers' are followed.

    LeaseKeeper.run
      ├── keep      our lease in the store: renewed in time, taken again, written again
      ├── follow    the store's news -> SubnetManager.peers -> whoever has to know
      ├── expire    leases that the store has forgotten, when their grace is over
      ├── save      what is served, for a start while the store is away
      └── say       which peers have changed, in the log

A store that is away ends none of them: it is asked until it answers, and said once.
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
"""Seconds for which the leases have to be followed before that is taken to work again."""
_QUIET = 60.0
"""Seconds after which another loss of our lease is not taken for a quarrel with somebody who
removes it again and again; within them, pauses grow..."""
_LONGEST_QUARREL = 1.3
"""...to no more than this, which jitter makes 2 s: peers have no way to us meanwhile, and who wins
is still who writes last."""

_SAY_PAUSE = 10.0
"""Seconds between two lines that say which peers have changed."""

_SAVE_RETRY = 10.0
"""Seconds after a saving that has failed."""
_SAVE_PAUSE, _SAVE_SHARE, _LONGEST_SAVE_PAUSE = 1.0, 50, 60.0
"""Seconds between two savings; at least this many times what the last one took; but no more than
this: it may have taken so long because the process was paused."""


class LeaseKeeper:
    """The leases of one network, ours and others'.

    :param tell: hears of the subnets whose peer is not what it was.
    :param save: writes what is served now to a file.
    :param margin: seconds that must be left of our lease at its renewal.
    """

    def __init__(
        self,
        subnets: SubnetManager,
        status: Status,
        *,
        tell: Callable[[set[IPv4Network]], None],
        save: Callable[[], Awaitable[bool]],
        margin: float,
    ) -> None:
        self._subnets = subnets
        self._status = status
        self._conditions = status.conditions
        self._tell = tell
        self._save = save
        self._margin = margin
        self._unsaved = asyncio.Event()
        self._unsaved.set()
        self._news = PeerNews(subnets.peers)
        self._something_to_say = asyncio.Event()

    async def run(self) -> None:
        """Keep and follow until cancelled.

        :raises LeaseLost: in a group; our subnet is another's now.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.keep())
            tasks.create_task(self.follow())
            tasks.create_task(self.expire())
            tasks.create_task(self.save())
            tasks.create_task(self.say())

    async def keep(self) -> None:
        """Let the store say that our subnet is ours, for long enough."""
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
                    continue  # another lifetime, or it is not in order any more
                except TimeoutError:
                    pass
            elif not subnets.is_forgotten:  # else newcomers must see soon that it is in use
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
                log.debug("the lease is kept: %s", self._subnets.own)
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
                    self._hear(changed)
                    self._conditions.clear(Condition.RESUMED)
                    # The list that comes first says nothing of the watch, which may fail at once.
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
        """Look after leases that the store has forgotten."""
        while True:
            await asyncio.sleep(1)
            changed = self._subnets.expire()
            if changed:
                log.warning(
                    "leases that the store has forgotten are over: %s", listed(sorted(changed))
                )
                self._hear(changed)

    async def save(self) -> None:
        """Save what is served, soon after each change, and what has changed last at the end."""
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

    async def say(self) -> None:
        """Say which peers have changed: at once, and what changes in the next seconds together."""
        while True:
            await self._something_to_say.wait()
            self._something_to_say.clear()
            peers = self._subnets.peers
            line = self._news.line(peers)
            if not line:
                continue
            about = fields(changed=self._news.count, peers=len(peers))
            log.info("peers: %s; there are %d now", line, len(peers), extra=about)
            await asyncio.sleep(_SAY_PAUSE)

    def _hear(self, changed: set[IPv4Network]) -> None:
        if changed:
            self._unsaved.set()
            self._news.note(changed)
            self._something_to_say.set()
            if log.isEnabledFor(logging.DEBUG):
                peers = self._subnets.peers
                for subnet in sorted(changed):
                    log.debug("peer: %s", peers.get(subnet, f"{subnet} is gone"))
        self._tell(changed)

    def _backoff(self) -> Backoff:
        return Backoff(0.1, retry_pause(len(self._subnets.peers)))
