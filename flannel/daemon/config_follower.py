"""ConfigFollower: waits for the network config in the store, then watches it while it is served.

    follower = ConfigFollower(store, key, conditions)
    network = await follower.wait(read, patience)     # None: the store has not answered
    await follower.watch(text, changed)               # for as long as it is served

A document that cannot be used is logged once, and changes nothing.
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
"""Seconds between two requests to an unreachable store; with jitter, up to half as much again."""


class ConfigFollower:
    """Follows one key of the store, for all runs of the network.

    :ivar seen_since: the time (monotonic) since which the store has answered; None: it does not.
    """

    def __init__(self, store: Store, key: str, conditions: Conditions) -> None:
        self.seen_since: float | None = None
        self._store = store
        self._key = key
        self._conditions = conditions

    async def wait(self, read: Callable[[str], T], patience: float | None = None) -> T | None:
        """The result of ``read`` for the first document that can be used.

        :param read: raises `BadNetworkConfig` for a document that cannot be used.
        :param patience: seconds to wait for a usable document, or for the answer that there is no
            document; None: for ever.
        :return: None if neither came in that time; `seen_since` shows whether the store answered.
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
                        # An unreachable store gives many reasons: refused, reset, no answer.
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
            # The same mistake in a different document is logged again.
            message = f"{why} ({self._key}); waiting for another"
            self._conditions.report(Condition.CONFIG, message, about=(str(why), text))
            return None
        self._conditions.clear(Condition.CONFIG)
        return found

    async def watch(self, served: str, changed: Callable[[str], Awaitable[None]]) -> None:
        """Call ``changed`` with each text that differs from the one before, first from ``served``.

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
                            Condition.CONFIG, f"{message}; still serving the previous one"
                        )
                        continue
                    try:
                        await changed(text)
                        self._conditions.clear(Condition.CONFIG)
                    except (BadNetworkConfig, NetworkInUse) as why:
                        message = f"{why} ({self._key}); still serving the previous one"
                        self._conditions.report(Condition.CONFIG, message, about=(str(why), text))
            except StoreUnreachable as why:
                # Not reported: `LeaseKeeper.follow` meets the same error and reports it.
                log.debug("%s", why)
                self.seen_since = None
            await backoff.wait()

    def _answered(self) -> None:
        if self.seen_since is None:
            self.seen_since = monotonic()
        self._conditions.clear(Condition.STORE)
