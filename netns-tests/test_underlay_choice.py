"""Which interface and address the overlay uses on hosts with more than one of them."""

import re
from typing import Any

import pytest
from overlays import ALL, UDP, VXLAN, Pair
from uplinks import add_uplink, index_of, mac_of, published, start_by_default_route, wait_published
from world import World, ping, wait_for


@pytest.mark.parametrize("config", [VXLAN, UDP], ids=["vxlan", "udp"])
def test_a_dhcp_client_on_the_own_device_moves_nothing(
    world: World, config: dict[str, Any]
) -> None:
    pair = start_by_default_route(world, config)
    one = pair.one
    device = "flannel.1" if config is VXLAN else "flannel0"
    before = index_of(one, device)
    one.ip(f"addr add 169.254.122.15/16 dev {device}",
           f"route add default dev {device} scope link metric 1003",
           "route del default via 192.0.2.1", "link set eth0 mtu 1490")  # fmt: skip
    one.daemon.wait_log("the MTU of eth0 is 1490 now")  # so it has looked at all of that
    assert ping(pair.near, pair.far.address, 30) is not None
    one.daemon.stop()
    one.start_flanneld().wait_ready()
    assert ping(pair.near, pair.far.address, 30) is not None
    assert index_of(one, device) == before
    assert published(world, one) == "192.0.2.11"
    assert f"external interface: {device}" not in one.daemon.log


def test_patterns_that_fit_the_own_device_and_docker_s_bridge_find_the_uplink(
    world: World,
) -> None:
    world.configure({"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}})
    one = world.add_host("h1")
    one.ip("addr flush dev eth0", "addr add 10.200.0.11/24 dev eth0",
           "addr add 192.0.2.11/24 dev eth0")  # fmt: skip
    one.start_flanneld(r"-iface-regex=^10\.").wait_ready()
    one.add_container(1)
    one.daemon.stop()
    for flag in (r"-iface-regex=^10\.", r"-iface-regex=^(flannel|docker|eth)"):
        one.start_flanneld(flag).wait_ready()
        assert published(world, one) == "10.200.0.11"
        one.daemon.stop()
    assert "interface: flannel.1" not in one.daemon.log
    assert "interface: docker0" not in one.daemon.log


def test_a_link_local_address_is_replaced_when_a_global_one_is_added(world: World) -> None:
    world.configure(VXLAN)
    one = world.add_host("h1")
    world.net.ip("route add 169.254.0.0/16 dev br0")
    one.ip("addr flush dev eth0", "addr add 169.254.1.11/16 dev eth0",
           "route add 192.0.2.1 dev eth0")  # fmt: skip
    one.start_flanneld("-iface=eth0").wait_ready()
    assert published(world, one) == "169.254.1.11"
    one.ip("addr add 192.0.2.11/24 dev eth0")
    wait_published(world, one, "192.0.2.11")
    one.daemon.stop()
    one.start_flanneld("-iface=eth0").wait_ready()
    assert published(world, one) == "192.0.2.11"


def test_an_own_address_of_loopback_is_carried_by_the_default_route(world: World) -> None:
    world.configure(VXLAN)
    one, other = world.add_host("h1"), world.add_host("h2")
    one.ip("link set lo up", "addr add 203.0.113.1/32 dev lo")
    other.ip("route add 203.0.113.1/32 via 192.0.2.11")
    one.start_flanneld("-iface-can-reach=203.0.113.1")
    other.start_flanneld("-iface-can-reach=192.0.2.12")
    for host in (one, other):
        host.daemon.wait_ready()
    assert published(world, one) == "203.0.113.1"
    assert published(world, other) == "192.0.2.12"
    assert one.subnet_env["FLANNEL_MTU"] == "1450"
    assert "external interface: eth0 with address 203.0.113.1, MTU 1500" in one.daemon.log
    near, far = one.add_container(1), other.add_container(1)
    assert ping(near, far.address, 30) is not None
    # The link is the default route's, also later.
    add_uplink(world, one, "192.0.2.61/24")
    one.ip("route replace default via 192.0.2.1 dev eth1", "addr del 192.0.2.11/24 dev eth0")
    other.ip("route replace 203.0.113.1/32 via 192.0.2.61")
    one.daemon.wait_log("the external interface is eth1 with address 203.0.113.1 now")
    assert ping(near, far.address, 30) is not None


def reach_over_both_links(pair: Pair) -> None:
    """Two links to one network answer ARP requests for each other's address."""
    for link in ("eth0", "eth1"):
        mac = mac_of(pair.one, link)
        pair.other.ip(f"neigh replace 192.0.2.11 lladdr {mac} dev eth0")
        assert ping(pair.near, pair.far.address, 30) is not None, link


@ALL
def test_a_second_uplink_takes_over_and_the_first_is_returned_to(
    world: World, config: dict[str, Any]
) -> None:
    pair = start_by_default_route(world, config)
    one = pair.one
    add_uplink(world, one, "192.0.2.61/24")
    one.ip("route add default via 192.0.2.1 dev eth1 metric 900")
    reach_over_both_links(pair)
    one.ip("link set eth0 down")
    wait_published(world, one, "192.0.2.61")
    assert ping(pair.near, pair.far.address, 30) is not None
    one.ip("link set eth0 up")
    wait_published(world, one, "192.0.2.11")
    reach_over_both_links(pair)
    assert one.daemon.is_running


def test_an_address_that_moves_into_a_bridge_takes_the_overlay_along(world: World) -> None:
    pair = start_by_default_route(world, VXLAN)
    one = pair.one
    one.ip("link add br0 type bridge", "addr flush dev eth0", "link set eth0 master br0",
           "link set br0 up", "addr add 192.0.2.11/24 dev br0",
           "route add default via 192.0.2.1 metric 600")  # fmt: skip
    one.daemon.wait_log("the external interface is br0 with address 192.0.2.11 now")
    assert ping(pair.near, pair.far.address, 30) is not None
    assert published(world, one) == "192.0.2.11"

    def shown() -> str:
        return one.run("ip", "-o", "-d", "link", "show", "flannel.1")

    # Packets may pass before the device is at its new place.
    is_there = re.compile(r"flannel\.1.*local 192\.0\.2\.11.*dev br0")
    wait_for(lambda: is_there.search(shown()), 30, shown)
