"""The external interface, chosen from what the real kernel has."""

import asyncio
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from private_network import ip, private_network

from flannel.errors import NoInterface
from flannel.kernel.host import Claim, docker_takes, overlap
from flannel.kernel.interface import InterfaceChoice
from flannel.kernel.interface_choice import Overlay, choose
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.kernel.surroundings import Surroundings, look_around
from flannel.network_config import NetworkConfig

CONFIG = NetworkConfig.from_json('{"Network": "10.1.0.0/16"}')


@pytest.fixture(autouse=True)
def _host() -> Iterator[None]:
    with private_network():
        ip("link set lo up")
        for number in (0, 1):
            ip(f"link add eth{number} type veth peer name far{number}")
            ip(f"link set far{number} up")
            ip(f"link set eth{number} up")
        ip("addr add 192.0.2.1/24 dev eth0")
        ip("link set eth1 mtu 9000")
        ip("addr add 169.254.7.7/16 dev eth1 scope link")
        ip("addr add 198.51.100.1/24 dev eth1")
        yield


def look(can_reach: IPv4Address | None = None) -> Surroundings:
    async def read() -> Surroundings:
        async with Netlink() as netlink:
            with RtNetlink() as tables:
                return await look_around(netlink, tables, can_reach)

    return asyncio.run(read())


def find(choice: InterfaceChoice, overlay: Overlay | None = None) -> tuple[str, int, str, str]:
    found = choose(look(choice.can_reach), choice, overlay or Overlay())
    return found.name, found.mtu, str(found.address), str(found.public_ip)


def name_of(choice: InterfaceChoice) -> str:
    return find(choice)[0]


def test_the_interface_of_the_best_default_route_is_chosen() -> None:
    ip("route add default via 192.0.2.254 metric 100")
    ip("route add default via 198.51.100.254 metric 50")
    assert find(InterfaceChoice()) == ("eth1", 9000, "198.51.100.1", "198.51.100.1")


def test_the_first_of_default_routes_with_one_metric_is_chosen() -> None:
    ip("route add default via 192.0.2.254 metric 100")
    ip("route append default via 198.51.100.254 metric 100")
    assert name_of(InterfaceChoice()) == "eth0"


def test_the_first_hop_of_a_default_route_that_is_up_is_chosen() -> None:
    ip("route add default nexthop via 192.0.2.254 nexthop via 198.51.100.254")
    assert name_of(InterfaceChoice()) == "eth0"
    ip("link set eth0 down")
    assert name_of(InterfaceChoice()) == "eth1"


def test_a_default_route_of_another_table_does_not_count() -> None:
    ip("route add default via 192.0.2.254 metric 600")
    ip("route add default via 198.51.100.254 table 51820")
    ip("rule add not fwmark 51820 table 51820")
    assert name_of(InterfaceChoice()) == "eth0"


def test_a_link_with_a_carrier_is_preferred() -> None:
    ip("route add default via 192.0.2.254 metric 100")
    ip("route add default via 198.51.100.254 metric 200")
    ip("link set far0 down")
    assert name_of(InterfaceChoice()) == "eth1"
    assert name_of(InterfaceChoice(names=["eth0"])) == "eth0"


def test_a_link_is_chosen_by_name_with_its_global_address() -> None:
    assert find(InterfaceChoice(names=["eth1"]))[2] == "198.51.100.1"


def test_a_link_is_chosen_by_its_address() -> None:
    assert find(InterfaceChoice(names=["169.254.7.7"]))[2] == "169.254.7.7"


def test_the_link_that_reaches_an_address_is_chosen() -> None:
    ip("route add 203.0.113.0/24 via 198.51.100.9")
    assert name_of(InterfaceChoice(can_reach=IPv4Address("203.0.113.77"))) == "eth1"


def test_the_link_of_an_own_address_to_reach_is_chosen() -> None:
    assert name_of(InterfaceChoice(can_reach=IPv4Address("198.51.100.1"))) == "eth1"


def test_an_address_of_loopback_is_carried_by_the_default_route() -> None:
    ip("addr add 203.0.113.9/32 dev lo")
    ip("route add default via 198.51.100.254")
    expected = ("eth1", 9000, "203.0.113.9", "203.0.113.9")
    assert find(InterfaceChoice(can_reach=IPv4Address("203.0.113.9"))) == expected
    assert find(InterfaceChoice(names=["203.0.113.9"])) == expected


def test_links_without_addresses_send_from_loopback() -> None:
    ip("addr add 203.0.113.9/32 dev lo")
    ip("addr flush dev eth1")
    ip("route add default dev eth1")
    assert find(InterfaceChoice()) == ("eth1", 9000, "203.0.113.9", "203.0.113.9")


@pytest.mark.parametrize("source", ["192.0.2.1", "192.0.2.7", "203.0.113.9"])
def test_the_source_of_the_default_route_is_the_address(source: str) -> None:
    ip("addr add 203.0.113.9/32 dev lo")
    ip("addr add 192.0.2.7/24 dev eth0")
    ip(f"route add default via 192.0.2.254 src {source}")
    assert find(InterfaceChoice())[2] == source


@pytest.mark.parametrize(
    ("added", "address"),
    [
        ("192.0.2.100/32 dev eth0", "192.0.2.1"),
        ("169.254.9.9/16 dev eth0", "192.0.2.1"),
        ("203.0.113.9/24 dev eth0", "192.0.2.1"),
        ("192.0.2.9/24 dev eth0 preferred_lft 0 valid_lft 1000", "192.0.2.1"),
    ],
)
def test_the_own_address_is_published_wherever_in_the_order_others_are(
    added: str, address: str
) -> None:
    ip("addr del 192.0.2.1/24 dev eth0")
    ip(f"addr add {added}")
    ip("addr add 192.0.2.1/24 dev eth0")
    ip("route add default via 192.0.2.254")
    assert find(InterfaceChoice())[2] == address


def test_an_address_whose_gateway_is_on_no_network_of_the_link_is_used() -> None:
    ip("addr flush dev eth0")
    ip("addr add 10.128.0.2/32 dev eth0")
    ip("route add default via 10.128.0.1 dev eth0 onlink")
    assert find(InterfaceChoice())[2] == "10.128.0.2"


@pytest.mark.parametrize(
    "commands",
    [
        ("link add br0 type bridge", "link set eth0 master br0", "link set br0 up"),
        ("link add link eth0 name br0 type macvlan", "link set br0 up"),
        ("link add br0 type veth peer name far9", "link set far9 up", "link set br0 up"),
    ],
    ids=["bridge", "macvlan", "no relation"],
)
def test_the_link_that_took_the_address_of_another_is_used(commands: tuple[str, ...]) -> None:
    ip("addr flush dev eth0")
    for command in commands:
        ip(command)
    ip("addr add 192.0.2.1/24 dev br0")
    ip("route add default via 192.0.2.254")
    assert find(InterfaceChoice())[0] == "br0"
    port = "; it is a port of br0" if "master" in commands[1] else ""
    with pytest.raises(NoInterface, match=f"eth0: it has no IPv4 address{port}$"):
        find(InterfaceChoice(names=["eth0"]))


def test_the_public_address_may_differ_from_the_address_of_the_link() -> None:
    choice = InterfaceChoice(names=["eth0"], public_ip=IPv4Address("203.0.113.5"))
    assert find(choice)[2:] == ("192.0.2.1", "203.0.113.5")


@pytest.mark.parametrize(
    ("before", "choice", "reason"),
    [
        ("link set eth0 down", InterfaceChoice(["eth0"]), "interface eth0: it is down"),
        ("addr flush dev eth0", InterfaceChoice(["eth0"]), "eth0: it has no IPv4 address"),
        ("link show", InterfaceChoice(["eth7"]), "is called or has address eth7"),
        ("link show", InterfaceChoice(patterns=[re.compile("wlan")]), "matches wlan"),
        ("link show", InterfaceChoice(can_reach=IPv4Address("203.0.113.1")), "reaches 203"),
        ("link show", InterfaceChoice(), "no default route"),
    ],
)
def test_the_reason_is_named_while_nothing_fits(
    before: str, choice: InterfaceChoice, reason: str
) -> None:
    ip(before)
    with pytest.raises(NoInterface, match=reason):
        find(choice)


def test_devices_of_the_overlay_are_never_chosen() -> None:
    ip("link add flannel.1 type vxlan id 1 dev eth0 dstport 8472")
    ip("link set flannel.1 up")
    ip("addr add 10.1.7.0/32 dev flannel.1")
    ip("addr add 169.254.122.15/16 dev flannel.1")
    ip("route add default dev flannel.1 metric 1003")
    for choice in (
        InterfaceChoice(),
        InterfaceChoice(["flannel.1"]),
        InterfaceChoice(patterns=[re.compile(r"^169\.254\.122")]),
        InterfaceChoice(can_reach=IPv4Address("203.0.113.1")),
        InterfaceChoice(can_reach=IPv4Address("169.254.122.15")),
    ):
        with pytest.raises(NoInterface, match=r"flannel\.1: it belongs to the overlay"):
            find(choice)
    ip("route add default via 192.0.2.254 metric 2000")
    assert name_of(InterfaceChoice()) == "eth0"


@pytest.mark.parametrize("name", ["docker0", "br-0123456789ab", "mybridge"])
def test_bridges_of_containers_are_never_chosen(name: str) -> None:
    ip(f"link add {name} type bridge")
    ip(f"link set {name} up")
    ip(f"addr add 10.1.7.1/24 dev {name}")
    ip("route add default via 10.1.7.2")
    overlay = Overlay(CONFIG, [IPv4Network("10.1.7.0/24")])
    for choice in (InterfaceChoice(), InterfaceChoice([name]), InterfaceChoice(["10.1.7.1"])):
        with pytest.raises(NoInterface, match=f"cannot use interface {name}"):
            find(choice, overlay)


def test_routes_of_the_kernel_and_of_people_are_compared_with_the_range() -> None:
    claim = Claim(CONFIG, 24)
    ip("route add 10.0.0.0/8 via 192.0.2.254")
    ip("route add 10.1.0.0/16 via 192.0.2.254")
    ip("route add 0.0.0.0/1 via 198.51.100.254")
    assert overlap(look(), claim) == ""
    assert "10.1.0.0/16 via 192.0.2.254 dev eth0" in overlap(look(), Claim(CONFIG, 16))
    ip("route add 10.1.4.0/24 via 192.0.2.254")
    assert overlap(look(), claim) == "route 10.1.4.0/24 via 192.0.2.254 dev eth0"


def test_docker_s_own_bridge_is_not_in_the_way() -> None:
    ip("link add docker0 type bridge")
    ip("link set docker0 up")
    ip("addr add 172.17.0.1/16 dev docker0")
    config = NetworkConfig.from_json('{"Network": "172.17.0.0/16"}')
    assert overlap(look(), Claim(config, 16)) == ""
    assert docker_takes(look(), Claim(config, 16)) == "172.17.0.0/16"
    assert docker_takes(look(), Claim(config, 24)) == ""
