"""An Upkeep with its surroundings, in memory and in virtual time."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from ipaddress import IPv4Network
from typing import Any, Self, cast

import pytest
from fake_host import ETH0, FakeHost
from managers import net
from virtual_time import Clock
from waiting import running

from flannel.conditions import Condition
from flannel.daemon import upkeep as module
from flannel.daemon.upkeep import Upkeep
from flannel.errors import KernelError, UnderlayChanged
from flannel.health import status as status_module
from flannel.health.status import Status
from flannel.kernel import repairs as repairs_module
from flannel.kernel.monitor import Hint, Watched
from flannel.lease import Peers
from flannel.options.table import parse

RANGE = net("10.5.0.0/16")
A, B = net("10.5.1.0/24"), net("10.5.2.0/24")
NO_MEMORY = KernelError("write to netlink", 12)


class FakeMonitor:
    """Hints as the test gives them."""

    last_port = 0
    on_hint: Callable[[Hint], None]
    watched: Watched

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def watch(self, watched: Watched, on_hint: Callable[[Hint], None]) -> None:
        self.watched, self.on_hint = watched, on_hint


class FakeUnderlay:
    """An external interface that stays as it is until `changed` is set."""

    def __init__(self) -> None:
        self.looks = 0
        self.changed = asyncio.Event()

    def look(self) -> None:
        self.looks += 1

    async def watch(self, used: object, on_return: Callable[[], None]) -> None:
        self.on_return = on_return
        await self.changed.wait()
        raise UnderlayChanged("the MTU of eth0 is 1400 now, it was 1500")


class FakeNetwork:
    """Records what it was asked to apply: "all", or the subnets.

    :ivar cost: seconds of a CPU that each call takes.
    :ivar pause: seconds for which this process is stopped in the middle of a call.
    """

    device, mtu = "flannel.1", 1450
    holds = None

    def __init__(self, clock: Clock, on_apply: Callable[[], None] = lambda: None) -> None:
        self.applied: list[tuple[float, object]] = []
        self.refusal: KernelError | None = None
        self.cost = self.pause = 0.0
        self.on_apply = on_apply
        self._clock = clock

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        self.applied.append((self._clock.now, "all" if changed is None else set(changed)))
        self.on_apply()
        self._clock.skip(self.cost + self.pause)
        self._clock.used += self.cost
        if self.refusal is not None:
            raise self.refusal

    @property
    def calls(self) -> list[object]:
        return [call for _, call in self.applied]


class OneUpkeep:
    """An Upkeep, and all that is around it."""

    def __init__(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        clock.rule(module, repairs_module, status_module)
        self.clock = clock
        self.monitor = FakeMonitor()
        monkeypatch.setattr(module, "Monitor", lambda port: self.monitor)
        self.network = FakeNetwork(clock)
        self.host = FakeHost()
        self.underlay = FakeUnderlay()
        self.status = Status(parse([], {}), cast(Any, None))
        self.ready = 0
        self.upkeep = Upkeep(
            self.host.kernel,
            cast(Any, self.network),
            ETH0,
            cast(Any, self.underlay),
            self.status,
            peers=dict,
            on_ready=self.on_ready,
        )

    def on_ready(self) -> None:
        self.ready += 1

    def condition(self) -> str:
        return self.status.conditions.text(Condition.KERNEL)

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run ``work`` beside the upkeep."""

        async def both() -> None:
            async with running(self.upkeep.run(RANGE)):
                await work()

        self.clock.run(both())
