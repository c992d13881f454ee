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
def test_a_notice_about_a_route_names_its_destination_and_link(
    name: str, change: RouteChange | None
) -> None:
    assert rtnotices.parse_route_change(payload(name)) == change


def test_a_route_of_another_family_is_ignored() -> None:
    body = rt.RTMSG.pack(10, 64, 0, 0, rt.RT_TABLE_MAIN, 3, 0, rt.RTN_UNICAST, 0)
    assert rtnotices.parse_route_change(body) is None


def test_a_notice_about_a_nexthop_names_its_id() -> None:
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
def test_a_notice_about_a_link_has_its_index_and_name(name: str, link: tuple[int, str]) -> None:
    assert rtnotices.parse_link_name(payload(name)) == link


def test_a_link_name_that_is_not_utf8_is_read_with_replacement_characters() -> None:
    name = b"\x08\x00\x03\x00\xff\xfe\x00\x00"
    body = rt.IFINFOMSG.pack(0, 1, 9, 0, 0) + name
    assert rtnotices.parse_link_name(body) == (9, "\ufffd\ufffd")


def test_a_link_name_of_the_greatest_length_is_read_whole() -> None:
    name = b"\x14\x00\x03\x00" + b"a" * 15 + b"\x00"
    body = rt.IFINFOMSG.pack(0, 1, 9, 0, 0) + name + b"\x08\x00\x04\x00\xdc\x05\x00\x00"
    assert rtnotices.parse_link_name(body) == (9, "a" * 15)


@pytest.mark.parametrize(
    ("name", "link"),
    [("address added to device", FLANNEL_1), ("address added to eth0", ETH0)],
)
def test_a_notice_about_an_address_has_its_link(name: str, link: int) -> None:
    assert rtnotices.parse_address_link(payload(name)) == link


def test_a_notice_about_a_neighbour_has_its_link_and_address() -> None:
    assert rtnotices.parse_neighbour_link(payload("fdb added")) == (rt.AF_BRIDGE, FLANNEL_1)
    assert rtnotices.parse_neighbour_link(payload("neighbour of eth0")) == (2, ETH0)
    assert rtnotices.parse_neighbour_ip(payload("neighbour removed", 1)) == bytes((10, 5, 2, 0))
    assert rtnotices.parse_neighbour_ip(rt.NDMSG.pack(2, 4, 0, 0, 0)) == b""
