"""A VPN brings a better default route, which leads where no peer is."""

import json
from collections.abc import Iterator

import pytest
from flannel_command import findings, flannel, wait_findings
from namespaces import wait_for
from overlays import VXLAN, Pair
from uplinks import published, start_by_default_route, wait_published
from world import Host, World, ping


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with World() as world:
        world.start_etcd()
        pair = start_by_default_route(world, VXLAN)
        bring_vpn(pair.one)
        yield pair


def bring_vpn(host: Host) -> None:
    """A link to nowhere that has the better default route."""
    host.ip("link add tun9 type veth peer name tun9far", "link set tun9far up",
            "addr add 172.31.9.6/24 dev tun9", "link set tun9 up",
            "route add default via 172.31.9.1 dev tun9 metric 50")  # fmt: skip


def wait_conditions(host: Host, name: str, *, there: bool) -> None:
    def is_so() -> bool:
        daemon = json.loads(flannel(host, "status", "--json").stdout)["daemon"]
        return daemon is not None and (name in daemon["conditions"]) is there

    wait_for(is_so, 30, f"condition {name} to be {'there' if there else 'over'}")


def test_a_vpn_is_reported_and_not_followed(pair: Pair) -> None:
    pair.one.daemon.wait_log(
        r"keeping external interface eth0 with address 192\.0\.2\.11, which works: the default "
        r"route leads to tun9 with address 172\.31\.9\.6"
    )
    assert "tun9" in wait_findings(pair.one, "other-interface")["other-interface"]
    # A warning, no fault.
    wait_for(lambda: flannel(pair.one, "check").returncode == 0, 30, "check to find no fault")
    assert ping(pair.near, pair.far.address, 30) is not None
    assert published(pair.world, pair.one) == "192.0.2.11"
    assert "adapting to it" not in pair.one.daemon.log


def test_a_vpn_is_not_followed_after_a_restart(pair: Pair) -> None:
    pair.one.daemon.stop()
    pair.one.start_flanneld().wait_ready()
    wait_findings(pair.one, "other-interface")
    assert published(pair.world, pair.one) == "192.0.2.11"
    assert ping(pair.near, pair.far.address, 30) is not None


def test_an_uplink_that_fails_for_a_moment_is_returned_to(pair: Pair) -> None:
    pair.one.ip("link set eth0 down", "addr flush dev eth0")
    # The store is not reached from there either, so nobody hears of it.
    pair.one.daemon.wait_log("the external interface is tun9 with address 172.31.9.6 now")
    pair.one.ip("link set eth0 up", "addr add 192.0.2.11/24 dev eth0",
                "route add default via 192.0.2.1 metric 600")  # fmt: skip
    pair.one.daemon.wait_log("the external interface is eth0 with address 192.0.2.11 now")
    assert ping(pair.near, pair.far.address, 30) is not None
    assert published(pair.world, pair.one) == "192.0.2.11"


def test_the_operators_choice_moves_the_overlay_to_the_vpn(pair: Pair) -> None:
    pair.one.daemon.stop()
    pair.one.start_flanneld("-iface=tun9").wait_ready()
    wait_published(pair.world, pair.one, "172.31.9.6")
    assert "other-interface" not in findings(pair.one)
    pair.one.daemon.stop()
    pair.one.start_flanneld("-iface=eth0").wait_ready()
    wait_published(pair.world, pair.one, "192.0.2.11")


def test_a_better_interface_that_disappears_is_forgotten(pair: Pair) -> None:
    pair.one.daemon.stop()
    pair.one.start_flanneld().wait_ready()
    wait_conditions(pair.one, "other-interface", there=True)
    pair.one.ip("link del tun9")
    wait_conditions(pair.one, "other-interface", there=False)
