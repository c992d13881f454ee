"""Leases: lost, taken, copied, reserved, poisoned; on real daemons and a real etcd."""

import json
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from overlays import (
    HOST_GW,
    UDP,
    VXLAN,
    is_logged_once,
    key_of,
    log_lines,
    overlay,
    peer_value,
    start,
    value_of,
    wait_overlay,
    wait_value,
)
from world import PREFIX, Host, Pinger, World, ping, wait_for

ALLOC = {"Network": "10.1.0.0/16", "Backend": {"Type": "alloc"}}


def wait_no_vxlan(host: Host) -> None:
    wait_for(lambda: "flannel.1" not in host.run("ip", "link"), 30, f"host-gw on {host.label}")


def hook(path: Path) -> tuple[Path, Path]:
    """A program for -lease-hook, and the file in which it writes its environment."""
    told = path / "told"
    program = path / "hook"
    program.write_text(f"#!/bin/sh\nenv | grep ^FLANNEL_ >{told}.new && mv {told}.new {told}\n")
    program.chmod(0o755)
    return program, told


class TestLost:
    @pytest.mark.parametrize("config", [VXLAN, UDP], ids=["vxlan", "udp"])
    def test_a_lease_that_was_removed_is_back_and_no_container_is_disturbed(
        self, world: World, config: dict[str, Any]
    ) -> None:
        (one,) = start(world, config, 1)
        near = one.add_container(1)

        def links() -> list[tuple[object, ...]]:
            # Not their state: that of a bridge is UP up to a second after it can be used.
            members = ("ifindex", "ifname", "mtu", "address", "master")
            shown = json.loads(one.run("ip", "-j", "link"))
            return [tuple(each.get(member) for member in members) for each in shown]

        before = links()
        with Pinger(near, one.subnet.network_address + 1) as pinger:
            world.etcdctl("rm", f"{PREFIX}/subnets/{key_of(one)}")
            wait_value(world, key_of(one), PublicIP="192.0.2.11")
        assert pinger.lost == 0
        one.daemon.wait_log("was gone from the store; taken again")
        assert links() == before  # nothing was made anew
        assert "starting over" not in one.daemon.log

    def test_all_leases_removed_at_once_are_withdrawn_and_come_back(self, world: World) -> None:
        one, other = start(world, VXLAN, 2)
        world.put_leases({"10.1.70.0-24": peer_value("192.0.2.70")})
        wait_overlay(one, other.subnet, "10.1.70.0/24")
        near, far = one.add_container(1), other.add_container(1)
        world.etcdctl("rm", "--recursive", f"{PREFIX}/subnets")
        for host in (one, other):
            wait_value(world, key_of(host), PublicIP=str(host.address))
        wait_overlay(one, other.subnet)
        assert ping(near, far.address, 30) is not None

    def test_a_lease_that_was_garbled_is_written_again(self, world: World) -> None:
        one, other = start(world, VXLAN, 2)
        wait_overlay(other, one.subnet)
        world.etcdctl("set", f"{PREFIX}/subnets/{key_of(one)}", "garbage")
        wait_value(world, key_of(one), PublicIP="192.0.2.11")
        assert overlay(other) == {str(one.subnet)}
        assert world.leases()[key_of(one)]["ttl"] > 86000

    def test_a_lease_taken_by_another_host_is_left_to_it_and_logged(
        self, world: World, tmp_path: Path
    ) -> None:
        program, told = hook(tmp_path)
        (host,) = start(world, VXLAN, 1, f"-lease-hook={program}")
        before, key = host.subnet, key_of(host)
        theirs = peer_value("192.0.2.99")[:-1] + ',"NodeID":"thief"}'
        world.put_leases({key: theirs})
        host.daemon.wait_log(r"WARNING.*192\.0\.2\.99 \(NodeID thief\) holds it now")
        wait_for(told.exists, 30, "the hook")
        assert host.subnet != before
        assert world.leases()[key]["value"] == theirs
        assert value_of(world, key_of(host))["PublicIP"] == "192.0.2.11"
        wait_overlay(host, before)  # it is a peer's now
        for subnet in (before, host.subnet):
            heard = wait_for(host.daemon.heard, 30, f"word of {subnet}")
            assert heard == f"READY=1\nSTATUS=lease {subnet} of 192.0.2.11".encode()
        assert host.daemon.heard() == b""
        variables = dict(line.split("=", 1) for line in told.read_text().splitlines())
        assert variables == {
            "FLANNEL_OLD_SUBNET": f"{before.network_address + 1}/24",
            "FLANNEL_SUBNET_FILE": str(host.subnet_file),
            **host.subnet_env,
        }

    def test_a_failed_hook_is_logged_and_flanneld_runs_on(
        self, world: World, tmp_path: Path
    ) -> None:
        program, _ = hook(tmp_path)
        program.write_text("#!/bin/sh\necho no docker here >&2\nexit 3\n")
        (host,) = start(world, ALLOC, 1, f"-lease-hook={program}")
        world.put_leases({key_of(host): peer_value("192.0.2.99")})
        host.daemon.wait_log(rf"WARNING {program} failed: no docker here")
        assert host.daemon.is_running


class TestWhoseItIs:
    def test_a_second_host_with_the_same_address_is_refused_until_the_first_is_gone(
        self, world: World
    ) -> None:
        (first,) = start(world, VXLAN, 1, "-public-ip=203.0.113.5")
        before = world.leases()
        second = world.add_host("h2")
        second.start_flanneld("-iface=eth0", "-public-ip=203.0.113.5")
        node_id = value_of(world, key_of(first))["NodeID"]
        second.daemon.wait_log(
            rf"203\.0\.113\.5: {first.subnet} is leased with it by .* host, of NodeID {node_id}"
        )
        assert world.leases().keys() == before.keys()
        assert value_of(world, key_of(first))["NodeID"] == node_id
        first.daemon.stop()
        world.etcdctl("rm", f"{PREFIX}/subnets/{key_of(first)}")
        second.daemon.wait_ready()
        assert is_logged_once(second, "is leased with it by another host")

    def test_a_copied_subnet_env_gives_another_subnet(self, world: World) -> None:
        (first,) = start(world, ALLOC, 1)
        second = world.add_host("h2")
        shutil.copy(first.subnet_file, second.subnet_file)
        second.start_flanneld("-iface=eth0").wait_ready()
        assert second.subnet != first.subnet

    def test_a_copied_host_gets_an_identity_of_its_own(self, world: World) -> None:
        (first,) = start(world, ALLOC, 1)
        key, subnet = key_of(first), first.subnet
        value = value_of(world, key)
        second = world.add_host("h2")
        shutil.copytree(first.state_dir, second.state_dir)
        shutil.copy(first.subnet_file, second.subnet_file)
        second.start_flanneld("-iface=eth0").wait_ready()
        assert "one of them is a copy of the other" in second.daemon.log
        # The one that runs has containers in its subnet.
        assert (value_of(world, key), first.subnet) == (value, subnet)
        assert value_of(world, key_of(second))["NodeID"] != value["NodeID"]
        assert {value_of(world, each)["PublicIP"] for each in world.leases()} == {
            "192.0.2.11",
            "192.0.2.12",
        }

    def test_a_host_that_changes_its_address_keeps_its_subnet(self, world: World) -> None:
        one, other = start(world, VXLAN, 2)
        near, far = one.add_container(1), other.add_container(1)
        key, leases = key_of(one), world.leases().keys()
        one.ip("addr flush dev eth0", "addr add 192.0.2.201/24 dev eth0",
               "route add default via 192.0.2.1")  # fmt: skip
        wait_value(world, key, PublicIP="192.0.2.201")
        assert world.leases().keys() == leases
        assert ping(near, far.address, 30) is not None

    def test_the_lease_that_upstream_wrote_for_this_host_is_taken_over(self, world: World) -> None:
        world.put_leases({"10.1.177.0-24": peer_value("192.0.2.11")})
        (host,) = start(world, VXLAN, 1)
        assert str(host.subnet) == "10.1.177.0/24"
        assert value_of(world, "10.1.177.0-24")["NodeID"]

    def test_a_host_without_a_place_for_its_identity_is_served(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1, "-state-dir=/proc/no")
        assert "NodeID" not in value_of(world, key_of(host))
        assert host.daemon.log.count("cannot write /proc/no") <= 2
        host.daemon.kill()
        host.start_flanneld("-iface=eth0", "-state-dir=/proc/no").wait_ready()


class TestOptions:
    def test_a_lease_has_the_lifetime_of_its_flag(self, world: World) -> None:
        (host,) = start(world, ALLOC, 1, "-subnet-lease-ttl=1h")
        assert 3500 < world.leases()[key_of(host)]["ttl"] <= 3600

    def test_a_lease_that_is_released_on_exit_ends_within_seconds(self, world: World) -> None:
        (host,) = start(world, ALLOC, 1, "-release-on-exit")
        assert host.daemon.stop() == 0
        # On a busy machine the answer may come too late; it is written all the same.
        assert re.search("released lease|cannot release lease .*no answer in time", host.daemon.log)
        wait_for(lambda: world.leases() == {}, 30, "the lease to end")

    def test_a_release_does_not_delay_the_end_while_etcd_is_unreachable(self, world: World) -> None:
        (host,) = start(world, ALLOC, 1, "-release-on-exit")
        world.stop_etcd(signal.SIGSTOP)
        assert host.daemon.stop() == 0
        assert re.search("cannot release lease .*no answer in time", host.daemon.log)


class TestConfigChanges:
    def test_a_running_network_follows_its_config(self, world: World) -> None:
        one, other = start(world, VXLAN, 2)
        leases = world.leases().keys()
        world.configure("{")
        one.daemon.wait_log("it is not JSON.*still serving")
        world.configure('{"Network":"127.0.0.0/8"}')
        one.daemon.wait_log("must not overlap 127.0.0.0/8.*still serving")
        world.configure('{"Network":"192.0.0.0/16"}')
        one.daemon.wait_log(
            r"cannot use network 192\.0\.0\.0/16 on this host: .*still serving the previous one"
        )
        world.etcdctl("rm", f"{PREFIX}/config")
        one.daemon.wait_log(
            "there is no network config at .* any more; still serving the previous one"
        )
        world.configure({**VXLAN, "SubnetMax": "10.1.254.0"})
        one.daemon.wait_log(r"SubnetMax 10\.1\.239\.0 is 10\.1\.254\.0 now")
        assert "starting over" not in one.daemon.log
        world.configure(HOST_GW)
        one.daemon.wait_log("Backend.Type vxlan is host-gw now.*; starting over")
        for host, peer in ((one, other), (other, one)):
            wait_no_vxlan(host)
            wait_overlay(host, peer.subnet)
        assert world.leases().keys() == leases
        assert ping(one.add_container(1), other.add_container(1).address, 30) is not None

    def test_sigterm_during_a_change_ends_it(self, world: World) -> None:
        (host,) = start(world, UDP, 1)
        for threads in (2, 1, 2, 1, 2):
            world.configure({**UDP, "Backend": {"Type": "udp", "Threads": threads}})
            assert host.daemon.stop() == 0  # a signal that is lost would take it too long
            host.start_flanneld("-iface=eth0").wait_ready()


POISON = {
    "foo": "bar",
    "999.1.1.0-24": peer_value("192.0.2.60"),
    "10.1.60.0-33": peer_value("192.0.2.60"),
    "9" * 20: peer_value("192.0.2.60"),
    "10.1.60.7-24": peer_value("192.0.2.60"),
    "x10.1.60.0-24": peer_value("192.0.2.60"),
    "$(reboot)": peer_value("192.0.2.60"),
    "10.1.61.0-24": "",
    "10.1.62.0-24": "{",
    "10.1.63.0-24": "null",
    "10.1.64.0-24": "[]",
    "10.1.65.0-24": "7",
    "10.1.66.0-24": "x" * 500_000,
    "10.1.67.0-24": "[" * 100_000,
    "10.1.68.0-24": "\0",
    "10.1.69.0-24": "{}",
    "10.1.80.0-24": '{"PublicIP":7}',
    "10.1.81.0-24": peer_value("fe80::1"),
    "10.1.82.0-24": peer_value("0.0.0.0"),
    "10.1.83.0-24": peer_value("224.0.0.1"),
    "10.1.84.0-24": peer_value("255.255.255.255"),
    "10.1.85.0-24": peer_value("127.0.0.1"),
    "10.1.86.0-24": peer_value("10.1.86.1"),
    "10.1.87.0-24": peer_value("192.0.2.87", "02:00"),
    "10.1.88.0-24": peer_value("192.0.2.88", "02:00:00:00:00:00:00:01"),
    "10.1.89.0-24": peer_value("192.0.2.89", "01:00:5e:00:00:01"),
    "10.1.90.0-24": peer_value("192.0.2.90", "00:00:00:00:00:00"),
    "10.1.91.0-24": '{"PublicIP":"192.0.2.91","BackendType":"vxlan"}',
    "10.1.92.0-24": '{"PublicIP":"192.0.2.92","BackendType":"warp"}',
    "10.1.93.0-24": peer_value("192.0.2.93")[:-1] + ',"NodeID":7}',
    "0.0.0.0-0": peer_value("192.0.2.60"),
    "0.0.0.0-1": peer_value("192.0.2.60"),
    "127.0.0.0-8": peer_value("192.0.2.60"),
    "192.0.2.0-24": peer_value("192.0.2.60"),
    "192.0.2.1-32": peer_value("192.0.2.60"),
    "224.0.0.0-4": peer_value("192.0.2.60"),
    "10.2.1.0-24": peer_value("192.0.2.60"),
    "10.1.0.0-16": peer_value("192.0.2.60"),
    "10.1.94.0-25": peer_value("192.0.2.60"),
}


def test_all_malformed_leases_at_once_disturb_no_host_and_are_named_once(world: World) -> None:
    (host,) = start(world, VXLAN, 1)
    routes = host.run("ip", "route")
    world.put_leases({**POISON, "10.1.70.0-24": peer_value("192.0.2.70")})
    wait_overlay(host, "10.1.70.0/24")
    wait_for(lambda: len(log_lines(host, "WARNING")) >= len(POISON), 30, "all to be named")
    kept = [line for line in host.run("ip", "route").splitlines() if "10.1.70.0" not in line]
    assert kept == routes.splitlines()
    warnings = log_lines(host, "WARNING")
    assert len(warnings) == len(set(warnings)) == len(POISON)
    for key in POISON:
        names = (key, key[:100], key.replace("-", "/"))
        lines = [f"{line} ".replace('"', " ") for line in warnings]
        assert [line for line in lines if any(f"{name} " in line for name in names)], key
    world.put_leases({"10.1.71.0-24": peer_value("192.0.2.71", "02:00:00:00:00:71")})
    wait_overlay(host, "10.1.70.0/24", "10.1.71.0/24")  # it still hears
    host.daemon.kill()
    host.start_flanneld("-iface=eth0").wait_ready()  # and starts with all of that
    wait_overlay(host, "10.1.70.0/24", "10.1.71.0/24")
