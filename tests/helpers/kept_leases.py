"""A LeaseKeeper over a store in memory, with a record of its reports and saves."""

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Network
from random import Random
from typing import Any, cast

from fake_store import FakeStore
from managers import CONFIG, LONG_AGO, ME, net
from virtual_time import Clock
from waiting import running

from flannel.conditions import Condition
from flannel.daemon import lease_keeper as module
from flannel.daemon.lease_keeper import LeaseKeeper
from flannel.errors import StoreUnavailable
from flannel.health import status as status_module
from flannel.health.status import Status
from flannel.leases import subnets as subnets_module
from flannel.leases.subnets import SubnetManager
from flannel.options.table import parse

TTL, MARGIN = 600, 60.0
REFUSED = StoreUnavailable("cannot read it: http://192.0.2.9:2379: connection refused")
PEER = net("10.5.9.0/24")


class Made:
    """A LeaseKeeper over a store in memory."""

    def __init__(self, clock: Clock) -> None:
        clock.rule(module, subnets_module, status_module)
        self.clock = clock
        self.store = FakeStore()
        self.subnets = SubnetManager(self.store, CONFIG, Random(7), ttl=TTL, grace=300.0)
        self.status = Status(parse([], {}), cast(Any, None))
        self.reported: list[set[IPv4Network]] = []
        self.saved: list[tuple[float, int]] = []
        self.save_takes, self.can_save = 0.0, True
        self.keeper = LeaseKeeper(
            self.subnets,
            self.status,
            peers_changed=self.reported.append,
            save=self._save,
            margin=MARGIN,
        )

    async def _save(self) -> bool:
        self.saved.append((self.clock.now, len(self.subnets.peers)))
        await asyncio.sleep(self.save_takes)
        return self.can_save

    def condition(self, which: Condition) -> str:
        return self.status.conditions.text(which)

    @property
    def own(self) -> IPv4Network:
        return self.subnets.own.subnet

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` beside the keeper, once that has looked around."""

        async def both() -> None:
            await self.subnets.acquire(ME, None, seen_since=LONG_AGO)
            async with running(self.keeper.run()):
                await asyncio.sleep(0.01)
                await work()

        self.clock.run(both())
