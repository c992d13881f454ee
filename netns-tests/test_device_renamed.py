"""Links that somebody renames or moves while no flanneld runs, and the external one."""

import re
from collections.abc import Callable

import pytest
from world import Container, Host, World, ping, wait_for

NETWORK = {"Network": "10.1.0.0/16"}
DEVICES = {"vxlan": "flannel.1", "udp": "flannel0"}


class Pair:
    """Two hosts with a container each; the device of the first is the one in question."""

    def __init__(self, world: World, backend: str, *flags: str) -> None:
        self.world, self.flags = world, flags or ("-iface=eth0",)
        world.configure({**NETWORK, "Backend": {"Type": backend}})
        self.one, self.other = world.add_host("h1"), world.add_host("h2")
        for host in (self.one, self.other):
            host.start_flanneld(*self.flags)
        for host in (self.one, self.other):
            host.daemon.wait_ready()
        self.near: Container = self.one.add_container(1)
        self.far: Container = self.other.add_container(1)
        assert ping(self.near, self.far.address, 30) is not None

    def restart(self, between: Callable[[Host], None]) -> None:
        """End flanneld without a chance to do anything, and start it again after ``between``."""
        self.one.daemon.kill()
        between(self.one)
        self.one.start_flanneld(*self.flags).wait_ready()

    def wait_carried(self) -> None:
        wait_for(
            lambda: ping(self.near, self.far.address) and ping(self.far, self.near.address),
            20,
            lambda: f"packets to pass; {self.one.daemon.last_words()}",
        )


def links(host: Host) -> list[str]:
    """The names of all links."""
    return re.findall(r"(?m)^\d+: ([^:@]+)", host.run("ip", "-o", "link", "show"))


@pytest.mark.parametrize("backend", DEVICES)
@pytest.mark.parametrize(
    "rename", ["ip link set {} name x", "ip link set {} down; ip link set {} name x mtu 1300"]
)
def test_a_device_that_was_renamed_while_flanneld_was_stopped_gets_its_name_back(
    world: World, backend: str, rename: str
) -> None:
    pair, device = Pair(world, backend), DEVICES[backend]
    index = _index(pair, device)
    pair.restart(lambda host: _run(host, rename.replace("{}", device)))
    pair.wait_carried()
    assert _index(pair, device) == index
    assert "x" not in links(pair.one)


def test_a_tun_device_that_was_renamed_is_known_by_its_alias_without_kept_descriptors(
    world: World,
) -> None:
    pair = Pair(world, "udp")

    def rename(host: Host) -> None:
        host.kept_fds.clear()
        _run(host, "ip link set flannel0 name x")

    pair.restart(rename)
    pair.wait_carried()
    assert "x" not in links(pair.one)


@pytest.mark.parametrize("backend", DEVICES)
def test_a_device_that_was_moved_while_flanneld_was_stopped_is_made_again(
    world: World, backend: str
) -> None:
    pair, device = Pair(world, backend), DEVICES[backend]
    pair.restart(lambda host: _run(host, f"ip link set {device} netns {world.net.name}"))
    pair.wait_carried()
    assert device not in world.net.run("ip", "-o", "link", "show")


def test_a_device_of_an_earlier_version_gets_the_alias(world: World) -> None:
    pair = Pair(world, "vxlan")
    pair.restart(lambda host: _run(host, "ip link set flannel.1 alias ''"))
    wait_for(
        lambda: "alias flannel" in pair.one.run("ip", "link", "show", "flannel.1"), 10, "the alias"
    )


def test_a_vxlan_link_of_another_program_with_our_vni_is_named_and_left_alone(
    world: World,
) -> None:
    world.configure({**NETWORK, "Backend": {"Type": "vxlan"}})
    host = world.add_host("h1")
    _run(host, "ip link add theirs type vxlan id 1 dev eth0 dstport 8472")
    host.start_flanneld("-iface=eth0").wait_log("link theirs has VNI 1 and port 8472: File exists")
    assert "theirs" in links(host)
    _run(host, "ip link del theirs")
    host.daemon.wait_ready()


@pytest.mark.parametrize("flags", [("-iface=eth0",), ("-v=0",)], ids=["by name", "default route"])
def test_the_external_interface_is_renamed_under_host_gw(
    world: World, flags: tuple[str, ...]
) -> None:
    pair = Pair(world, "host-gw", *flags)
    _run(
        pair.one,
        "ip link set eth0 down; ip link set eth0 name wan0; ip link set wan0 up; "
        "ip route add default via 192.0.2.1",
    )
    pair.wait_carried()
    assert pair.one.daemon.is_running
    # A peer that joins is served as well.
    third = world.add_host("h3")
    third.start_flanneld("-iface=eth0").wait_ready()
    subnet = str(third.subnet)
    wait_for(lambda: subnet in pair.one.run("ip", "route", "show"), 20, "the route of a new peer")
    _run(
        pair.one,
        "ip link set wan0 down; ip link set wan0 name eth0; ip link set eth0 up; "
        "ip route add default via 192.0.2.1",
    )
    pair.wait_carried()


def _run(host: Host, commands: str) -> None:
    host.run("sh", "-ec", commands)


def _index(pair: Pair, device: str) -> str:
    return pair.one.run("ip", "-o", "link", "show", device).partition(":")[0]
