"""Hosts that exchange their addresses, and machines that get the address of another."""

import json
import re
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from flannel_command import wait_check
from overlays import HOST_GW, UDP, VXLAN, is_logged_once, key_of, start, value_of, wait_value
from world import Container, Host, World, ping, wait_for


def exchange(hosts: Sequence[Host]) -> None:
    """Each host gets the address that the next one had, as from another DHCP server."""
    addresses = [each.address for each in hosts]
    for host in hosts:
        host.ip("addr flush dev eth0")
    for host, address in zip(hosts, [*addresses[1:], addresses[0]], strict=True):
        host.ip(f"addr add {address}/24 dev eth0", "route replace default via 192.0.2.1")
        host.address = address


def wait_served(world: World, hosts: Sequence[Host], containers: Sequence[Container]) -> None:
    """Wait until each lease names its host, and every container reaches every other one."""
    for host in hosts:
        wait_value(world, key_of(host), PublicIP=str(host.address))
    for one, other in permutations(containers, 2):
        assert ping(one, other.address, 30) is not None, (one.name, other.name)


class TestExchanged:
    @pytest.mark.parametrize(
        ("config", "n"),
        [(VXLAN, 2), (VXLAN, 3), (HOST_GW, 3), (UDP, 3)],
        ids=["two swap", "three rotate", "three rotate with host-gw", "three rotate with udp"],
    )
    def test_while_they_run_each_keeps_its_subnet_and_all_are_reached(
        self, world: World, config: dict[str, Any], n: int
    ) -> None:
        hosts = start(world, config, n + 1)  # one stays where it is
        containers = [host.add_container(1) for host in hosts]
        leases = world.leases().keys()
        exchange(hosts[:n])
        wait_served(world, hosts, containers)
        assert world.leases().keys() == leases
        for host in hosts:
            wait_check(host, "all is well\n")

    @pytest.mark.parametrize("first", [0, 1])
    def test_over_a_reboot_each_keeps_its_subnet(self, world: World, first: int) -> None:
        hosts = start(world, VXLAN, 3)
        containers = [host.add_container(1) for host in hosts]
        leases = world.leases().keys()
        for host in hosts[:2]:
            host.daemon.kill()
            host.ip("link del flannel.1")
        exchange(hosts[:2])
        for host in (hosts[first], hosts[1 - first]):  # the first one finds the other's old lease
            host.start_flanneld("-iface=eth0").wait_ready()
        wait_served(world, hosts, containers)
        assert world.leases().keys() == leases

    def test_while_they_run_and_then_one_boots(self, world: World) -> None:
        """The device that it makes anew has a MAC address that no other host uses."""
        hosts = start(world, VXLAN, 3)
        containers = [host.add_container(1) for host in hosts]
        exchange(hosts[:2])
        wait_served(world, hosts, containers)
        hosts[0].daemon.kill()
        hosts[0].ip("link del flannel.1")
        hosts[0].start_flanneld("-iface=eth0").wait_ready()
        wait_served(world, hosts, containers)


class TestNewMachines:
    """Those that have the address of another, and another NodeID."""

    def test_the_lease_of_one_that_is_gone_is_taken_over(self, world: World) -> None:
        one, other = start(world, VXLAN, 2, "-adopt-after=3s")
        key, subnet = key_of(one), one.subnet
        node_id = value_of(world, key)["NodeID"]
        one.daemon.kill()
        one.ip("link del flannel.1")
        for path in (one.state_dir / "node-id", one.state_dir / "state.json", one.subnet_file):
            path.unlink()
        one.start_flanneld("-iface=eth0", "-adopt-after=3s")
        line = rf"took over lease {subnet} from 192\.0\.2\.11 \(NodeID {node_id}\)"
        one.daemon.wait_log(line)
        one.daemon.wait_ready()
        assert one.subnet == subnet
        assert len(re.findall(line, one.daemon.log)) == 1
        assert value_of(world, key)["NodeID"] != node_id
        assert "AskedBy" not in value_of(world, key)
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 30) is not None

    def test_the_lease_of_one_that_runs_is_not(self, world: World) -> None:
        """Each virtual machine has 10.0.2.15, behind a NAT of its own."""
        world.configure(VXLAN)
        one, other = (world.add_host(f"h{n}") for n in (1, 2))
        for host in (one, other):
            host.ip("link add nat0 type veth peer name nat1", "link set nat1 up",
                    "addr add 10.0.2.15/24 dev nat0", "link set nat0 up")  # fmt: skip
        flags = ("-iface=nat0", "-v=1")
        one.start_flanneld(*flags).wait_ready()
        key, value = key_of(one), value_of(world, key_of(one))
        other.start_flanneld(*flags, "-adopt-after=100s")  # a live host may be paused for a while
        other.daemon.wait_log(r"has answered: it holds lease")
        one.daemon.wait_log("has our public address")
        wait_for(lambda: value_of(world, key) == value, 30, "the lease as it was")
        assert is_logged_once(one, "has our public address")
        assert world.leases().keys() == {key}
        one.daemon.kill()
        other.daemon.stop()
        other.start_flanneld(*flags, "-adopt-after=3s").wait_ready()
        assert world.leases().keys() == {key}
        assert value_of(world, key)["NodeID"] != value["NodeID"]

    def test_behind_nat_nothing_is_taken_over(self, world: World) -> None:
        flags = ("-public-ip=203.0.113.5", "-adopt-after=1s")
        (one,) = start(world, VXLAN, 1, *flags)
        before = json.dumps(value_of(world, key_of(one)))
        one.daemon.kill()
        other = world.add_host("h2")
        other.start_flanneld("-iface=eth0", *flags)
        other.daemon.wait_log("if that host is gone, .* release its lease")
        attempts = other.daemon.log.count  # said once, and tried again
        wait_for(lambda: attempts("is leased with it by another host") >= 1, 30, "a refusal")
        assert json.dumps(value_of(world, key_of(one))) == before
