"""The udp backend's TUN device: changes by others are reverted, and a restart keeps it."""

import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from overlays import RANGE, UDP, Pair, start_pair
from world import Host, Pinger, World, ping, wait_for

CONFIG = {**UDP, **RANGE, "Backend": {"Type": "udp"}}
PER_SECOND = 20
"""Pings: a TUN device has room for 500 packets, which is 25 s, should this machine be busy."""
_TICKS = os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Shared by all tests of the file: each test leaves it repaired, or fails."""
    with World() as world:
        world.start_etcd()
        yield start_pair(world, CONFIG)


def wait_mtu(host: Host, mtu: int) -> None:
    wait_for(lambda: f" mtu {mtu} " in device(host), 30, lambda: f"{mtu}, it is {device(host)}")


def device(host: Host) -> str:
    """What belongs to the device, but for its index and carrier, which the kernel tells late."""
    link = host.try_run("ip", "-o", "link", "show", "flannel0").stdout.partition(": ")[2]
    address = host.try_run("ip", "-o", "addr", "show", "flannel0").stdout.partition(": ")[2]
    route = host.run("ip", "route", "show", "10.1.0.0/16")
    return re.sub(r" state \w+|NO-CARRIER,|,LOWER_UP", "", link) + address + route


def index(host: Host) -> int:
    return int(host.run("ip", "-o", "link", "show", "flannel0").partition(":")[0])


def wait_device(host: Host, before: str) -> None:
    wait_for(lambda: device(host) == before, 30, lambda: f"{before}, it is {device(host)}")


def cpu_seconds(host: Host) -> float:
    """What the daemon has used since it began."""
    stat = Path(f"/proc/{host.daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(stat[11]) + int(stat[12])) / _TICKS  # utime and stime: proc(5)


def wait_kept(host: Host, threads: int) -> None:
    """Wait until systemd has a queue and a socket for each thread, and nothing else."""
    names = threads * ["flannel0/queue"] + threads * ["flannel0/udp"]
    kept = host.kept_fds
    wait_for(lambda: sorted(kept.names) == names, 30, lambda: f"{names}, there are {kept.names}")


class TestMending:
    @pytest.mark.parametrize(
        "damage",
        [
            ["link del flannel0"],
            ["link set flannel0 down"],
            ["link set flannel0 mtu 1300"],
            [
                "route del 10.1.0.0/16 dev flannel0",
                "addr flush dev flannel0",
                "addr add 10.1.255.9/32 dev flannel0",
            ],
        ],
        ids=["deleted", "down", "MTU", "address and route"],
    )
    def test_changes_by_others_are_reverted_and_traffic_flows_again(
        self, pair: Pair, damage: list[str]
    ) -> None:
        one, near, far = pair.one, pair.near, pair.far
        before, used, began = device(one), cpu_seconds(one), time.monotonic()
        with one.daemon.frozen():  # otherwise it might repair everything before the assertion below
            one.ip(*damage)
            assert device(one) != before
        wait_device(one, before)
        assert ping(near, far.address, 30) is not None
        # It waited for that, it did not spin.
        assert cpu_seconds(one) - used < 0.5 + 0.2 * (time.monotonic() - began)
        assert one.daemon.is_running

    def test_all_threads_notice_a_deleted_device_without_an_error(self, pair: Pair) -> None:
        one, near, far = pair.one, pair.near, pair.far
        pair.world.configure({**CONFIG, "Backend": {"Type": "udp", "Threads": 2}})
        wait_kept(one, 2)
        assert ping(near, far.address, 30) is not None  # by now it has its address and route
        before = device(one)
        one.ip("link del flannel0")
        wait_device(one, before)
        assert ping(near, far.address, 30) is not None
        one.daemon.stop()  # what was left unsaid, Python says at its end
        said = one.daemon.log
        pair.world.configure(CONFIG)
        one.start_flanneld("-iface=eth0").wait_ready()
        wait_kept(one, 1)
        assert ping(near, far.address, 30) is not None
        assert "Traceback" not in said

    def test_a_link_in_its_place_is_left_alone_and_named_once(self, pair: Pair) -> None:
        one, near, far = pair.one, pair.near, pair.far
        used, before, began = cpu_seconds(one), device(one), time.monotonic()
        with one.daemon.frozen():
            one.ip("link del flannel0", "link add flannel0 type bridge")
        one.daemon.wait_log("cannot use the name flannel0: a link of kind bridge has it")
        time.sleep(2)
        assert "bridge" in one.run("ip", "-d", "link", "show", "flannel0")
        assert one.daemon.log.count("a link of kind bridge has it") == 1
        assert cpu_seconds(one) - used < 0.5 + 0.2 * (time.monotonic() - began)
        one.ip("link del flannel0")
        wait_device(one, before)
        assert ping(near, far.address, 30) is not None


class TestRestarting:
    @pytest.mark.parametrize("seconds", [0, 1])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_packets_wait_for_the_next_flanneld(
        self, pair: Pair, number: int, seconds: int
    ) -> None:
        one, near, far = pair.one, pair.near, pair.far
        before = index(one), device(one), one.subnet
        with (
            Pinger(near, far.address, PER_SECOND) as out,
            Pinger(far, near.address, PER_SECOND) as back,
        ):
            wait_for(lambda: out.received, 30, "an answer")
            one.daemon.stop(number)
            out.wait_sent(PER_SECOND * seconds)
            one.start_flanneld("-iface=eth0").wait_ready()
            assert ping(near, far.address, 30) is not None
        assert (index(one), device(one), one.subnet) == before
        # SIGTERM ends it between two packets, SIGKILL wherever it is: with some in its hands.
        carried = 5 if number == signal.SIGKILL else 0
        assert out.lost <= carried
        assert back.lost <= carried
        wait_kept(one, 1)

    def test_packets_wait_while_the_network_config_changes(self, pair: Pair) -> None:
        one, near, far = pair.one, pair.near, pair.far
        with Pinger(near, far.address, PER_SECOND) as pinger:
            for backend, mtu in (({"Type": "udp", "MTU": 1400}, 1372), (CONFIG["Backend"], 1472)):
                pair.world.configure({**CONFIG, "Backend": backend})
                for host in pair.world.hosts:
                    wait_mtu(host, mtu)
                assert ping(near, far.address, 30) is not None
        assert pinger.lost == 0
        assert one.daemon.is_running

    def test_without_kept_descriptors_a_restart_is_a_short_pause(self, pair: Pair) -> None:
        one, near, far = pair.one, pair.near, pair.far
        before = index(one), device(one), one.subnet
        with Pinger(near, far.address, PER_SECOND) as pinger:
            wait_for(lambda: pinger.received, 30, "an answer")
            answered = pinger.received
            one.daemon.stop()
            one.kept_fds.clear()
            one.start_flanneld("-iface=eth0").wait_ready()
            assert ping(near, far.address, 30) is not None
            sent = pinger.sent
            pinger.wait_sent(1)
        assert (index(one), device(one), one.subnet) == before
        # No more than went by until it was there again.
        assert pinger.lost <= sent - answered

    @pytest.mark.parametrize("restarts", [True, False], ids=["restarted", "running"])
    def test_kept_descriptors_follow_the_network_config(self, pair: Pair, restarts: bool) -> None:
        one, near, far = pair.one, pair.near, pair.far
        for backend, threads in (
            ({"Type": "udp", "Threads": 2}, 2),
            ({"Type": "udp", "Threads": 3}, 3),
            ({"Type": "udp", "Port": 8286}, 1),
            ({"Type": "vxlan"}, 0),
            (CONFIG["Backend"], 1),
        ):
            pair.world.configure({**CONFIG, "Backend": backend})
            if restarts:
                one.daemon.stop()
                one.start_flanneld("-iface=eth0").wait_ready()
            wait_kept(one, threads)
            assert ping(near, far.address, 30) is not None
            link = one.try_run("ip", "-d", "link", "show", "flannel0").stdout
            assert ("multi_queue" in link) is (threads > 1)

    def test_kept_descriptors_that_do_not_fit_are_closed(self, pair: Pair) -> None:
        """A pipe, a socket of another namespace at the same port, what nobody knows."""
        one, near, far = pair.one, pair.near, pair.far
        one.daemon.stop()
        one.kept_fds.clear()
        with far.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            far.ip(f"addr add {one.address}/32 dev lo")
            stranger.bind((str(one.address), 8285))
            for name in ("flannel0/queue", "flannel0/udp", "flannel0/udp", "flannel.1/udp", "what"):
                one.kept_fds.hear(f"FDSTORE=1\nFDNAME={name}".encode(), [os.eventfd(0)])
            one.kept_fds.hear(b"FDSTORE=1\nFDNAME=flannel0/udp", [os.dup(stranger.fileno())])
        one.start_flanneld("-iface=eth0").wait_ready()
        assert ping(near, far.address, 30) is not None
        wait_kept(one, 1)
        far.ip(f"addr del {one.address}/32 dev lo")
