"""Upkeep: comparisons get their share of a CPU; a pause of the process does not count."""

import asyncio
from itertools import pairwise

import pytest
from one_upkeep import OneUpkeep
from virtual_time import Clock

from flannel.daemon.schedule import RESYNC
from flannel.health import status as status_module
from flannel.kernel.monitor import Hint


@pytest.fixture
def made(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> OneUpkeep:
    return OneUpkeep(clock, monkeypatch)


def test_a_pause_in_the_middle_of_a_comparison_costs_nothing(made: OneUpkeep) -> None:
    async def work() -> None:
        made.network.cost, made.network.pause = 0.05, 3600.0
        made.upkeep.pending.add(set())
        await asyncio.sleep(0.01)
        made.network.pause = 0.0
        for _ in range(3):
            before = len(made.network.calls)
            made.monitor.on_hint(Hint.OVERLAY)
            await asyncio.sleep(0.1)
            assert len(made.network.calls) == before + 1
        before = len(made.network.calls)
        await asyncio.sleep(RESYNC)
        assert len(made.network.calls) > before

    made.run(work)


def test_comparisons_that_cost_much_get_a_tenth_of_a_cpu(made: OneUpkeep) -> None:
    async def work() -> None:
        made.network.cost = 2.5  # as with 60,000 peers
        made.upkeep.pending.add(set())
        began = made.clock.now
        while made.clock.now < began + 1000:
            await asyncio.sleep(0.5)
            made.monitor.on_hint(Hint.OVERLAY)
        assert 0.08 < made.clock.used / (made.clock.now - began) < 0.11

    made.run(work)


@pytest.mark.parametrize("cost", [0.0, 2.5, 30.0])
def test_upkeep_gives_signs_of_life_and_compares_at_any_cost_of_a_comparison(
    made: OneUpkeep, monkeypatch: pytest.MonkeyPatch, cost: float
) -> None:
    beats = []
    monkeypatch.setattr(made.status, "beat", lambda task: beats.append(made.clock.now))

    async def work() -> None:
        made.network.cost = cost
        made.upkeep.pending.add(set())
        await asyncio.sleep(1000)
        compared = [when for when, _ in made.network.applied]
        for moments in (beats, compared):
            longest = max(after - before for before, after in pairwise(moments))
            assert longest < status_module._PEERS_SILENCE - 10

    made.run(work)
