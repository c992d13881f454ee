"""Entries to bytes and back: against what a kernel sent, and against pyroute2's decoder."""

import socket
import sys
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from flannel.kernel import rtlayout as rt
from flannel.kernel import rtmessages
from flannel.kernel.entries import PROTOCOL, Entry, Fdb, Neighbour, Nexthop, Route
from flannel.kernel.rtmessages import FoundRoute

# What a kernel (Linux 6.18, x86_64) sent in dumps. eth0 is link 3, flannel.1 link 4.
VIA_NEXTHOP = (
    "02180000fe6600010400000008000f00fe000000080001000a050200"
    "08001e000002050a080005000a0502000800040004000000"
)
CLASSIC = (
    "02180000fe6600010400000008000f00fe000000080001000a050300"
    "0800060007000000080005000a0503000800040004000000"
)
MULTIPATH = (
    "02000000fe0300010000000008000f00fe0000002400090010000000"
    "0300000008000500c00002fe100000000300000008000500c00002fd"
)
BLACKHOLE = "02180000fe6600060000000008000f00fe000000080001000a05010008000600ffffffff"
UNREACHABLE = "02100000fe0300070000000008000f00fe000000080001000a090000"
CONNECTED = (
    "02180000fe02fd010000000008000f00fe00000008000100c000020008000700c00002010800040003000000"
)
NEXTHOP = "02fd660004000000080001000002050a0800050004000000080006000a050200"
NEXTHOP_BLACKHOLE = "0200000000000000080001000800000004000400"
PERMANENT = (
    "020000000400000080000001080001000a0502000a000200020000000002000008000400000000001400030001"
    "000000010000000100000000000000"
)
STALE = (
    "020000000400000004000001080001000a0503000a0002000200000000030000080004000000000014000300711700"
    "00010000000100000000000000"
)
FDB = (
    "0700000004000000c00002010a000200020000000002000008000100c0000202140003"
    "0000000000000000000000000000000000"
)
FDB_LEARNT = (
    "0700000004000000020002010a000200020000000003000008000100c0000203140003"
    "0000000000000000000000000000000000"
)

HOP = Nexthop(0x0A050200, bytes((10, 5, 2, 0)), 4, onlink=True)
HOPS = {HOP.id: HOP}


def ip(text: str) -> bytes:
    return IPv4Address(text).packed


class TestFromTheKernel:
    """Payloads of a real dump."""

    def test_a_route_with_a_nexthop_takes_its_gateway_from_that(self) -> None:
        route = Route(ip("10.5.2.0"), 24, ip("10.5.2.0"), 4, True, HOP.id, 0, PROTOCOL)
        assert rtmessages.parse_route(bytes.fromhex(VIA_NEXTHOP), HOPS) == route

    def test_a_route_whose_nexthop_is_unknown_is_left_out(self) -> None:
        assert rtmessages.parse_route(bytes.fromhex(VIA_NEXTHOP), {}) is None

    def test_a_classic_route_has_its_own_gateway_and_metric(self) -> None:
        route = Route(ip("10.5.3.0"), 24, ip("10.5.3.0"), 4, True, 0, 7, PROTOCOL)
        assert rtmessages.parse_route(bytes.fromhex(CLASSIC), HOPS) == route

    @pytest.mark.parametrize("payload", [BLACKHOLE, UNREACHABLE, CONNECTED, MULTIPATH])
    def test_routes_of_other_kinds_are_not_ours(self, payload: str) -> None:
        assert rtmessages.parse_route(bytes.fromhex(payload), HOPS) is None

    @pytest.mark.parametrize(
        ("payload", "route"),
        [
            (
                MULTIPATH,
                FoundRoute(
                    IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.254"), 3, 0, more_links=(3,)
                ),
            ),
            (
                CONNECTED,
                FoundRoute(
                    IPv4Network("192.0.2.0/24"), None, 3, 0, source=IPv4Address("192.0.2.1")
                ),
            ),
            (CLASSIC, None),  # it carries our protocol number
            (BLACKHOLE, None),
            (UNREACHABLE, None),
        ],
    )
    def test_foreign_routes_are_unicast_routes_of_other_protocols(
        self, payload: str, route: FoundRoute | None
    ) -> None:
        assert rtmessages.parse_foreign_route(bytes.fromhex(payload)) == route

    @pytest.mark.parametrize(
        ("payload", "network"),
        [
            (BLACKHOLE, IPv4Network("10.5.1.0/24")),
            (UNREACHABLE, None),
            (CLASSIC, None),
            (BLACKHOLE[:10] + "03" + BLACKHOLE[12:], None),  # of another protocol
            (BLACKHOLE[:-8] + "05000000", None),  # of another metric
        ],
    )
    def test_only_blackholes_of_ours_are_blackholes(
        self, payload: str, network: IPv4Network | None
    ) -> None:
        assert rtmessages.parse_blackhole(bytes.fromhex(payload)) == network

    def test_a_nexthop_object_with_a_gateway_is_read_with_its_protocol(self) -> None:
        assert rtmessages.parse_nexthop(bytes.fromhex(NEXTHOP)) == (HOP, PROTOCOL)
        assert rtmessages.parse_nexthop(bytes.fromhex(NEXTHOP_BLACKHOLE)) is None

    def test_permanent_arp_entries_of_the_link_are_read(self) -> None:
        entry = Neighbour(ip("10.5.2.0"), 4, bytes.fromhex("020000000002"))
        assert rtmessages.parse_neighbour(bytes.fromhex(PERMANENT), 4) == entry
        assert rtmessages.parse_neighbour(bytes.fromhex(PERMANENT), 3) is None
        assert rtmessages.parse_neighbour(bytes.fromhex(STALE), 4) is None

    def test_permanent_fdb_entries_of_the_link_are_read(self) -> None:
        entry = Fdb(bytes.fromhex("020000000002"), 4, ip("192.0.2.2"))
        assert rtmessages.parse_fdb(bytes.fromhex(FDB), 4) == entry
        assert rtmessages.parse_fdb(bytes.fromhex(FDB), 3) is None
        assert rtmessages.parse_fdb(bytes.fromhex(FDB_LEARNT), 4) is None

    def test_an_fdb_entry_to_an_ipv6_host_is_not_ours(self) -> None:
        body = rt.NDMSG.pack(rt.AF_BRIDGE, 4, rt.NUD_PERMANENT, rt.NTF_SELF, 0)
        mac = rt.mac_attribute(rt.NDA_LLADDR, bytes(6))
        long = (20).to_bytes(2, "little") + rt.NDA_DST.to_bytes(2, "little") + bytes(16)
        assert rtmessages.parse_fdb(body + mac + long, 4) is None
        assert rtmessages.parse_fdb(body + mac, 4) is None

    def test_a_nexthop_with_an_ipv6_gateway_is_not_ours(self) -> None:
        body = rt.NHMSG.pack(socket.AF_INET6, 0, PROTOCOL, 0, 0)
        long = (20).to_bytes(2, "little") + rt.NHA_GATEWAY.to_bytes(2, "little") + bytes(16)
        assert rtmessages.parse_nexthop(body + long) is None


def decoded(kind: Any, data: bytes) -> Any:
    message = kind(data)
    message.decode()
    return message


class TestBesidePyroute2:
    """Its decoder reads the same from our messages as we meant."""

    def test_pyroute2_reads_a_route_with_a_gateway_as_we_wrote_it(self) -> None:
        route = Route(ip("10.5.3.0"), 24, ip("192.0.2.3"), 7, True, 0, 5, PROTOCOL)
        read = decoded(rtmsg, rtmessages.put_message(route, 3, rt.NLM_F_ACK))
        header = read["header"]
        assert (header["type"], header["sequence_number"]) == (rt.RTM_NEWROUTE, 3)
        flags = rt.NLM_F_REQUEST | rt.NLM_F_CREATE | rt.NLM_F_REPLACE | rt.NLM_F_ACK
        assert header["flags"] == flags
        assert (read["family"], read["dst_len"], read["table"]) == (socket.AF_INET, 24, 254)
        assert (read["proto"], read["scope"], read["type"]) == (PROTOCOL, 0, 1)
        assert read["flags"] == rt.RTNH_F_ONLINK
        assert read.get("dst") == "10.5.3.0"
        assert read.get("gateway") == "192.0.2.3"
        assert (read.get("oif"), read.get("priority")) == (7, 5)

    def test_a_route_with_a_nexthop_carries_neither_gateway_nor_onlink(self) -> None:
        route = Route(ip("10.5.3.0"), 24, ip("10.5.3.0"), 7, True, 99)
        message = rtmessages.put_message(route, 1, 0)
        read = decoded(rtmsg, message)  # which has no name for the attribute
        found = rt.attributes(message, rt.HEADER.size + rt.RTMSG.size)
        assert found[rt.RTA_NH_ID] == (99).to_bytes(4, sys.byteorder)
        assert (read.get("gateway"), read.get("oif"), read["flags"]) == (None, None, 0)

    def test_a_route_is_deleted_by_destination_metric_and_protocol_alone(self) -> None:
        route = Route(ip("10.5.3.0"), 24, ip("192.0.2.3"), 7, True, 99, 5, PROTOCOL)
        read = decoded(rtmsg, rtmessages.delete_message(route, 1, 0))
        assert read["header"]["type"] == rt.RTM_DELROUTE
        assert (read.get("dst"), read["dst_len"], read.get("priority")) == ("10.5.3.0", 24, 5)
        assert (read["proto"], read["scope"], read["type"]) == (PROTOCOL, 255, 0)
        assert (read.get("gateway"), read.get("RTA_NH_ID")) == (None, None)

    @pytest.mark.parametrize("is_put", [True, False])
    def test_pyroute2_reads_an_arp_entry_as_we_wrote_it(self, is_put: bool) -> None:
        entry = Neighbour(ip("10.5.3.0"), 7, bytes.fromhex("020000000003"))
        make = rtmessages.put_message if is_put else rtmessages.delete_message
        read = decoded(ndmsg, make(entry, 1, 0))
        kind = rt.RTM_NEWNEIGH if is_put else rt.RTM_DELNEIGH
        assert (read["header"]["type"], read["family"]) == (kind, socket.AF_INET)
        assert (read["ifindex"], read["state"], read["flags"]) == (7, rt.NUD_PERMANENT, 0)
        assert (read.get("dst"), read.get("lladdr")) == ("10.5.3.0", "02:00:00:00:00:03")

    @pytest.mark.parametrize("is_put", [True, False])
    def test_pyroute2_reads_an_fdb_entry_as_we_wrote_it(self, is_put: bool) -> None:
        entry = Fdb(bytes.fromhex("020000000003"), 7, ip("192.0.2.3"))
        make = rtmessages.put_message if is_put else rtmessages.delete_message
        read = decoded(ndmsg, make(entry, 1, 0))
        kind = rt.RTM_NEWNEIGH if is_put else rt.RTM_DELNEIGH
        assert (read["header"]["type"], read["family"]) == (kind, rt.AF_BRIDGE)
        state = rt.NUD_PERMANENT | rt.NUD_NOARP
        assert (read["ifindex"], read["state"], read["flags"]) == (7, state, rt.NTF_SELF)
        # pyroute2 reads a bridge's destination as text of another family at times: the raw bytes
        assert ip("192.0.2.3") in make(entry, 1, 0)
        assert read.get("lladdr") == "02:00:00:00:00:03"

    def test_pyroute2_reads_our_requests_for_dumps_as_we_wrote_them(self) -> None:
        read = decoded(rtmsg, rt.message(rt.RTM_GETROUTE, 1, 0, rtmessages.ROUTES_REQUEST))
        assert (read["family"], read["table"], read["proto"]) == (socket.AF_INET, 254, 0)
        read = decoded(rtmsg, rt.message(rt.RTM_GETROUTE, 1, 0, rtmessages.BLACKHOLES_REQUEST))
        assert (read["table"], read["proto"], read["type"]) == (254, PROTOCOL, rt.RTN_BLACKHOLE)
        read = decoded(ndmsg, rt.message(rt.RTM_GETNEIGH, 1, 0, rtmessages.neighbours_request(7)))
        assert (read["family"], read["ifindex"], read.get("ifindex")) == (socket.AF_INET, 0, 7)
        read = decoded(ndmsg, rt.message(rt.RTM_GETNEIGH, 1, 0, rtmessages.fdb_request(7)))
        assert (read["family"], read["ifindex"]) == (rt.AF_BRIDGE, 7)


class TestNexthops:
    """pyroute2 does not know them: beside what a kernel sends of one."""

    def test_a_nexthop_is_written_as_the_kernel_reports_it_and_never_over_another(self) -> None:
        message = rtmessages.put_message(HOP, 1, 0)
        _, kind, flags, _, _ = rt.HEADER.unpack_from(message)
        assert kind == rt.RTM_NEWNEXTHOP
        assert flags == rt.NLM_F_REQUEST | rt.NLM_F_CREATE | rt.NLM_F_EXCL
        reported = bytes.fromhex(NEXTHOP)
        body, scope = rt.HEADER.size, 1
        # The kernel chooses the scope.
        assert message[body:][:scope] + message[body + scope + 1 :] == (
            reported[:scope] + reported[scope + 1 :]
        )

    def test_a_nexthop_is_deleted_by_its_id_alone(self) -> None:
        message = rtmessages.delete_message(HOP, 1, 0)
        assert rt.HEADER.unpack_from(message)[1] == rt.RTM_DELNEXTHOP
        attributes = rt.attributes(message, rt.HEADER.size + rt.NHMSG.size)
        assert attributes == {rt.NHA_ID: HOP.id.to_bytes(4, sys.byteorder)}

    def test_a_dump_of_nexthops_is_requested_by_family(self) -> None:
        assert bytes((socket.AF_INET, 0, 0, 0, 0, 0, 0, 0)) == rtmessages.NEXTHOPS_REQUEST


PACKED = st.binary(min_size=4, max_size=4)
MAC = st.binary(min_size=6, max_size=6)
NUMBER = st.integers(1, 2**32 - 1)
LINK = st.integers(1, 2**31 - 1)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(Fdb, MAC, LINK, PACKED),
    st.builds(Neighbour, PACKED, LINK, MAC),
    st.builds(Nexthop, NUMBER, PACKED, LINK, st.booleans()),
    st.builds(
        Route, PACKED, st.integers(1, 32), PACKED, LINK, st.booleans(),
        st.one_of(st.just(0), NUMBER), st.integers(0, 2**32 - 1), st.integers(0, 255),
    ),
)  # fmt: skip


@given(ENTRIES)
def test_a_dump_returns_the_entries_that_were_written(entry: Entry) -> None:
    message = rtmessages.put_message(entry, 1, 0)
    assert len(message) == rt.HEADER.unpack_from(message)[0]
    assert len(message) % 4 == 0
    payload = message[rt.HEADER.size :]
    match entry:
        case Route():
            hops = {entry.nexthop: Nexthop(entry.nexthop, entry.via, entry.link, entry.onlink)}
            assert rtmessages.parse_route(payload, hops) == entry
        case Nexthop():
            assert rtmessages.parse_nexthop(payload) == (entry, PROTOCOL)
        case Neighbour():
            assert rtmessages.parse_neighbour(payload, entry.link) == entry
        case Fdb():
            assert rtmessages.parse_fdb(payload, entry.link) == entry


@given(ENTRIES)
def test_a_deletion_names_the_entry_by_its_key(entry: Entry) -> None:
    message = rtmessages.delete_message(entry, 1, 0)
    assert len(message) == rt.HEADER.unpack_from(message)[0]
    named = {Route: "dst", Nexthop: "id", Neighbour: "ip", Fdb: "mac"}[type(entry)]
    value = getattr(entry, named)
    assert (value if isinstance(value, bytes) else value.to_bytes(4, sys.byteorder)) in message


@given(st.binary(max_size=60))
def test_the_hops_of_any_bytes_end(hops: bytes) -> None:
    body = rt.RTMSG.pack(socket.AF_INET, 0, 0, 0, rt.RT_TABLE_MAIN, 3, 0, rt.RTN_UNICAST, 0)
    length = (4 + len(hops)).to_bytes(2, sys.byteorder)
    multipath = length + rt.RTA_MULTIPATH.to_bytes(2, sys.byteorder) + hops
    route = rtmessages.parse_foreign_route(body + multipath)
    assert route is not None
    assert len(route.links) <= len(hops) // rt.RTNEXTHOP.size


@given(st.binary(max_size=200))
def test_attributes_of_any_bytes_end(payload: bytes) -> None:
    assert all(kind <= 0x3FFF for kind in rt.attributes(payload, 0))


def test_an_attribute_that_is_absent_is_the_number_0() -> None:
    assert rt.number(None) == 0
    assert rt.number(b"") == 0
    assert rt.number(b"\2\1") in (0x0102, 0x0201)


@pytest.mark.parametrize(("length", "padded"), [(0, 0), (1, 4), (4, 4), (5, 8), (10, 12)])
def test_messages_and_attributes_are_padded_to_words(length: int, padded: int) -> None:
    assert rt.aligned(length) == padded


def test_flags_in_the_type_of_an_attribute_are_left_out() -> None:
    nested = (8).to_bytes(2, "little") + (0x8000 | 5).to_bytes(2, "little") + b"abcd"
    assert rt.attributes(nested, 0) == {5: b"abcd"}
