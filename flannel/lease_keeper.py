"""LeaseKeeper: while a network is served, our lease is kept and the peers' are followed.

A store that is away ends neither: it is asked until it answers, and said once.
"""

import asyncio
import logging
from collections.abc import Callable
from ipaddress import IPv4Network

from flannel.backoff import Backoff
from flannel.errors import StoreDenied, StoreUnavailable
from flannel.once import Once
from flannel.subnets import SubnetManager

log = logging.getLogger(__name__)

AWAY = (StoreUnavailable, StoreDenied)
"""Errors of a store that may answer another time."""


class LeaseKeeper:
    """The two sides of one network's leases: `keep` and `follow` run side by side."""

    def __init__(self, subnets: SubnetManager, said: Once, margin: float) -> None:
        self._subnets = subnets
        self._said = said
        self._margin = margin

    async def keep(self) -> None:
        """Renew our lease in time.

        :raises LeaseLost: it is not ours any more.
        """
        subnets = self._subnets
        backoff = Backoff()
        while True:
            try:
                async with asyncio.timeout(subnets.renewal_delay(self._margin)):
                    await subnets.own_changed()
                continue  # somebody gave it another lifetime: reckon again
            except TimeoutError:
                pass
            while True:
                try:
                    await subnets.renew()
                except AWAY as why:
                    message = f"cannot renew the lease yet: {why}"
                    self._said.warn("renewal", message, about=type(why))
                    await backoff.wait()
                else:
                    break
            backoff.reset()
            self._said.forget("renewal")
            log.debug("renewed lease %s", subnets.own)

    async def follow(self, tell: Callable[[set[IPv4Network]], None]) -> None:
        """Keep the peers up to date; ``tell`` hears each time whose lease differs.

        :raises LeaseLost: our own lease is not ours any more.
        """
        backoff = Backoff()
        while True:
            try:
                async for changed in self._subnets.follow():
                    tell(changed)
                    backoff.reset()
                    if self._said.forget("watch"):
                        log.info("following the leases again")
            except AWAY as why:
                message = f"cannot follow the leases: {why}; packets flow on"
                self._said.warn("watch", message, about=type(why))
            await backoff.wait()
