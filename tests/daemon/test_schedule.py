"""Comparisons come as soon and as often as their cost allows."""

import pytest

from flannel.daemon.schedule import (
    BURST,
    EARLIEST_SHARE,
    LONGEST,
    RESYNC,
    RESYNC_SHARE,
    RETRY,
    Schedule,
)
from flannel.health.status import _PEERS_SILENCE


def waits(schedule: Schedule, now: float) -> tuple[float, float]:
    """Seconds until the next comparison: with a hint, and without one."""
    return schedule.due(is_disturbed=True) - now, schedule.due(is_disturbed=False) - now


def test_the_first_comparison_is_due_at_once() -> None:
    assert max(waits(Schedule(), 0.0)) <= 0


def test_a_cheap_comparison_is_repeated_at_the_next_hint_or_after_the_resync() -> None:
    schedule = Schedule()
    schedule.succeeded(100.0, 0.001)
    earliest, resync = waits(schedule, 100.0)
    assert earliest == 0
    assert resync == RESYNC


def test_without_hints_comparisons_take_their_share_of_a_cpu_and_no_more() -> None:
    schedule = Schedule()
    schedule.succeeded(100.0, 1.0)
    assert waits(schedule, 100.0)[1] == RESYNC_SHARE


def test_at_any_cost_a_comparison_is_due_before_its_task_counts_as_dead() -> None:
    schedule = Schedule()
    schedule.succeeded(100.0, 25.0)
    assert waits(schedule, 100.0) == (LONGEST, LONGEST)
    assert LONGEST <= _PEERS_SILENCE / 2


def test_hints_may_spend_a_burst_at_once_and_then_a_tenth_of_a_cpu() -> None:
    schedule, now, cost = Schedule(), 100.0, 0.1
    ended = []
    while now < 1000.0:
        now = max(now, schedule.due(is_disturbed=True)) + cost
        schedule.succeeded(now, cost)
        ended.append(now)
    assert len([each for each in ended if each < 103.0]) > 10  # a burst
    busy = cost * len([each for each in ended if each > 500.0])
    assert busy == pytest.approx(500.0 / EARLIEST_SHARE, rel=0.05)


def test_an_idle_time_does_not_let_a_larger_burst_gather() -> None:
    schedule = Schedule()
    schedule.succeeded(100.0, 2.0)
    schedule.succeeded(10_000.0, 2.0)
    assert waits(schedule, 10_000.0)[0] == 2.0 * EARLIEST_SHARE - BURST


def test_a_failed_comparison_is_retried_soon_and_its_cost_counts() -> None:
    schedule = Schedule()
    schedule.failed(100.0, 0.01)
    assert waits(schedule, 100.0)[0] == RETRY
    schedule.failed(101.0, 3.0)
    assert waits(schedule, 101.0)[0] == pytest.approx(3.0 * EARLIEST_SHARE - BURST, abs=0.1)


def test_a_fight_over_the_device_holds_back_both() -> None:
    schedule = Schedule()
    schedule.succeeded(100.0, 0.001, pause=16.0)
    assert waits(schedule, 100.0) == (16.0, 16.0)


def test_entries_that_rest_are_looked_at_when_their_rest_is_over() -> None:
    schedule = Schedule()
    schedule.succeeded(100.0, 0.001, look_at=104.0)
    assert waits(schedule, 100.0)[1] == 4.0


def test_resting_entries_get_no_more_of_the_cpu_than_hints() -> None:
    schedule = Schedule()
    schedule.succeeded(100.0, 4.0, look_at=104.0)
    earliest, resync = waits(schedule, 100.0)
    assert earliest == resync == 4.0 * EARLIEST_SHARE - BURST
