"""A balancer or firewall that ends silent connections: told from other failures, logged once."""

import asyncio
from ipaddress import IPv4Network

import pytest
from etcd_leases import A, add, run, store_at
from etcd_server import EtcdServer, cutting_silent

from flannel.lease import LeaseAdded
from flannel.stores import Changes, Snapshot, etcd_endpoints
from flannel.stores.idle_cuts import IdleCuts

WHERE = "http://192.0.2.1:2379"


@pytest.mark.parametrize(
    ("cuts", "when"),
    [
        ([(5.0, 5.0), (5.1, 5.1), (4.9, 9.7)], "after 5 s of silence"),
        ([(60.0, 60.0), (66.0, 66.0), (63.0, 63.0)], "after 63 s of silence"),
        ([(2.0, 30.1), (7.5, 30.0), (4.0, 30.2)], "30 s after they are made"),
    ],
)
def test_cuts_after_the_same_time_are_logged_once(
    caplog: pytest.LogCaptureFixture, cuts: list[tuple[float, float]], when: str
) -> None:
    noticed = IdleCuts()
    for silence, age in cuts * 3:
        noticed.note_cut(WHERE, silence, age)
    [warning] = caplog.messages
    assert warning.startswith(f"connections to {WHERE} are cut {when}, again and")


def test_cuts_at_irregular_times_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    noticed = IdleCuts()
    for silence, age in ((1.0, 9.0), (7.0, 21.0), (4.0, 4.0), (9.5, 40.0), (3.0, 12.0)):
        noticed.note_cut(WHERE, silence, age)
    assert caplog.messages == []


def test_a_longer_silence_that_is_not_cut_ends_the_suspicion(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noticed = IdleCuts()
    for _ in range(2):
        noticed.note_cut(WHERE, 5.0, 5.0)
        noticed.note_cut(WHERE, 5.0, 15.0)
        noticed.note_whole(WHERE, 10.0)
    assert caplog.messages == []
    for _ in range(3):
        noticed.note_cut(WHERE, 5.0, 5.0)
        noticed.note_whole(WHERE, 4.0)  # too short to be cut
    assert len(caplog.messages) == 1


def test_leases_are_followed_through_a_balancer_that_cuts(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(etcd_endpoints, "LEAST_SILENCE", 0.1)

    async def follow(url: str) -> None:
        feed = store_at(url).follow_leases()
        assert isinstance(await anext(feed), Snapshot)
        news = asyncio.ensure_future(anext(feed))
        while "of silence, again and again" not in caplog.text:
            await asyncio.sleep(0.02)
            assert not news.done()
        add(etcd, A)
        found = await news
        assert isinstance(found, Changes)
        [event] = found.events
        assert isinstance(event, LeaseAdded)
        assert event.subnet == IPv4Network(A)

    with cutting_silent(etcd, 0.3) as url:
        run(follow(url))
    assert caplog.text.count("again and again") == 1
