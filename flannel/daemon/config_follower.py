"""ConfigFollower: the network config in the store, waited for, then watched while it is served.

    follower = ConfigFollower(store, key, conditions)
    network = await follower.wait(read, patience)     # None: the store has not answered
    await follower.watch(text, changed)                     # for as long as it is served

A document that cannot be used is said once, and changes nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

from flannel.backoff import Backoff
from flannel.conditions import Condition, Conditions
from flannel.errors import BadNetworkConfig, NetworkInUse, StoreUnreachable
from flannel.stores import Store

log = logging.getLogger(__name__)
T = TypeVar("T")

_LONGEST_PAUSE = 1.0
"""Seconds; at most one and a half times that after its return the store is asked again."""


class ConfigFollower:
    """One key of the store, for all lives of the daemon.

    :ivar seen_since: since when (monotonic) the store has been answering; None: it is not.
    """

    def __init__(self, store: Store, key: str, conditions: Conditions) -> None:
        self.seen_since: float | None = None
        self._store = store
        self._key = key
        self._conditions = conditions

    async def wait(self, read: Callable[[str], T], patience: float | None = None) -> T | None:
        """What ``read`` makes of the first document that it can use.

        :param read: raises `BadNetworkConfig` for a document that cannot be used.
        :param patience: seconds to wait for a document, or the answer that there is none; None:
            for ever.
        :return: None if there was no such answer in that time, or no document of use: see
            `seen_since`.
        """
        backoff = Backoff(0.1, _LONGEST_PAUSE)
        deadline = asyncio.timeout(patience)
        try:
            async with deadline:
                while True:
                    try:
                        async for document in self._store.follow_config():
                            self._answered()
                            backoff.reset()
                            text = document.text if document is not None else None
                            found = self._read(text, read)
                            if found is not None:
                                return found
                            if text is None:
                                deadline.reschedule(None)
                    except StoreUnreachable as why:
                        self.seen_since = None
                        # One that is away says so in many ways: refused, reset, no answer.
                        self._conditions.report(
                            Condition.STORE, f"{why}; trying again", about=type(why)
                        )
                    await backoff.wait()
        except TimeoutError:
            return None

    def _read(self, text: str | None, read: Callable[[str], T]) -> T | None:
        if text is None:
            message = f"there is no network config at {self._key}; waiting for it"
            self._conditions.report(Condition.CONFIG, message)
            return None
        try:
            found = read(text)
        except BadNetworkConfig as why:
            # The text makes the same mistake in another document news.
            message = f"{why} ({self._key}); waiting for another"
            self._conditions.report(Condition.CONFIG, message, about=(str(why), text))
            return None
        self._conditions.clear(Condition.CONFIG)
        return found

    async def watch(self, served: str, changed: Callable[[str], Awaitable[None]]) -> None:
        """Call ``changed`` with each new text, the first being that in the store if not ``served``.

        ``changed`` may raise `BadNetworkConfig` or `NetworkInUse` for a text that cannot be used;
        any other exception ends the watch.
        """
        backoff = Backoff(0.1, _LONGEST_PAUSE)
        text: str | None = served
        while True:
            try:
                async for document in self._store.follow_config():
                    self._answered()
                    backoff.reset()
                    before, text = text, document.text if document is not None else None
                    if text == before:
                        continue
                    if text is None:
                        message = f"there is no network config at {self._key} any more"
                        self._conditions.report(
                            Condition.CONFIG, f"{message}; serving on with the one that was"
                        )
                        continue
                    try:
                        await changed(text)
                        self._conditions.clear(Condition.CONFIG)
                    except (BadNetworkConfig, NetworkInUse) as why:
                        message = f"{why} ({self._key}); serving on with the one that was"
                        self._conditions.report(Condition.CONFIG, message, about=(str(why), text))
            except StoreUnreachable as why:
                # Not said: who follows the leases meets the same.
                log.debug("%s", why)
                self.seen_since = None
            await backoff.wait()

    def _answered(self) -> None:
        if self.seen_since is None:
            self.seen_since = monotonic()
        self._conditions.clear(Condition.STORE)
