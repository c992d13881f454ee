"""The objects that recorded messages about changes name."""

from ipaddress import IPv4Address

import pytest
from recorded_notices import ETH0, FLANNEL_1, NOTICES, OTHER

from flannel.kernel import rtlayout as rt
from flannel.kernel import rtnotices
from flannel.kernel.rtnotices import RouteChange


def payload(name: str, number: int = 0) -> bytes:
    return NOTICES[name][number].payload


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("route added by us", RouteChange(int(IPv4Address("10.5.2.0")), FLANNEL_1, True)),
        ("route elsewhere", RouteChange(int(IPv4Address("198.51.100.0")), ETH0, False)),
        ("default route", RouteChange(None, ETH0, False)),
        ("blackhole", None),
        ("route of another table", None),
    ],
)
def test_a_route(name: str, change: RouteChange | None) -> None:
    assert rtnotices.parse_route_change(payload(name)) == change


def test_a_route_of_another_family_is_none() -> None:
    body = rt.RTMSG.pack(10, 64, 0, 0, rt.RT_TABLE_MAIN, 3, 0, rt.RTN_UNICAST, 0)
    assert rtnotices.parse_route_change(body) is None


def test_a_nexthop() -> None:
    assert rtnotices.parse_nexthop_id(payload("nexthop of ours")) == int(IPv4Address("10.5.2.0"))
    assert rtnotices.parse_nexthop_id(payload("nexthop of others")) == 5


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("eth0 mtu", (ETH0, "eth0")),
        ("device down", (FLANNEL_1, "flannel.1")),
        ("other renamed", (OTHER, "another")),
    ],
)
def test_a_link(name: str, link: tuple[int, str]) -> None:
    assert rtnotices.parse_link_name(payload(name)) == link


def test_a_link_whose_name_is_not_utf8() -> None:
    name = b"\x08\x00\x03\x00\xff\xfe\x00\x00"
    body = rt.IFINFOMSG.pack(0, 1, 9, 0, 0) + name
    assert rtnotices.parse_link_name(body) == (9, "\ufffd\ufffd")


def test_a_link_whose_name_has_all_the_characters_it_may_have() -> None:
    name = b"\x14\x00\x03\x00" + b"a" * 15 + b"\x00"
    body = rt.IFINFOMSG.pack(0, 1, 9, 0, 0) + name + b"\x08\x00\x04\x00\xdc\x05\x00\x00"
    assert rtnotices.parse_link_name(body) == (9, "a" * 15)


@pytest.mark.parametrize(
    ("name", "link"),
    [("address added to device", FLANNEL_1), ("address added to eth0", ETH0)],
)
def test_an_address(name: str, link: int) -> None:
    assert rtnotices.parse_address_link(payload(name)) == link


def test_a_neighbour() -> None:
    assert rtnotices.parse_neighbour_link(payload("fdb added")) == (rt.AF_BRIDGE, FLANNEL_1)
    assert rtnotices.parse_neighbour_link(payload("neighbour of eth0")) == (2, ETH0)
    assert rtnotices.parse_neighbour_ip(payload("neighbour removed", 1)) == bytes((10, 5, 2, 0))
    assert rtnotices.parse_neighbour_ip(rt.NDMSG.pack(2, 4, 0, 0, 0)) == b""
