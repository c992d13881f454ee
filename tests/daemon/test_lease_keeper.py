"""LeaseKeeper: keeps our lease, follows the peers', and survives an unreachable store."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from kept_leases import MARGIN, PEER, REFUSED, TTL, Made
from managers import LONG_AGO, ME, OTHER, net
from virtual_time import Clock
from waiting import running, until

from flannel.conditions import Condition
from flannel.errors import LeaseLost, StoreDenied, StoreUnavailable
from flannel.lease import UNKNOWN_TTL, LeaseAttrs
from flannel.stores import Snapshot


@pytest.fixture
def made(clock: Clock) -> Made:
    return Made(clock)


def test_the_lease_is_renewed_in_time_again_and_again(made: Made) -> None:
    async def work() -> None:
        await asyncio.sleep(0.49 * (TTL - MARGIN))
        assert made.store.renewals == 0
        await asyncio.sleep(0.42 * (TTL - MARGIN))
        assert made.store.renewals == 1
        await asyncio.sleep(10 * TTL)
        assert made.store.renewals > 10

    made.run(work)


def test_the_status_has_the_lease_and_the_time_of_its_renewal(made: Made) -> None:
    async def work() -> None:
        seconds = made.status.lease_seconds()
        assert seconds is not None
        left, renewal = seconds
        assert left == pytest.approx(TTL, abs=1)
        assert 0.49 * (TTL - MARGIN) < renewal < 0.91 * (TTL - MARGIN)

    made.run(work)


@pytest.mark.parametrize(("ttl", "left"), [(70, 70), (0, 0), (UNKNOWN_TTL, None)])
def test_the_status_does_not_invent_the_lifetime_of_a_lease_from_a_file(
    made: Made, ttl: int, left: int | None
) -> None:
    async def main() -> None:
        lease = await made.store.create(PEER, ME, 500)
        made.store.go_down(REFUSED)
        made.subnets.resume(ME, replace(lease, ttl=ttl))
        async with running(made.keeper.run()):
            await asyncio.sleep(0.01)
            seconds = made.status.lease_seconds()
            assert (seconds and seconds[0]) == (
                left if left is None else pytest.approx(left, abs=1)
            )
            assert made.status.renewed_at is None
            assert bool(made.condition(Condition.LEASE)) is (ttl == 0)  # it is due
            made.store.refusal = None
            await asyncio.sleep(60)
            seconds = made.status.lease_seconds()
            assert seconds is not None
            assert 400 < seconds[0] <= TTL
            assert (made.status.renewed_at is None) is (made.store.renewals == 0)

    made.clock.run(main())


def test_a_lease_that_is_removed_is_taken_again_at_once(made: Made) -> None:
    async def work() -> None:
        made.store.remove(made.own)
        await asyncio.sleep(0.1)
        assert made.store.leases[made.own].attrs == ME

    made.run(work)


def test_a_lease_that_is_removed_again_and_again_is_taken_again_after_growing_pauses(
    made: Made,
) -> None:
    async def work() -> None:
        waited = []
        for _ in range(6):
            made.store.remove(made.own)
            began = made.clock.now
            await until(lambda: made.own in made.store.leases)
            waited.append(made.clock.now - began)
            await asyncio.sleep(0.1)
        assert waited[0] < 0.1 < waited[1] < waited[5] <= 2.1
        await asyncio.sleep(61)  # nobody does any more
        made.store.remove(made.own)
        await asyncio.sleep(0.1)
        assert made.own in made.store.leases

    made.run(work)


def test_a_lease_that_the_store_has_lost_is_written_again_at_once_each_time(made: Made) -> None:
    """New hosts must see soon that the subnet is in use."""

    async def work() -> None:
        for _ in range(5):
            made.store.leases.clear()
            made.store.tell(Snapshot((), rewound=True))
            await asyncio.sleep(0.1)
            assert made.own in made.store.leases

    made.run(work)


def test_a_store_that_does_not_answer_is_a_condition_and_is_asked_until_it_answers(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        made.store.go_down(REFUSED)
        await asyncio.sleep(2 * TTL)
        assert "cannot keep the lease yet: cannot read it" in made.condition(Condition.LEASE)
        assert "refused; packets flow on" in made.condition(Condition.WATCH)
        made.store.refusal = None
        await asyncio.sleep(5)
        assert made.store.renewals >= 1
        assert made.condition(Condition.LEASE) == made.condition(Condition.WATCH) == ""

    caplog.set_level("INFO")
    made.run(work)
    assert caplog.messages[:2] == [
        f"cannot follow the leases: {REFUSED}; packets flow on",
        f"cannot keep the lease yet: {REFUSED}",
    ]
    assert sorted(caplog.messages[2:]) == [
        "following the leases again",
        "the store accepts the renewal of the lease again",
    ]


def test_a_watch_that_fails_after_each_list_is_logged_once_and_retried_ever_less_often(
    made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lists = []

    async def follow() -> AsyncIterator[set[IPv4Network]]:
        lists.append(made.clock.now)
        yield set()
        raise REFUSED

    caplog.set_level("INFO")
    monkeypatch.setattr(made.subnets, "follow", follow)

    async def work() -> None:
        await asyncio.sleep(60)
        assert len(lists) < 60 / 0.25
        assert made.condition(Condition.WATCH)

    made.run(work)
    assert caplog.messages == [f"cannot follow the leases: {REFUSED}; packets flow on"]


def test_a_different_kind_of_refusal_is_logged_again(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        made.store.go_down(REFUSED)
        await asyncio.sleep(60)
        made.store.refusal = StoreUnavailable("cannot read it: connection reset")
        await asyncio.sleep(60)
        made.store.refusal = StoreDenied("cannot read it: user name or password refused")
        await asyncio.sleep(60)

    made.run(work)
    assert [line.split(": ")[-1] for line in caplog.messages if "follow" in line] == [
        "connection refused; packets flow on",
        "user name or password refused; packets flow on",
    ]


def test_the_first_list_of_peers_and_then_each_change_is_passed_on(made: Made) -> None:
    async def work() -> None:
        assert made.reported == [set()]
        made.store.put(PEER, OTHER, TTL)
        await asyncio.sleep(0.1)
        assert made.reported == [set(), {PEER}]
        assert made.subnets.peers[PEER].attrs == OTHER
        made.store.remove(PEER)
        await asyncio.sleep(0.1)
        assert made.reported == [set(), {PEER}, {PEER}]

    made.run(work)


def test_a_store_that_answers_again_ends_the_serving_of_saved_leases(made: Made) -> None:
    async def work() -> None:
        conditions = made.status.conditions
        conditions.report(Condition.RESUMED, "the store does not answer: serving lease ...")
        made.store.put(PEER, OTHER, TTL)
        await asyncio.sleep(0.1)
        assert made.condition(Condition.RESUMED) == ""

    made.run(work)


def test_leases_that_the_store_has_lost_are_dropped_after_their_grace(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        made.store.put(PEER, OTHER, TTL)
        await asyncio.sleep(0.1)
        made.store.leases.clear()
        made.store.tell(Snapshot((), rewound=True))
        await asyncio.sleep(290)
        assert PEER in made.subnets.peers
        before = len(made.reported)
        await asyncio.sleep(20)
        assert PEER not in made.subnets.peers
        assert made.reported[before:] == [{PEER}]

    made.run(work)
    assert f"dropping leases that the store has lost: {PEER}" in caplog.messages


def test_leases_are_saved_at_once_and_then_in_intervals(made: Made) -> None:
    async def work() -> None:
        assert [n for _, n in made.saved] == [0]
        await asyncio.sleep(5)
        made.saved.clear()
        began = made.clock.now
        for n in range(30):
            made.store.put(net(f"10.5.{100 + n}.0/24"), LeaseAttrs(IPv4Address(n + 1)), TTL)
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)
        assert made.saved[0][0] == pytest.approx(began)
        assert made.saved[0][1] == 1
        assert 3 <= len(made.saved) <= 5
        assert made.saved[-1][1] == 30

    made.run(work)


def test_a_slow_disk_is_written_to_seldom_but_still_written_to(made: Made) -> None:
    async def work() -> None:
        await asyncio.sleep(5)
        made.save_takes = 0.5
        made.saved.clear()
        for n in range(100):
            made.store.put(net(f"10.5.{100 + n}.0/24"), LeaseAttrs(IPv4Address(n + 1)), TTL)
            await asyncio.sleep(1)
        assert 4 <= len(made.saved) <= 5

    made.run(work)


def test_leases_are_saved_again_after_the_process_was_paused_during_a_save(made: Made) -> None:
    async def work() -> None:
        await asyncio.sleep(5)
        made.save_takes = 60.0
        made.store.put(PEER, OTHER, TTL)
        await asyncio.sleep(61)
        made.save_takes = 0.0
        made.saved.clear()
        made.store.remove(PEER)
        await asyncio.sleep(61)
        assert [n for _, n in made.saved] == [0]

    made.run(work)


def test_a_save_that_fails_is_tried_again(made: Made) -> None:
    async def work() -> None:
        await asyncio.sleep(5)
        made.can_save = False
        made.saved.clear()
        made.store.put(PEER, OTHER, TTL)
        await asyncio.sleep(35)
        assert len(made.saved) == 4
        made.can_save = True
        await asyncio.sleep(11)
        made.saved.clear()
        await asyncio.sleep(60)
        assert made.saved == []

    made.run(work)


def test_unsaved_changes_are_saved_at_the_end(made: Made) -> None:
    async def work() -> None:
        await asyncio.sleep(5)
        made.store.put(PEER, OTHER, TTL)
        await asyncio.sleep(0.1)
        made.store.put(net("10.5.10.0/24"), LeaseAttrs(IPv4Address("192.0.2.3")), TTL)
        await asyncio.sleep(0.1)
        assert made.saved[-1][1] == 1

    made.run(work)
    assert made.saved[-1][1] == 2


def test_nothing_is_saved_at_the_end_if_nothing_has_changed(made: Made) -> None:
    async def work() -> None:
        await asyncio.sleep(5)
        made.saved.clear()

    made.run(work)
    assert made.saved == []


def test_a_change_of_the_peers_is_logged_at_once_and_the_next_ones_together(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    seen = []

    async def work() -> None:
        for n in range(8):
            made.store.put(net(f"10.5.{100 + n}.0/24"), LeaseAttrs(IPv4Address(n + 1)), TTL)
            await asyncio.sleep(0.1)
            seen.append(len([line for line in caplog.messages if line.startswith("peers: ")]))
        await asyncio.sleep(10)

    made.run(work)
    assert seen == [1] * 8
    assert [line for line in caplog.messages if line.startswith("peers: ")] == [
        "peers: joined 10.5.100.0/24 of 0.0.0.1; there are 1 now",
        "peers: joined 10.5.101.0/24 of 0.0.0.2, 10.5.102.0/24 of 0.0.0.3, "
        "10.5.103.0/24 of 0.0.0.4, 10.5.104.0/24 of 0.0.0.5, 10.5.105.0/24 of 0.0.0.6 and 2 more; "
        "there are 8 now",
    ]


def test_each_peer_that_changes_is_logged_at_level_debug(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "flannel")

    async def work() -> None:
        made.store.put(PEER, OTHER, TTL)
        await asyncio.sleep(0.1)
        made.store.remove(PEER)
        await asyncio.sleep(0.1)

    made.run(work)
    assert [line for line in caplog.messages if line.startswith("peer: ")] == [
        f"peer: {PEER} of 192.0.2.2",
        f"peer: {PEER} is gone",
    ]


def test_a_subnet_that_another_host_holds_ends_the_keeper(made: Made) -> None:
    async def work() -> None:
        await made.subnets.acquire(ME, None, seen_since=LONG_AGO)
        running = asyncio.create_task(made.keeper.run())
        await asyncio.sleep(0.1)
        made.store.put(made.own, OTHER, TTL)
        with pytest.raises(ExceptionGroup) as caught:
            await running
        assert caught.value.subgroup(LeaseLost) is not None

    made.clock.run(work())


def test_a_reservation_is_not_renewed(made: Made) -> None:
    made.store.put(PEER, ME, None)

    async def work() -> None:
        assert made.own == PEER
        assert made.status.lease_seconds() is None
        await asyncio.sleep(3 * TTL)
        assert made.store.renewals == 0

    made.run(work)
