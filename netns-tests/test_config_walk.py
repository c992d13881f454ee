"""A network config that changes again and again: each leaves the host as if it were the first."""

import json
import re
from typing import Any

from flannel_command import findings
from world import Host, World, ping, wait_for

RANGE = {"SubnetMin": "10.1.16.0", "SubnetMax": "10.1.239.0"}
WALK: list[tuple[str, dict[str, Any]]] = [
    ("10.1.0.0/16", {"Type": "vxlan"}),
    ("10.1.0.0/16", {"Type": "host-gw"}),
    ("10.1.0.0/16", {"Type": "udp"}),
    ("10.1.0.0/16", {"Type": "vxlan", "VNI": 7}),
    ("10.77.0.0/16", {"Type": "vxlan", "VNI": 7}),
    ("10.77.0.0/16", {"Type": "host-gw"}),
    ("10.0.0.0/12", {"Type": "udp"}),
    ("10.1.0.0/16", {"Type": "udp"}),
    ("10.1.0.0/16", {"Type": "alloc"}),
]


def config(network: str, backend: dict[str, Any]) -> dict[str, Any]:
    """All but one have subnets that the others may lease as well."""
    bounds = RANGE if network.startswith("10.1.") or network == "10.0.0.0/12" else {}
    return {"Network": network, "SubnetLen": 24, **bounds, "Backend": backend}


def tables(host: Host) -> list[str]:
    """What the kernel holds for the overlay, with names in place of what differs between hosts."""
    own = str(host.subnet).partition("/")[0]
    shown = []
    for command in (
        "-br link",
        "-4 -br addr",
        "route",
        "rule",
        "nexthop",
        "neigh show nud permanent",
    ):
        shown += [f"{command}: {line}" for line in host.run("ip", *command.split()).splitlines()]
    for device in re.findall(r"^(flannel\S+)", host.run("ip", "-br", "link"), re.MULTILINE):
        shown += host.run("bridge", "fdb", "show", "dev", device).splitlines()
    shown += host.run("nft", "list", "ruleset").splitlines()
    lines = []
    for line in shown:
        if "docker0" in line or "veth" in line:
            continue  # docker's, which follows when it is restarted
        line = re.sub(rf"\b{re.escape(own.rpartition('.')[0])}\.\d+", "OWN", line)
        line = re.sub(rf"\b{host.address}\b", "ME", line)
        line = re.sub(r"\b192\.0\.2\.\d+", "PEER", line)
        line = re.sub(r"\b10\.\d+\.\d+\.\d+(?!/1[26])", "SUBNET", line)
        line = re.sub(r"\b0x[0-9a-f]{7,8}\b", "SUBNET", line)
        line = re.sub(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", "MAC", line)
        line = re.sub(r"\bid \d+|nhid \d+|@if\d+|packets \d+ bytes \d+", "", line)
        lines.append(" ".join(re.sub(r"\b(UNKNOWN|UP)\b", "", line).split()))
    return sorted(lines)


def difference(*hosts: Host) -> str:
    """Where the tables of a host differ from the last one's; "" for nowhere."""
    *others, last = hosts
    want = tables(last)
    for host in others:
        have = tables(host)
        if have != want:
            lines = [f"- {each}" for each in want if each not in have]
            lines += [f"+ {each}" for each in have if each not in want]
            return "\n".join([f"{host.label} to be as a fresh host:", *lines])
    return ""


def wait_same(world: World, walked: list[Host], label: str) -> None:
    """Wait until hosts have what one has that has just been made."""
    fresh = world.add_host(label)
    fresh.start_flanneld("-iface=eth0").wait_ready()
    wait_for(lambda: not difference(*walked, fresh), 30, lambda: difference(*walked, fresh))
    fresh.daemon.stop()
    world.etcdctl("rm", f"/coreos.com/network/subnets/{str(fresh.subnet).replace('/', '-')}")


def test_each_config_leaves_nothing_behind_also_where_it_changes_while_flanneld_is_stopped(
    world: World,
) -> None:
    world.configure(config(*WALK[0]))
    one, other = world.add_host("h1"), world.add_host("h2")
    for host in (one, other):
        host.start_flanneld("-iface=eth0")
    for host in (one, other):
        host.daemon.wait_ready()
    for number, (network, backend) in enumerate(WALK[1:]):
        other.daemon.stop()
        world.configure(config(network, backend))
        other.start_flanneld("-iface=eth0").wait_ready()
        wait_served(one, config(network, backend))
        # docker is restarted, or it would stay in the subnet of before.
        for host in (one, other):
            if host.containers:
                host.remove_containers()
            host.add_container(1)
        if backend["Type"] != "alloc":
            wait_reached(one, other)
        wait_same(world, [one, other], f"f{number}")
    assert findings(one) == {}


def wait_reached(one: Host, other: Host) -> None:
    near, far = one.containers[0], other.containers[0]
    wait_for(
        lambda: ping(near, far.address) and ping(far, near.address),
        30,
        lambda: f"packets to pass; {one.daemon.last_words()}",
    )


def wait_served(host: Host, wanted: dict[str, Any]) -> None:
    """Wait until a host serves a config and is ready."""

    def is_served() -> bool:
        status = json.loads(host.state_dir.joinpath("state.json").read_text())
        return bool(json.loads(status["Config"]) == wanted)

    wait_for(is_served, 30, lambda: f"{wanted}; {host.daemon.last_words()}")
