"""Does the overlay's range fit beside what the host has? On values."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from flannel.kernel.host import Claim, docker_takes, overlap
from flannel.kernel.links import Address, Link, VxlanSettings
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.surroundings import Surroundings
from flannel.network_config import NetworkConfig

CLAIM = Claim(NetworkConfig.from_json('{"Network": "10.1.0.0/16"}'), 24)
ONE_ROUTE = replace(CLAIM, route_len=16)
"""As udp has it."""
VXLAN = VxlanSettings(1, 2, IPv4Address("192.0.2.7"), 8472, False, False)
LINKS = {
    1: Link(1, "lo", "", 65536, True, ""),
    2: Link(2, "eth0", "", 1500, True, ""),
    3: Link(3, "docker0", "bridge", 1500, True, ""),
    4: Link(4, "flannel.1", "vxlan", 1450, True, "", VXLAN),
    5: Link(5, "overlay", "vxlan", 1450, True, "", VXLAN),
    6: Link(6, "virbr0", "bridge", 1500, True, ""),
}


def claim(network: str, *, one_route: bool = False) -> Claim:
    config = NetworkConfig.from_json(network)
    return Claim(config, config.network.prefixlen if one_route else config.subnet_len)


def address(link: int, text: str) -> Address:
    return Address(link, IPv4Interface(text), 0)


def route(dst: str, link: int = 2, via: str | None = None) -> FoundRoute:
    return FoundRoute(IPv4Network(dst), IPv4Address(via) if via else None, link, 0)


def host(*things: Address | FoundRoute) -> Surroundings:
    return Surroundings(
        LINKS,
        [thing for thing in things if isinstance(thing, Address)],
        [thing for thing in things if isinstance(thing, FoundRoute)],
    )


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (address(2, "10.1.4.7/24"), "address 10.1.4.7/24 of eth0"),
        (address(2, "10.1.4.7/8"), "address 10.1.4.7/8 of eth0"),
        (address(1, "10.1.4.7/32"), "address 10.1.4.7/32 of lo"),
        (address(6, "10.1.4.1/24"), "address 10.1.4.1/24 of virbr0"),
        (route("10.1.4.0/24", 2), "route 10.1.4.0/24 dev eth0"),
        (route("10.1.4.128/25", 2), "route 10.1.4.128/25 dev eth0"),
        (route("10.1.255.0/24", 2), "route 10.1.255.0/24 dev eth0"),
        (route("10.1.4.0/24", 2, "192.0.2.1"), "route 10.1.4.0/24 via 192.0.2.1 dev eth0"),
        (route("10.1.4.0/24", 5), "route 10.1.4.0/24 dev overlay"),
        (route("10.1.4.0/24", 99), "route 10.1.4.0/24 dev link 99"),
    ],
)
def test_routes_and_addresses_that_take_packets_are_named(
    thing: Address | FoundRoute, named: str
) -> None:
    assert overlap(host(thing), CLAIM) == named


@pytest.mark.parametrize(
    "thing",
    [
        route("10.0.0.0/8", 2, "192.0.2.1"),
        route("0.0.0.0/0", 2, "192.0.2.1"),
        route("0.0.0.0/1", 5),
        route("10.1.0.0/16", 2, "192.0.2.1"),
        route("10.1.4.0/23", 2, "192.0.2.1"),
        address(2, "10.200.0.7/8"),
        address(2, "10.200.0.7/24"),
        address(6, "10.1.0.1/16"),
        address(6, "10.1.9.1/16"),
        route("10.2.0.0/16"),
        address(2, "192.0.2.7/24"),
    ],
)
def test_less_specific_and_other_routes_are_not_a_conflict(thing: Address | FoundRoute) -> None:
    assert overlap(host(thing), CLAIM) == ""


def test_the_first_subnet_of_the_network_is_free_for_hosts() -> None:
    # It is never leased, unless SubnetMin says so.
    first = host(address(2, "10.1.0.7/24"), route("10.1.0.0/24"))
    assert overlap(first, CLAIM) == ""
    every = claim('{"Network": "10.1.0.0/16", "SubnetMin": "10.1.0.0"}')
    assert overlap(first, every) == "address 10.1.0.7/24 of eth0"


def test_hosts_inside_the_network_outside_the_leasable_range_are_accepted() -> None:
    text = '{"Network": "10.0.0.0/8", "SubnetMin": "10.1.0.0", "SubnetMax": "10.9.255.0"}'
    beside = host(address(2, "10.200.0.7/24"), route("10.200.0.0/24"), route("10.0.5.0/24", 6))
    assert overlap(beside, claim(text)) == ""
    assert overlap(beside, claim(text, one_route=True)) == ""
    last = host(route("10.9.255.0/24"), route("10.10.0.0/24"))
    assert overlap(last, claim(text)) == "route 10.9.255.0/24 dev eth0"


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (route("10.1.0.0/16", 2, "192.0.2.1"), "route 10.1.0.0/16 via 192.0.2.1 dev eth0"),
        (route("10.1.128.0/17", 2), "route 10.1.128.0/17 dev eth0"),
        (address(6, "10.1.9.1/16"), "address 10.1.9.1/16 of virbr0"),
        (route("10.0.0.0/8", 2, "192.0.2.1"), ""),
        (route("0.0.0.0/1", 2, "192.0.2.1"), ""),
    ],
)
def test_an_equally_specific_route_is_a_conflict_where_one_route_leads_to_all_peers(
    thing: Address | FoundRoute, named: str
) -> None:
    assert overlap(host(thing), ONE_ROUTE) == named


def test_our_own_device_routes_and_container_bridge_are_not_a_conflict() -> None:
    ours = host(
        address(4, "10.1.4.0/32"),
        route("10.1.9.0/24", 4, "10.1.9.0"),
        address(6, "10.1.4.1/24"),
        route("10.1.4.0/24", 6),
    )
    assert overlap(ours, replace(CLAIM, own=[IPv4Network("10.1.4.0/24")])) == ""


def test_routes_that_another_flannel_daemon_left_to_peers_are_not_a_conflict() -> None:
    left = host(route("10.1.8.0/24", 2, "192.0.2.8"))
    assert overlap(left, CLAIM) == "route 10.1.8.0/24 via 192.0.2.8 dev eth0"
    assert overlap(left, replace(CLAIM, gateways=[IPv4Address("192.0.2.8")])) == ""


def test_a_route_over_a_peer_that_covers_more_than_the_network_is_a_conflict() -> None:
    wide = host(route("10.0.0.0/8", 2, "192.0.2.8"))
    only = replace(ONE_ROUTE, route_len=8, gateways=[IPv4Address("192.0.2.8")])
    assert overlap(wide, only) != ""


@pytest.mark.parametrize("network", ["172.17.0.0/16", "172.16.0.0/12"])
@pytest.mark.parametrize("one_route", [False, True])
def test_docker_s_bridge_is_not_a_conflict_wherever_docker_put_it(
    network: str, one_route: bool
) -> None:
    docker0 = host(address(3, "172.17.0.1/16"), route("172.17.0.0/16", 3))
    wanted = claim(f'{{"Network": "{network}"}}', one_route=one_route)
    assert overlap(docker0, wanted) == ""
    earlier = host(address(3, "172.17.9.1/24"), route("172.17.9.0/24", 3))
    assert overlap(earlier, wanted) == ""


def test_the_routes_of_docker_s_bridge_take_packets_where_ours_are_not_more_specific() -> None:
    docker0 = host(address(3, "172.17.0.1/16"), route("172.17.0.0/16", 3))
    text = '{"Network": "172.17.0.0/16"}'
    assert docker_takes(docker0, claim(text)) == ""
    assert docker_takes(docker0, claim(text, one_route=True)) == "172.17.0.0/16"
    assert docker_takes(docker0, claim('{"Network": "172.18.0.0/16"}', one_route=True)) == ""
    own = replace(claim(text), own=[IPv4Network("172.17.9.0/24")])
    assert docker_takes(host(route("172.17.9.0/24", 3)), own) == ""
    assert docker_takes(host(route("172.17.8.0/24", 3)), own) == "172.17.8.0/24"
