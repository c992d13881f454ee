"""Upkeep: the network follows the peers; the kernel is compared when a hint or the time calls."""

import asyncio

import pytest
from one_upkeep import NO_MEMORY, RANGE, A, B, OneUpkeep
from virtual_time import Clock

from flannel.daemon.schedule import RESYNC, RETRY
from flannel.daemon.upkeep import Pending
from flannel.errors import UnderlayChanged
from flannel.kernel.monitor import Hint


@pytest.fixture
def made(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> OneUpkeep:
    return OneUpkeep(clock, monkeypatch)


def test_nothing_is_done_before_the_peers_are_known(made: OneUpkeep) -> None:
    async def work() -> None:
        made.upkeep.pending.disturb()
        await asyncio.sleep(3600)
        assert made.network.calls == []
        made.upkeep.pending.add(set())
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all"]

    made.run(work)


def test_a_changed_lease_is_applied_alone_and_at_once(made: OneUpkeep) -> None:
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


def test_a_lease_that_changes_while_others_are_applied_is_not_lost(made: OneUpkeep) -> None:
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


def test_upkeep_compares_all_every_ten_seconds(made: OneUpkeep) -> None:
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


def test_a_hint_about_the_overlay_has_all_compared_at_once(made: OneUpkeep) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.monitor.on_hint(Hint.OVERLAY)
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", "all"]
        assert made.underlay.looks == 0

    made.run(work)


def test_a_hint_while_all_is_compared_has_it_compared_again(made: OneUpkeep) -> None:
    async def work() -> None:
        def meanwhile() -> None:
            made.network.on_apply = lambda: None
            made.monitor.on_hint(Hint.OVERLAY)

        made.network.on_apply = meanwhile
        made.upkeep.pending.add(set())
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", "all"]

    made.run(work)


def test_a_hint_about_the_underlay_makes_the_underlay_look(made: OneUpkeep) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.monitor.on_hint(Hint.UNDERLAY)
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all"]
        assert made.underlay.looks == 1

    made.run(work)


def test_an_interface_that_returns_has_all_compared(made: OneUpkeep) -> None:
    async def work() -> None:
        made.upkeep.pending.add(set())
        await asyncio.sleep(1)
        made.underlay.on_return()
        await asyncio.sleep(0.01)
        assert made.network.calls == ["all", "all"]

    made.run(work)


def test_the_monitor_watches_the_networks_range_and_links(made: OneUpkeep) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        watched = made.monitor.watched
        assert (watched.network, watched.device, watched.external) == (RANGE, "flannel.1", "eth0")

    made.run(work)


def test_a_kernel_error_is_a_condition_and_tried_again_each_second(
    made: OneUpkeep,
) -> None:
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


def test_a_change_that_the_kernel_refuses_has_all_compared(made: OneUpkeep) -> None:
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


def test_differences_are_repairs_but_for_those_at_the_start(made: OneUpkeep) -> None:
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


def test_notes_of_a_failed_comparison_are_not_counted_as_repairs(made: OneUpkeep) -> None:
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


def test_a_device_that_somebody_fights_over_is_left_alone_for_growing_pauses(
    made: OneUpkeep,
) -> None:
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


def test_a_changed_underlay_ends_upkeep(made: OneUpkeep) -> None:
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
