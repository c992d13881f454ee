"""The network follows changes of its external interface while containers talk."""

import json
import re
from collections.abc import Iterator

import pytest
from test_repair import BACKENDS, Pair, state
from world import World, ping, wait_for


def test_the_network_moves_to_the_new_default_route_when_its_address_goes(world: World) -> None:
    one, other = world.add_host("h1"), world.add_host("h2")
    world.net.ip(f"link add q11 type veth peer name eth1 netns {one.name}",
                 "link set q11 master br0 up")  # fmt: skip
    one.ip("addr add 192.0.2.61/24 dev eth1", "link set eth1 up")
    world.configure(BACKENDS["vxlan"])
    for host in (one, other):
        host.start_flanneld()
    for host in (one, other):
        host.daemon.wait_ready()
    near, far = one.add_container(1), other.add_container(1)
    assert ping(near, far.address, 30) is not None
    subnet = one.subnet
    one.ip("route del default via 192.0.2.1", "addr del 192.0.2.11/24 dev eth0",
           "route add default via 192.0.2.1 dev eth1")  # fmt: skip
    one.daemon.wait_log(r"the external interface is eth1 with address 192\.0\.2\.61 now")
    wait_for(lambda: re.search("192.0.2.61", str(world.leases())), 30, "the lease to follow")
    assert ping(near, far.address, 30) is not None
    assert one.subnet == subnet


@pytest.fixture(scope="module", params=list(BACKENDS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with World() as world:
        world.start_etcd()
        yield Pair(world, request.param)


def follows(pair: Pair) -> bool:
    return ping(pair.near, pair.far.address, 30) is not None


@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        (("link set eth0 down",), ("link set eth0 up",)),
        (("addr del {}/24 dev eth0",), ("addr add {}/24 dev eth0",)),
        (("addr flush dev eth0", "link set eth0 down"),
         ("link set eth0 up", "addr add {}/24 dev eth0")),
    ],
    ids=["down and up", "address gone and back", "both"],
)  # fmt: skip
def test_an_interface_that_returns_is_used_again(
    pair: Pair, damage: tuple[str, ...], repair: tuple[str, ...]
) -> None:
    one = pair.one
    subnet, before = one.subnet, state(one, pair.device)
    lives = one.daemon.log.count("adapting to it")
    missed, back = (one.daemon.log.count(text) for text in ("cannot use interface", "is back"))
    one.ip(*(command.format(one.address) for command in damage))
    wait_for(
        lambda: one.daemon.log.count("cannot use interface") > missed, 30, "the reason in the log"
    )
    one.ip(*(command.format(one.address) for command in repair))
    assert follows(pair)
    wait_for(lambda: state(one, pair.device) == before, 30, f"{before}")
    assert one.subnet == subnet
    wait_for(lambda: one.daemon.log.count("is back") > back, 30, "the return in the log")
    assert one.daemon.log.count("adapting to it") == lives
    assert one.daemon.is_running


def test_another_mtu_is_taken_over_everywhere_and_docker_has_to_be_restarted(pair: Pair) -> None:
    one = pair.one
    mtu = int(one.subnet_env["FLANNEL_MTU"])
    one.ip("link set eth0 mtu 1400")
    one.daemon.wait_log(rf"the MTU is {mtu - 100} now, it was {mtu}: restart docker")
    assert one.subnet_env["FLANNEL_MTU"] == str(mtu - 100)
    wait_for(lambda: f"mtu {mtu - 100}" in state(one, pair.device)["link"], 30, "the device's MTU")
    assert follows(pair)
    one.ip("link set eth0 mtu 1500")
    wait_for(lambda: one.subnet_env["FLANNEL_MTU"] == str(mtu), 30, "the MTU of before")
    assert follows(pair)


def test_another_address_beside_ours_changes_nothing_but_another_network_does(pair: Pair) -> None:
    one = pair.one
    lives, leases = (one.daemon.log.count(text) for text in ("adapting to it", "INFO lease"))
    one.ip("addr add 192.0.2.200/24 dev eth0", "addr add 192.0.2.201/32 dev eth0",
           "addr add 198.51.100.7/24 dev eth0")  # fmt: skip
    wait_for(lambda: one.daemon.log.count("INFO lease") > leases, 30, one.daemon.last_words)
    one.daemon.wait_log(r"the networks of eth0 are .*198\.51\.100\.7/24.* now")
    assert follows(pair)
    one.ip("addr del 198.51.100.7/24 dev eth0", "addr del 192.0.2.200/24 dev eth0",
           "addr del 192.0.2.201/32 dev eth0")  # fmt: skip
    wait_for(lambda: one.daemon.log.count("adapting to it") > lives + 1, 30, "one life more")
    assert follows(pair)
    assert one.daemon.log.count("adapting to it") == lives + 2


def test_another_address_is_published_with_the_same_subnet(pair: Pair) -> None:
    one = pair.one
    subnet = one.subnet
    index = link_index(pair)
    one.ip(f"addr del {one.address}/24 dev eth0", "addr add 192.0.2.77/24 dev eth0")
    key = str(subnet).replace("/", "-")
    wait_for(
        lambda: "192.0.2.77" in pair.world.leases().get(key, {}).get("value", ""),
        30,
        lambda: f"the lease to follow, not {pair.world.leases()}; {one.daemon.log}",
    )
    assert follows(pair)
    assert one.subnet == subnet
    assert link_index(pair) == index  # kept, or moved in place
    one.ip("addr del 192.0.2.77/24 dev eth0", f"addr add {one.address}/24 dev eth0")
    assert follows(pair)


def link_index(pair: Pair) -> int:
    shown = json.loads(pair.one.run("ip", "-j", "link", "show", pair.device))
    index: int = shown[0]["ifindex"]
    return index
