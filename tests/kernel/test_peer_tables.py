"""Peers' leases against tables in memory: planned, compared, written, repaired."""

import asyncio
import logging
from ipaddress import IPv4Address

import pytest
from tables_host import LINK, Host, peer, subnet

from flannel.errors import KernelError
from flannel.kernel import peer_tables as module
from flannel.kernel.entries import Fdb, Neighbour, Nexthop, Route, key


@pytest.fixture(params=[True, False], ids=["nexthop objects", "classic routes"])
def host(request: pytest.FixtureRequest) -> Host:
    return Host(has_nexthops=request.param)


def test_each_peer_gets_its_entries_and_a_lost_peer_loses_them(host: Host) -> None:
    host.apply(peer(2), peer(3))
    assert host.has(peer(2), peer(3))
    host.apply(peer(2), changed=[3])
    assert host.has(peer(2))
    host.apply(changed=[2])
    assert host.has()


def test_one_changed_lease_does_not_read_the_kernel(host: Host) -> None:
    host.apply(peer(2))
    host.apply(peer(2, host=9, mac=9), peer(3), changed=[2, 3])
    assert host.reads == 1
    assert host.has(peer(2, host=9, mac=9), peer(3))


def test_an_event_changes_the_named_subnets_only() -> None:
    host = Host()
    host.apply(peer(2), peer(3))
    host.apply(peer(2, mac=9), peer(3, mac=8), changed=[2])
    assert host.has(peer(2, mac=9), peer(3))


def test_an_unchanged_set_is_not_written_again(host: Host) -> None:
    host.apply(peer(2), peer(3))
    written = len(host.kernel.writes)
    host.apply(peer(2), peer(3))
    host.apply(peer(2), peer(3), changed=[2, 3])
    assert len(host.kernel.writes) == written


def test_entries_of_departed_peers_are_removed_at_the_first_comparison(host: Host) -> None:
    host.kernel.intrude(*host.plan(peer(9)))
    host.apply(peer(2))
    assert host.has(peer(2))
    assert host.repaired() == 0  # nobody changed what we had left


def test_removed_entries_are_restored_and_counted(host: Host) -> None:
    host.apply(peer(2), peer(3))
    host.kernel.damage(*list(host.plan(peer(2)))[:2])
    host.apply(peer(2), peer(3))
    assert host.has(peer(2), peer(3))
    assert host.repaired() == 2


def test_an_entry_that_somebody_wrote_over_is_restored_and_counted(host: Host) -> None:
    host.apply(peer(2))
    host.kernel.intrude(Fdb(bytes((2, 0, 0, 0, 0, 2)), LINK, bytes((192, 0, 2, 66))))
    host.apply(peer(2))
    assert host.has(peer(2))
    assert host.repaired() == 1


def test_an_entry_that_somebody_added_is_removed_and_counted(host: Host) -> None:
    host.apply(peer(2))
    host.kernel.intrude(Neighbour(bytes((10, 5, 66, 0)), LINK, bytes((2, 0, 0, 0, 0, 66))))
    host.apply(peer(2))
    assert host.has(peer(2))
    assert host.repaired() == 1


def test_a_lease_that_changed_at_the_same_time_is_not_a_repair(host: Host) -> None:
    host.apply(peer(2))
    host.apply(peer(2, mac=9))
    assert host.has(peer(2, mac=9))
    assert host.repaired() == 0


def test_an_entry_that_somebody_made_as_a_new_lease_wants_it_is_not_a_repair(host: Host) -> None:
    host.apply(peer(2))
    host.kernel.intrude(*host.plan(peer(3)))
    host.apply(peer(2), peer(3))
    assert host.has(peer(2), peer(3))
    assert host.repaired() == 0


def test_a_flushed_nexthop_is_restored_with_its_route() -> None:
    host = Host()
    host.apply(peer(2), peer(3))
    host.kernel.damage(*host.kernel.of_kind(Nexthop))
    assert host.kernel.of_kind(Route) == []
    host.apply(peer(2), peer(3))
    assert host.has(peer(2), peer(3))
    assert host.repaired() == 4


def test_a_nexthop_that_changes_is_written_again_with_its_route() -> None:
    host = Host()
    host.apply(peer(2), peer(3))
    host.via = IPv4Address("192.0.2.99")
    host.apply(peer(2, mac=9), peer(3), changed=[2])
    assert set(host.plan(peer(2, mac=9))) <= set(host.kernel.entries.values())


def test_entries_rest_while_somebody_fights_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("flannel.kernel.repairs.monotonic", lambda: now)
    host = Host(has_nexthops=False)
    fought = list(host.plan(peer(2)))[2]
    served = [peer(2), peer(3)]
    host.apply(*served)
    for _ in range(6):
        host.kernel.damage(fought)
        host.apply(*served)
        assert host.has(*served)
        assert host.repaired() == 1
    host.kernel.damage(fought, *host.plan(peer(3)))
    host.apply(*served)
    assert key(fought) not in host.kernel.entries  # it rests
    assert all(key(entry) in host.kernel.entries for entry in host.plan(peer(3)))
    assert host.repaired() == 3
    now += 2
    host.apply(*served)
    assert host.has(*served)
    assert host.repaired() == 1


def test_a_lease_that_leaves_takes_its_resting_entries_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flannel.kernel.repairs.monotonic", lambda: 1000.0)
    host = Host(has_nexthops=False)
    host.apply(peer(2))
    for _ in range(6):
        host.kernel.damage(list(host.plan(peer(2)))[2])
        host.apply(peer(2))
        host.repairs.commit("flannel.1")
    host.apply(changed=[2])
    assert host.has()


def test_after_an_error_half_way_what_we_wrote_is_not_taken_for_damage(host: Host) -> None:
    host.apply(peer(2))
    host.kernel.breaks = 1
    with pytest.raises(KernelError):
        host.apply(peer(2), peer(3), changed=[3])
    host.apply(peer(2), peer(3))
    assert host.has(peer(2), peer(3))
    assert host.repaired() == 0


def test_an_event_after_an_error_does_not_make_the_tables_known(host: Host) -> None:
    host.apply(peer(2))
    host.kernel.breaks = 1
    with pytest.raises(KernelError):
        host.apply(peer(2), peer(3), changed=[3])
    host.apply(peer(2), peer(3), peer(4), changed=[4])
    host.kernel.damage(*host.plan(peer(2)))
    host.apply(peer(2), peer(3), peer(4))
    assert host.has(peer(2), peer(3), peer(4))
    assert host.repaired() == 0  # nobody knows who did it


def test_other_tasks_get_turns_while_many_entries_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 8)
    host = Host()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scenario() -> None:
        counting = asyncio.create_task(count())
        await host.tables.apply({subnet(n): peer(n) for n in range(2, 34)})
        counting.cancel()

    asyncio.run(scenario())
    assert host.has(*(peer(n) for n in range(2, 34)))
    assert turns >= 32 * 4 // 8


def test_the_debug_log_counts_written_and_removed_entries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, module.__name__)
    host = Host(has_nexthops=False)
    host.apply(peer(2), peer(3))
    host.apply(peer(2))
    host.apply(peer(2))
    texts = [record.message for record in caplog.records]
    assert texts == ["kernel: wrote 6, removed 0", "kernel: wrote 0, removed 3"]
