"""The kernel's messages, recorded and sent through a socket pair, and the hints they lead to."""

import asyncio
import socket
from ipaddress import IPv4Network

import pytest
from recorded_notices import FLANNEL_1, NOTICES, datagram
from watching import OWN_PORT, Watching, until

from flannel.kernel import monitor as module
from flannel.kernel.entries import Entry, Fdb, Key, Neighbour, key
from flannel.kernel.monitor import ANYTHING, Hint, Watched
from flannel.kernel.subscription import Notice, Subscription

FDB = Fdb(bytes.fromhex("020000000002"), FLANNEL_1, bytes((192, 0, 2, 2)))
ARP = Neighbour(bytes((10, 5, 2, 0)), FLANNEL_1, bytes.fromhex("020000000002"))


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(monkeypatch)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("route added by us", Hint.OVERLAY),
        ("route removed", Hint.OVERLAY),
        ("route into the network by others", Hint.OVERLAY),
        ("route over the device", Hint.OVERLAY),
        ("default route", Hint.UNDERLAY),
        ("nexthop of ours", Hint.OVERLAY),
        ("nexthop removed", Hint.OVERLAY),
        ("neighbour added", Hint.OVERLAY),
        ("address added to device", Hint.OVERLAY),
        ("address added to eth0", ANYTHING),
        ("device down", Hint.OVERLAY),
        ("eth0 mtu", ANYTHING),
        ("device deleted", Hint.OVERLAY),
        ("device made", ANYTHING),  # a new link with the name of ours
    ],
)
def test_a_change_of_a_watched_object_leads_to_a_hint(
    watching: Watching, name: str, hint: Hint
) -> None:
    assert watching.of(name) == hint


NOISE = (
    "route elsewhere",
    "blackhole",
    "route of another table",
    "nexthop of others",
    "neighbour of eth0",
    "address added to other",
    "other down",
    "other renamed",
)


@pytest.mark.parametrize("name", NOISE)
@pytest.mark.parametrize(
    ("then", "hint"),
    [("device down", Hint.OVERLAY), ("default route", Hint.UNDERLAY)],
    ids=["overlay", "underlay"],
)
def test_a_change_of_something_else_adds_nothing_to_a_hint(
    watching: Watching, name: str, then: str, hint: Hint
) -> None:
    assert watching.of(name, then) == hint


def test_messages_that_arrive_together_are_one_hint(watching: Watching) -> None:
    assert watching.of("default route", "route removed", "device down") == ANYTHING


def test_messages_about_our_own_writes_are_dropped_by_the_filter(watching: Watching) -> None:
    async def scenario() -> None:
        watching.wire.send("route added by us", "neighbour added", port=OWN_PORT)
        watching.wire.send("default route")
        await watching.hint()

    assert watching.run(scenario) == [Hint.UNDERLAY]


def test_the_port_of_the_last_change_by_others_is_known(watching: Watching) -> None:
    async def scenario() -> None:
        watching.wire.send("route removed", port=1234)
        watching.wire.send("route elsewhere", port=99)
        await watching.hint()
        assert watching.monitor.last_port == 1234

    watching.run(scenario)


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("fdb added", {key(FDB): FDB}),
        ("fdb removed", {}),
        ("neighbour removed", {}),
    ],
)
def test_messages_without_a_port_that_match_known_entries_lead_to_no_hint(
    watching: Watching, name: str, held: dict[Key, Entry]
) -> None:
    async def scenario() -> None:
        for notice in NOTICES[name]:
            if notice.port == 0:
                watching.wire.far[-1].send(datagram(notice))
        watching.wire.send("default route")
        await watching.hint()

    watching.held |= held
    assert watching.run(scenario) == [Hint.UNDERLAY]


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("fdb added", {}),
        ("fdb added", {key(FDB): FDB._replace(dst=bytes(4))}),
        ("fdb removed", {key(FDB): FDB}),
        ("neighbour removed", {key(ARP): ARP}),
    ],
)
def test_messages_without_a_port_that_contradict_known_entries_lead_to_a_hint(
    watching: Watching, name: str, held: dict[Key, Entry]
) -> None:
    async def scenario() -> None:
        for notice in NOTICES[name]:
            if notice.port == 0:
                watching.wire.far[-1].send(datagram(notice))
        await watching.hint()

    watching.held |= held
    assert watching.run(scenario) == [Hint.OVERLAY]


def test_the_last_of_several_messages_about_one_entry_counts(watching: Watching) -> None:
    async def scenario() -> None:
        watching.wire.send("fdb removed", "fdb added", "default route")
        await watching.hint()

    watching.held[key(FDB)] = FDB
    assert watching.run(scenario) == [Hint.UNDERLAY]


def test_entries_are_compared_when_the_hint_is_due(watching: Watching) -> None:
    async def scenario() -> None:
        watching.wire.send("fdb added")
        await asyncio.sleep(0)
        watching.held[key(FDB)] = FDB  # we wrote it, and note it after the message has come
        watching.wire.send("default route")
        await watching.hint()

    assert watching.run(scenario) == [Hint.UNDERLAY]


def test_a_network_without_a_device_watches_the_external_interface(watching: Watching) -> None:
    watching.device = ""
    assert watching.of("device down", "neighbour added", "route over the device", "default route") \
        == Hint.UNDERLAY  # fmt: skip


def test_a_device_that_is_made_again_is_followed_by_its_new_index(watching: Watching) -> None:
    async def scenario() -> None:
        watching.indices["flannel.1"] = 6
        watching.wire.send("device made")
        assert await watching.hint() == ANYTHING
        # Of the old index:
        watching.wire.send("neighbour added", "address added to device", "default route")
        assert await watching.hint() == Hint.UNDERLAY
        moved = NOTICES["neighbour added"][0]
        payload = moved.payload[:4] + (6).to_bytes(4, "little") + moved.payload[8:]
        watching.wire.far[-1].send(datagram(Notice(moved.kind, 5, payload)))
        assert await watching.hint() == Hint.OVERLAY

    watching.run(scenario)


def test_before_something_is_watched_there_are_no_hints(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monitor = watching.monitor
        monitor._watched = None
        looked = asyncio.Event()
        tell = monitor._tell

        def tell_and_note() -> None:
            tell()
            looked.set()

        monkeypatch.setattr(monitor, "_tell", tell_and_note)
        watching.wire.send("eth0 mtu", "default route")
        await looked.wait()
        assert watching.hints == []
        monitor.watch(Watched(IPv4Network("10.5.0.0/16"), "", "eth0", lambda _: None), print)
        assert monitor._hint == Hint.NOTHING

    watching.run(scenario)


def test_entries_that_were_judged_are_not_judged_again(watching: Watching) -> None:
    async def scenario() -> None:
        watching.wire.send("fdb removed")
        assert await watching.hint() == Hint.OVERLAY
        watching.wire.send("default route")
        assert await watching.hint() == Hint.UNDERLAY

    watching.held[key(FDB)] = FDB  # not restored yet
    watching.run(scenario)


def test_messages_about_objects_watched_before_lead_to_no_hint(
    watching: Watching,
) -> None:
    async def scenario() -> None:
        monitor = watching.monitor
        watching.wire.send("fdb removed")
        await until(lambda: bool(monitor._unsigned))
        watched = monitor._watched
        assert watched is not None
        monitor.watch(watched, watching.note)
        watching.wire.send("default route")
        assert await watching.hint() == Hint.UNDERLAY

    watching.held[key(FDB)] = FDB
    watching.run(scenario)


def test_nothing_is_reported_after_the_end(watching: Watching) -> None:
    async def scenario() -> None:
        monitor = watching.monitor
        watching.wire.send("default route")
        await until(lambda: monitor._timer is not None)
        monitor.__exit__()
        assert monitor._timer is not None
        assert monitor._timer.cancelled()
        assert not watching.hints

    watching.run(scenario)


def test_more_messages_than_one_turn_reads_are_read_in_the_next(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BATCH", 2)

    async def scenario() -> None:
        watching.wire.send(*["other down"] * 5, "device down")
        assert await watching.hint() == Hint.OVERLAY

    watching.run(scenario)


def test_names_are_looked_up_in_the_kernel() -> None:
    assert module._index("lo") == 1
    assert module._index("none-of-this-name") == 0
    assert module._index("") == 0


def test_a_real_subscription_can_be_opened_and_read_without_root() -> None:
    with Subscription(1) as subscription:
        subscription.focus(1)
        assert subscription.fileno() > 0
        assert all(isinstance(each, Notice) for each in subscription.read(10))
    assert subscription.fileno() == -1


def test_a_datagram_without_a_header_is_passed_over() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    near.setblocking(False)
    with far, Subscription(1, lambda: near) as subscription:
        far.send(b"short")
        notice = NOTICES["device down"][0]
        far.send(datagram(notice))
        assert subscription.read(10) == [notice]
