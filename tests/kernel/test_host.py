"""Does the overlay's range fit beside what the host has? On values."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from flannel.kernel.host import overlap
from flannel.kernel.links import Address, Link, VxlanSettings
from flannel.kernel.rtmessages import FoundRoute

NETWORK = IPv4Network("10.1.0.0/16")
VXLAN = VxlanSettings(1, 2, IPv4Address("192.0.2.7"), 8472, False, False)
LINKS = {
    2: Link(2, "eth0", "", 1500, True, ""),
    3: Link(3, "docker0", "bridge", 1500, True, ""),
    4: Link(4, "flannel.1", "vxlan", 1450, True, "", VXLAN),
    5: Link(5, "overlay", "vxlan", 1450, True, "", VXLAN),
}


def route(dst: str, link: int = 2, via: str | None = None) -> FoundRoute:
    return FoundRoute(IPv4Network(dst), IPv4Address(via) if via else None, link, 0)


def find(
    *things: Address | FoundRoute, own: tuple[str, ...] = (), gateways: tuple[str, ...] = ()
) -> str:
    return overlap(
        NETWORK,
        LINKS,
        [thing for thing in things if isinstance(thing, Address)],
        [thing for thing in things if isinstance(thing, FoundRoute)],
        [IPv4Network(each) for each in own],
        [IPv4Address(each) for each in gateways],
    )


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Address(2, IPv4Interface("10.1.4.7/24"), 0), "address 10.1.4.7/24 of eth0"),
        (Address(2, IPv4Interface("10.200.0.7/8"), 0), "address 10.200.0.7/8 of eth0"),
        (Address(3, IPv4Interface("10.1.4.1/24"), 0), "address 10.1.4.1/24 of docker0"),
        (route("10.1.4.0/24", 2), "route 10.1.4.0/24 dev eth0"),
        (route("10.0.0.0/8", 2, "192.0.2.1"), "route 10.0.0.0/8 via 192.0.2.1 dev eth0"),
        (route("10.1.4.0/24", 2, "192.0.2.1"), "route 10.1.4.0/24 via 192.0.2.1 dev eth0"),
        (route("10.1.4.0/24", 5), "route 10.1.4.0/24 dev overlay"),
        (route("10.1.0.0/16", 99), "route 10.1.0.0/16 dev link 99"),
    ],
)
def test_what_is_in_the_way_is_named(thing: Address | FoundRoute, named: str) -> None:
    assert find(thing) == named


def test_other_networks_and_the_default_route_are_not_in_the_way() -> None:
    eth0 = Address(2, IPv4Interface("192.0.2.7/24"), 0)
    assert find(eth0, route("192.0.2.0/24"), route("0.0.0.0/0"), route("10.2.0.0/16")) == ""


def test_our_own_device_routes_and_container_bridge_are_not_in_the_way() -> None:
    assert (
        find(
            Address(4, IPv4Interface("10.1.4.0/32"), 0),
            route("10.1.9.0/24", 4, "10.1.9.0"),
            Address(3, IPv4Interface("10.1.4.1/24"), 0),
            route("10.1.4.0/24", 3),
            own=("10.1.4.0/24",),
        )
        == ""
    )


def test_routes_that_another_flannel_daemon_left_to_peers_are_not_in_the_way() -> None:
    left = route("10.1.8.0/24", 2, "192.0.2.8")
    assert find(left) == "route 10.1.8.0/24 via 192.0.2.8 dev eth0"
    assert find(left, gateways=("192.0.2.8",)) == ""


def test_a_route_over_a_peer_that_covers_more_than_the_network_is_in_the_way() -> None:
    assert find(route("10.0.0.0/8", 2, "192.0.2.8"), gateways=("192.0.2.8",)) != ""
