"""Upkeep: the network follows the peers; the kernel is compared when a hint or the time calls."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from ipaddress import IPv4Network
from typing import Any, Self, cast

import pytest
from fake_host import ETH0, FakeHost
from managers import net
from virtual_time import Clock

from flannel.conditions import Condition
from flannel.daemon import upkeep as module
from flannel.daemon.schedule import RESYNC, RETRY
from flannel.daemon.upkeep import Pending, Upkeep
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

    :ivar cost: seconds that each call takes.
    """

    device, mtu = "flannel.1", 1450
    holds = None

    def __init__(self, clock: Clock, on_apply: Callable[[], None] = lambda: None) -> None:
        self.applied: list[tuple[float, object]] = []
        self.refusal: KernelError | None = None
        self.cost = 0.0
        self.on_apply = on_apply
        self._clock = clock

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        self.applied.append((self._clock.now, "all" if changed is None else set(changed)))
        self.on_apply()
        self._clock.skip(self.cost)
        if self.refusal is not None:
            raise self.refusal

    @property
    def calls(self) -> list[object]:
        return [call for _, call in self.applied]


class Made:
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
            running = asyncio.create_task(self.upkeep.run(RANGE))
            try:
                await work()
            finally:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running

        self.clock.run(both())


@pytest.fixture
def made(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Made:
    return Made(clock, monkeypatch)


def test_nothing_is_done_before_the_peers_are_known(made: Made) -> None:
    async def work() -> None:
        made.upkeep.pending.disturb()
        await asyncio.sleep(3600)
        assert made.network.calls == []
        made.upkeep.pending.add(set())
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all"]

    made.run(work)


def test_a_changed_lease_is_applied_alone_and_at_once(made: Made) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.upkeep.pending.add({A})
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", {A}]
        made.upkeep.pending.add({A})
        made.upkeep.pending.add({B})
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", {A}, {A, B}]

    made.run(work)


def test_a_lease_that_changes_while_others_are_applied_is_not_lost(made: Made) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)

        def meanwhile() -> None:
            made.network.on_apply = lambda: None
            made.upkeep.pending.add({B})

        made.network.on_apply = meanwhile
        made.upkeep.pending.add({A})
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", {A}, {B}]

    made.run(work)


def test_all_is_compared_every_ten_seconds(made: Made) -> None:
    async def work() -> None:
        began = made.clock.now
        made.upkeep.pending.add(set())
        await asyncio.sleep(35)
        assert [when - began for when, _ in made.network.applied] == pytest.approx(
            [0, RESYNC, 2 * RESYNC, 3 * RESYNC]
        )
        assert set(made.network.calls) == {"all"}
        assert made.ready == 4

    made.run(work)


def test_a_hint_about_the_overlay_has_all_compared_at_once(made: Made) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.monitor.on_hint(Hint.OVERLAY)
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", "all"]
        assert made.underlay.looks == 0

    made.run(work)


def test_a_hint_while_all_is_compared_has_it_compared_again(made: Made) -> None:
    async def work() -> None:
        def meanwhile() -> None:
            made.network.on_apply = lambda: None
            made.monitor.on_hint(Hint.OVERLAY)

        made.network.on_apply = meanwhile
        made.upkeep.pending.add(set())
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", "all"]

    made.run(work)


def test_a_hint_about_the_underlay_goes_to_the_one_who_watches_that(made: Made) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.monitor.on_hint(Hint.UNDERLAY)
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all"]
        assert made.underlay.looks == 1

    made.run(work)


def test_an_interface_that_returns_has_all_compared(made: Made) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.underlay.on_return()
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", "all"]

    made.run(work)


def test_the_monitor_watches_the_networks_range_and_links(made: Made) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        watched = made.monitor.watched
        assert (watched.network, watched.device, watched.external) == (RANGE, "flannel.1", "eth0")

    made.run(work)


def test_what_the_kernel_refuses_is_a_condition_and_tried_again_each_second(made: Made) -> None:
    async def work() -> None:
        made.network.refusal = NO_MEMORY
        began = made.clock.now
        made.upkeep.pending.add(set())
        await asyncio.sleep(2.5)
        assert [when - began for when, _ in made.network.applied] == pytest.approx(
            [0, RETRY, 2 * RETRY]
        )
        assert "cannot write to netlink: Cannot allocate memory" in made.condition()
        assert made.ready == 0
        made.network.refusal = None
        await asyncio.sleep(RETRY)
        assert made.condition() == ""
        assert made.ready == 1

    made.run(work)


def test_a_change_that_the_kernel_refuses_has_all_compared(made: Made) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.network.refusal = NO_MEMORY
        made.upkeep.pending.add({A})
        await asyncio.sleep(0.01)
        assert made.condition()
        made.network.refusal = None
        made.upkeep.pending.add({B})  # which is quick, and says nothing of A
        await asyncio.sleep(0.01)
        assert made.condition()
        await asyncio.sleep(RETRY)
        assert made.network.calls == ["all", {A}, {B}, "all"]
        assert made.condition() == ""

    made.run(work)


def test_differences_are_repairs_but_for_those_at_the_start(made: Made) -> None:
    repairs = made.host.kernel.repairs

    async def work() -> None:
        made.network.on_apply = lambda: repairs.note("its MTU was 1400")
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        assert repairs.total == 0
        made.monitor.on_hint(Hint.OVERLAY)
        await asyncio.sleep(0.01)
        assert repairs.total == 1
        assert repairs.last == "repaired flannel.1: its MTU was 1400"

    made.run(work)


def test_what_a_failed_comparison_has_noted_is_no_repair(made: Made) -> None:
    repairs = made.host.kernel.repairs

    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.network.refusal = NO_MEMORY
        made.network.on_apply = lambda: repairs.note("it was down")
        made.monitor.on_hint(Hint.OVERLAY)
        await asyncio.sleep(0.01)
        made.network.refusal, made.network.on_apply = None, lambda: None
        await asyncio.sleep(RETRY)
        assert made.network.calls == ["all", "all", "all"]
        assert repairs.total == 0

    made.run(work)


def test_a_device_that_somebody_fights_over_is_left_alone_for_growing_pauses(made: Made) -> None:
    async def work() -> None:
        made.network.on_apply = lambda: made.host.kernel.repairs.note("it was down")
        made.upkeep.pending.add(set())
        for _ in range(60):
            await asyncio.sleep(0.5)
            made.monitor.on_hint(Hint.OVERLAY)
        assert 6 < len(made.network.calls) < 15
        times = [when for when, _ in made.network.applied]
        assert times[-1] - times[-2] >= 8.0

    made.run(work)


def test_a_changed_underlay_ends_it(made: Made) -> None:
    async def work() -> None:
        running = asyncio.create_task(made.upkeep.run(RANGE))
        await asyncio.sleep(0)
        made.underlay.changed.set()
        with pytest.raises(ExceptionGroup) as caught:
            await running
        assert caught.value.subgroup(UnderlayChanged) is not None

    made.clock.run(work())


def test_pending_gives_each_subnet_once() -> None:
    async def work() -> None:
        pending = Pending()
        assert pending.is_everything  # nothing is known of the kernel at the start
        pending.add({A, B})
        assert pending.take(everything=False) == {A, B}
        assert pending.is_everything
        assert pending.take(everything=True) == set()
        assert not pending.is_everything

    asyncio.run(work())
