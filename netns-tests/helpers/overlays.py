"""Hosts whose daemons serve a network, and the routes that they have then."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from world import Container, Host, World, ping, wait_for

VXLAN = {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}
HOST_GW = {"Network": "10.1.0.0/16", "Backend": {"Type": "host-gw"}}
UDP = {"Network": "10.1.0.0/16"}
SMALL = {"Network": "10.1.0.0/22", "SubnetLen": 24, "Backend": {"Type": "alloc"}}  # three subnets
RANGE = {"SubnetMin": "10.1.100.0", "SubnetMax": "10.1.239.0"}
ALL = pytest.mark.parametrize("config", [VXLAN, HOST_GW, UDP], ids=["vxlan", "host-gw", "udp"])
_TROUBLE = re.compile("no answer in time|the store answers again|following the leases again")
BOTH = pytest.mark.parametrize("config", [VXLAN, HOST_GW], ids=["vxlan", "host-gw"])


def start(world: World, config: dict[str, Any], n: int, *flags: str) -> list[Host]:
    """Hosts whose daemons serve ``config``, each with its lease.

    In 10.1.0.0/16 the leases are from 10.1.100.0 to 10.1.239.0: tests write theirs below, and
    nobody is above.
    """
    world.configure({**(RANGE if config["Network"] == "10.1.0.0/16" else {}), **config})
    hosts = [world.add_host(f"h{number}") for number in range(1, n + 1)]
    for host in hosts:
        host.start_flanneld("-iface=eth0", *flags)
    for host in hosts:
        host.daemon.wait_ready()
    return hosts


@dataclass(frozen=True)
class Pair:
    """Two hosts, and a container on each."""

    world: World
    one: Host
    other: Host
    near: Container
    far: Container


def start_pair(world: World, config: dict[str, Any], *flags: str) -> Pair:
    """Two hosts that serve ``config``, with containers that reach each other."""
    one, other = start(world, config, 2, *flags)
    near, far = one.add_container(1), other.add_container(1)
    assert ping(near, far.address, 30) is not None
    return Pair(world, one, other, near, far)


def start_saved(world: World, config: dict[str, Any]) -> Pair:
    """A pair whose first host has saved that it serves the other.

    When it starts again and etcd takes more than a moment to answer, it serves what was saved.
    """
    pair = start_pair(world, config)
    state = pair.one.state_dir / "state.json"
    key = key_of(pair.other)
    wait_for(lambda: state.exists() and key in state.read_text(), 30, "the peer in the saved state")
    return pair


def overlay(host: Host) -> set[str]:
    """The destinations of the host's routes into the network over other hosts."""
    shown = host.run("ip", "route", "show", "root", "10.1.0.0/16")
    return set(re.findall(r"^(\S+) .*via", shown, re.MULTILINE))


def wait_overlay(host: Host, *subnets: object) -> None:
    wanted = {str(subnet) for subnet in subnets}
    wait_for(lambda: overlay(host) == wanted, 30, lambda: f"{wanted}, there is {overlay(host)}")


def peer_value(address: str, mac: str = "02:00:00:00:00:07") -> str:
    """A vxlan lease as upstream v0.13 writes it."""
    return f'{{"PublicIP":"{address}","BackendType":"vxlan","BackendData":{{"VtepMAC":"{mac}"}}}}'


def is_logged_once(host: Host, text: str) -> bool:
    """Whether the log has ``text`` once, and again only after trouble with etcd.

    On a busy machine etcd's answers may be too late; after such trouble a text is logged again.
    """
    pieces = _TROUBLE.split(host.daemon.log)
    return max(piece.count(text) for piece in pieces) == 1


def log_lines(host: Host, level: str) -> list[str]:
    """The log's lines of a level, without those about trouble with etcd."""
    lines = re.findall(rf" {level} (.*)", host.daemon.log)
    return [line for line in lines if not _TROUBLE.search(line)]


def key_of(host: Host) -> str:
    """The last part of the key of a host's lease."""
    return str(host.subnet).replace("/", "-")


def value_of(world: World, key: str) -> dict[str, Any]:
    """The value of a lease; empty if the lease does not exist."""
    node = world.leases().get(key)
    value: dict[str, Any] = {}
    if node is not None:
        with suppress(json.JSONDecodeError):
            value = json.loads(node["value"])
    return value


def ttl_of(world: World, key: str) -> int:
    """Seconds that are left of a lease; 0 if it is not there."""
    ttl: int = world.leases().get(key, {}).get("ttl", 0)
    return ttl


def wait_value(world: World, key: str, **members: str) -> None:
    """Wait until a lease says so."""
    wait_for(
        lambda: members.items() <= value_of(world, key).items(),
        30,
        lambda: f"{members} in lease {key}, which says {value_of(world, key)}",
    )
