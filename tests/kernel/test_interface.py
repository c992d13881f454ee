"""Which interface is chosen, on values; the kernel's part is in netns-tests."""

import re
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from flannel.errors import NoInterface
from flannel.kernel.interface import ExternalInterface, InterfaceChoice, default_link, match_names
from flannel.kernel.links import Address, Link
from flannel.kernel.rtmessages import FoundRoute

LINKS = [
    Link(index=n, name=name, kind="", mtu=1500, up=True, mac="")
    for n, name in enumerate(("lo", "eth0", "eth1", "docker0"), 1)
]
ADDRESSES = [
    Address(2, IPv4Interface("192.0.2.7/24"), 0),
    Address(3, IPv4Interface("198.51.100.7/24"), 0),
    Address(3, IPv4Interface("198.51.100.8/24"), 0),
    Address(4, IPv4Interface("172.17.0.1/16"), 0),
]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (InterfaceChoice(names=["eth1"]), (3, None)),
        (InterfaceChoice(names=["198.51.100.8"]), (3, IPv4Address("198.51.100.8"))),
        (InterfaceChoice(names=["eth9", "eth0"]), (2, None)),
        (InterfaceChoice(names=["eth9"], patterns=[re.compile("^docker")]), (4, None)),
        (
            InterfaceChoice(patterns=[re.compile(r"^198\.51\.")]),
            (3, IPv4Address("198.51.100.7")),
        ),
        (InterfaceChoice(patterns=[re.compile("nothing"), re.compile("eth")]), (2, None)),
        (InterfaceChoice(names=["eth"]), None),
        (InterfaceChoice(), None),
    ],
)
def test_names_come_before_patterns_and_addresses_before_names(
    choice: InterfaceChoice, expected: tuple[int, IPv4Address | None] | None
) -> None:
    assert match_names(LINKS, ADDRESSES, choice) == expected


def route(dst: str, link: int, metric: int = 0) -> FoundRoute:
    return FoundRoute(IPv4Network(dst), None, link, metric)


def test_the_default_route_with_the_lowest_metric_decides() -> None:
    routes = [route("0.0.0.0/0", 2, 600), route("0.0.0.0/0", 3, 100), route("10.0.0.0/8", 4)]
    assert default_link(routes) == 3


def test_without_a_default_route_there_is_nothing_to_choose() -> None:
    with pytest.raises(NoInterface, match="no default route"):
        default_link([route("10.0.0.0/8", 4)])


def test_what_is_on_the_link_is_told_from_what_is_behind_a_router() -> None:
    interface = ExternalInterface(
        2, "eth0", 1500, IPv4Address("192.0.2.7"), IPv4Address("192.0.2.7"),
        (IPv4Interface("192.0.2.7/24"), IPv4Interface("203.0.113.1/28")),
    )  # fmt: skip
    assert interface.is_on_link(IPv4Address("192.0.2.200"))
    assert interface.is_on_link(IPv4Address("203.0.113.14"))
    assert not interface.is_on_link(IPv4Address("203.0.113.17"))
