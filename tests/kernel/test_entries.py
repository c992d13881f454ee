"""Entries as values, and the difference between wanted and found ones."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from flannel.kernel.entries import (
    PROTOCOL,
    Entry,
    Fdb,
    Key,
    Neighbour,
    Nexthop,
    Route,
    diff,
    key,
    routed,
)

SUBNET, VIA = IPv4Network("10.5.2.0/24"), IPv4Address("10.5.2.0")
MAC = bytes.fromhex("020000000001")


def table(entries: Iterable[Entry]) -> dict[Key, Entry]:
    return {key(entry): entry for entry in entries}


def peer(host: int, mac: bytes = MAC, link: int = 7) -> tuple[Entry, ...]:
    return (
        Fdb(mac, link, bytes((192, 0, 2, host))),
        Neighbour(VIA.packed, link, mac),
        *routed(SUBNET, VIA, link, onlink=True, nexthops=True),
    )


def test_a_route_of_ours_names_a_nexthop_and_has_the_same_gateway_itself() -> None:
    hop, route = routed(SUBNET, VIA, 7, onlink=True, nexthops=True)
    assert hop == Nexthop(int(VIA), VIA.packed, 7, onlink=True)
    assert route == Route(VIA.packed, 24, VIA.packed, 7, True, int(VIA), 0, PROTOCOL)
    assert str(route) == "route 10.5.2.0/24 via 10.5.2.0 link 7 onlink"


def test_without_nexthop_objects_the_route_is_classic() -> None:
    assert routed(SUBNET, VIA, 7, nexthops=False) == (Route(VIA.packed, 24, VIA.packed, 7),)


def test_entries_that_are_right_are_not_written() -> None:
    same = table(peer(1))
    assert not any(diff(same, same, same))


def test_the_route_of_a_new_peer_is_added_last() -> None:
    wanted = table(reversed(peer(1)))
    clear, put, drop = diff({}, wanted, wanted)
    assert [type(entry) for entry in put] == [Fdb, Neighbour, Nexthop, Route]
    assert (clear, drop) == ([], [])


def test_the_route_of_a_lost_peer_is_removed_first() -> None:
    found = table(peer(1))
    clear, put, drop = diff(found, {}, found)
    assert [type(entry) for entry in drop] == [Route, Nexthop, Neighbour, Fdb]
    assert (clear, put) == ([], [])


def test_a_new_mac_leaves_no_old_forwarding_entry() -> None:
    new_mac = bytes.fromhex("020000000002")
    found, wanted = table(peer(1)), table(peer(1, new_mac))
    _, put, drop = diff(found, wanted, found.keys() | wanted.keys())
    assert put == [Fdb(new_mac, 7, bytes((192, 0, 2, 1))), Neighbour(VIA.packed, 7, new_mac)]
    assert drop == [Fdb(MAC, 7, bytes((192, 0, 2, 1)))]


def test_a_nexthop_that_changes_is_removed_first_and_its_route_written_again() -> None:
    found = table(routed(SUBNET, IPv4Address("192.0.2.1"), 3, nexthops=True))
    wanted = table(routed(SUBNET, IPv4Address("192.0.2.2"), 3, nexthops=True))
    clear, put, drop = diff(found, wanted, found)
    assert clear == [Nexthop(int(VIA), bytes((192, 0, 2, 1)), 3)]
    assert [type(entry) for entry in put] == [Nexthop, Route]
    assert drop == []


def test_a_route_of_another_program_to_the_same_place_is_taken_over() -> None:
    plain = Route(VIA.packed, 24, VIA.packed, 7, True, protocol=3)
    wanted = table(routed(SUBNET, VIA, 7, onlink=True, nexthops=True))
    _, put, drop = diff(table([plain]), wanted, wanted)
    assert put == list(wanted.values())
    assert drop == []


ENTRIES = st.one_of(
    st.builds(Fdb, st.sampled_from([b"\2%c" % n for n in range(4)]), st.just(7), st.binary()),
    st.builds(Neighbour, st.sampled_from([b"%c" % n for n in range(4)]), st.just(7), st.binary()),
    st.builds(Nexthop, st.integers(1, 4), st.binary(), st.just(7)),
    st.builds(Route, st.sampled_from([b"%c" % n for n in range(4)]), st.just(24), st.binary(),
              st.just(7)),
)  # fmt: skip


@given(st.lists(ENTRIES), st.lists(ENTRIES))
def test_applying_a_difference_gives_the_wanted_entries(
    before: list[Entry], after: list[Entry]
) -> None:
    found, wanted = table(before), table(after)
    clear, put, drop = diff(found, wanted, found.keys() | wanted.keys())
    for entry in clear:
        del found[key(entry)]
    for entry in put:
        found[key(entry)] = entry
    for entry in drop:
        del found[key(entry)]
    assert found == wanted
