"""Hosts with a second link to the others, and the addresses that their leases publish."""

import json
from ipaddress import IPv4Address
from typing import Any

from overlays import Pair, value_of
from world import Host, World, ping, wait_for


def add_uplink(world: World, host: Host, address: str, name: str = "eth1") -> None:
    """Put another link of the host on the bridge of all hosts, with an address."""
    port = f"q{world.hosts.index(host)}{name}"
    world.net.ip(f"link add {port} type veth peer name {name} netns {host.name}",
                 f"link set {port} master br0 up")  # fmt: skip
    host.ip(f"addr add {address} dev {name}", f"link set {name} up")


def published(world: World, host: Host) -> str:
    """The PublicIP of the host's lease; "" if it has none."""
    key = str(host.subnet).replace("/", "-")
    return str(value_of(world, key).get("PublicIP", ""))


def wait_published(world: World, host: Host, address: IPv4Address | str) -> None:
    """Wait until the host's lease has that PublicIP."""
    wait_for(
        lambda: published(world, host) == str(address),
        40,
        lambda: (
            f"{address} in the lease of {host.label}, there is {published(world, host)!r}; "
            f"{host.daemon.last_words()}"
        ),
    )


def index_of(host: Host, link: str) -> int:
    """A link's index: a different one means that the link was made anew."""
    shown = json.loads(host.run("ip", "-j", "link", "show", link))
    index: int = shown[0]["ifindex"]
    return index


def mac_of(host: Host, link: str) -> str:
    """A link's hardware address."""
    shown = json.loads(host.run("ip", "-j", "link", "show", link))
    mac: str = shown[0]["address"]
    return mac


def start_by_default_route(world: World, config: dict[str, Any]) -> Pair:
    """Two hosts whose flanneld has no flag about the interface."""
    world.configure(config)
    one, other = world.add_host("h1"), world.add_host("h2")
    one.ip("route del default", "route add default via 192.0.2.1 metric 600")
    for host in (one, other):
        host.start_flanneld()
    for host in (one, other):
        host.daemon.wait_ready()
    pair = Pair(world, one, other, one.add_container(1), other.add_container(1))
    assert ping(pair.near, pair.far.address, 30) is not None
    return pair
