"""A second address that keepalived moves to and from the external interface."""

from collections.abc import Iterator

import pytest
from overlays import VXLAN, Pair, start_pair
from uplinks import published, wait_published
from world import Host, World, ping


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with World() as world:
        world.start_etcd()
        yield start_pair(world, VXLAN)


def put_floating_first(host: Host, own: str) -> None:
    """As after a flap of the link: the kernel lists the floating address before the own one."""
    host.ip("addr add 192.0.2.100/32 dev eth0", f"addr del {own} dev eth0",
            f"addr add {own} dev eth0", "route replace default via 192.0.2.1")  # fmt: skip


def test_the_published_address_is_kept_while_it_comes_second(pair: Pair) -> None:
    one = pair.one
    put_floating_first(one, "192.0.2.11/24")
    one.daemon.stop()
    one.start_flanneld("-iface=eth0").wait_ready()
    assert published(pair.world, pair.one) == "192.0.2.11"
    assert ping(pair.near, pair.far.address, 30) is not None


def test_without_a_saved_state_the_lease_in_etcd_decides_the_address(pair: Pair) -> None:
    one = pair.one
    one.daemon.stop()
    (one.state_dir / "state.json").unlink()
    one.ip("addr flush dev eth0", "addr add 192.0.2.99/24 dev eth0",
           "addr add 192.0.2.11/24 dev eth0", "route add default via 192.0.2.1")  # fmt: skip
    one.start_flanneld("-iface=eth0").wait_ready()
    assert published(pair.world, pair.one) == "192.0.2.11"
    one.ip("addr del 192.0.2.99/24 dev eth0")
    if "192.0.2.11/24" not in one.run("ip", "addr", "show", "eth0"):  # a secondary goes as well
        one.ip("addr add 192.0.2.11/24 dev eth0", "route replace default via 192.0.2.1")
    assert ping(pair.near, pair.far.address, 30) is not None


def test_a_floating_address_that_stays_alone_is_published_and_left_again(pair: Pair) -> None:
    one = pair.one
    one.ip("addr replace 192.0.2.100/32 dev eth0", "addr del 192.0.2.11/24 dev eth0")
    wait_published(pair.world, pair.one, "192.0.2.100")
    one.ip("addr add 192.0.2.11/24 dev eth0", "route replace default via 192.0.2.1")
    wait_published(pair.world, pair.one, "192.0.2.11")
    assert ping(pair.near, pair.far.address, 30) is not None


def test_the_host_that_the_floating_address_moves_to_keeps_its_own_address(pair: Pair) -> None:
    one, other = pair.one, pair.other
    one.ip("addr del 192.0.2.100/32 dev eth0")
    put_floating_first(other, "192.0.2.12/24")
    other.daemon.stop()
    other.start_flanneld("-iface=eth0").wait_ready()
    assert published(pair.world, other) == "192.0.2.12"
    assert ping(pair.near, pair.far.address, 30) is not None
