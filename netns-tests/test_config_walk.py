"""A network config that changes again and again: each leaves the host as if it were the first."""

import json
import re
from contextlib import ExitStack
from typing import Any

from flannel_command import wait_findings
from world import Host, Pinger, World, ping, wait_for

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


def wait_same(world: World, walked: list[Host], label: str) -> Host:
    """Wait until hosts have what one has that has just been made, and return that one."""
    fresh = world.add_host(label)
    fresh.start_flanneld("-iface=eth0").wait_ready()
    wait_for(lambda: not difference(*walked, fresh), 30, lambda: difference(*walked, fresh))
    return fresh


def remove(world: World, fresh: Host) -> None:
    fresh.daemon.stop()
    world.etcdctl("rm", f"/coreos.com/network/subnets/{str(fresh.subnet).replace('/', '-')}")


class Flow:
    """Pings between containers of two hosts, all the while; those lost are counted by stretch."""

    def __init__(self, one: Host, other: Host) -> None:
        self._hosts = (one, other)
        self._stack = ExitStack()
        self._lost_before = 0
        self._start()

    def _start(self) -> None:
        near, far = (host.add_container(1) for host in self._hosts)
        pinger = Pinger(near, far.address, 50)
        pinger.patience = 0  # what is lost in a change is not waited for
        self._pinger = self._stack.enter_context(pinger)
        self._counted = 0

    def end(self) -> None:
        """Send no more."""
        self._stack.close()

    def follow(self) -> None:
        """Restart docker where its host has got another subnet, as docs/operate.md asks for."""
        if any(host.containers[0].address not in host.subnet for host in self._hosts):
            self.end()
            self._lost_before = self._pinger.lost_between(self._counted, self._pinger.sent)
            for host in self._hosts:
                host.remove_containers()
            self._start()

    def wait_reached(self) -> int:
        """Wait until packets pass in both directions; return the number lost in the change."""
        near, far = (host.containers[0] for host in self._hosts)
        wait_for(
            lambda: ping(near, far.address) and ping(far, near.address),
            30,
            lambda: f"packets to pass; {self._hosts[0].daemon.last_words()}",
        )
        # The next one may have been sent before, and not been counted as that.
        since, self._counted = self._counted, self._pinger.sent + 1
        before, self._lost_before = self._lost_before, 0
        return before + self._pinger.lost_between(since, self._counted)

    def wait_steady(self) -> None:
        """Wait until each ping since `wait_reached` has its answer, and twenty at the least."""
        self._pinger.wait_sent(20)
        since, self._counted = self._counted, self._pinger.sent
        wait_for(
            lambda: not self._pinger.lost_between(since, self._counted),
            30,
            lambda: (
                f"nothing to be lost between two changes, but "
                f"{self._pinger.lost_between(since, self._counted)} of {self._counted - since} are"
            ),
        )


def test_each_config_leaves_nothing_behind_and_only_changes_lose_packets(world: World) -> None:
    """Also where the config changes while flanneld is stopped."""
    world.configure(config(*WALK[0]))
    one, other = world.add_host("h1"), world.add_host("h2")
    for host in (one, other):
        host.start_flanneld("-iface=eth0")
    for host in (one, other):
        host.daemon.wait_ready()
    flow = Flow(one, other)
    try:
        flow.wait_reached()
        for number, (network, backend) in enumerate(WALK[1:]):
            flow.wait_steady()
            other.daemon.stop()
            world.configure(config(network, backend))
            other.start_flanneld("-iface=eth0").wait_ready()
            wait_served(one, config(network, backend))
            flow.follow()
            fresh = wait_same(world, [one, other], f"f{number}")
            if backend["Type"] != "alloc":
                print(f"{flow.wait_reached()} pings of 50 a second lost: {network}, {backend}")
            remove(world, fresh)
    finally:
        flow.end()
    wait_findings(one)


def wait_served(host: Host, wanted: dict[str, Any]) -> None:
    """Wait until a host serves a config and is ready."""

    def is_served() -> bool:
        status = json.loads(host.state_dir.joinpath("state.json").read_text())
        return bool(json.loads(status["Config"]) == wanted)

    wait_for(is_served, 30, lambda: f"{wanted}; {host.daemon.last_words()}")
    network = wanted["Network"]
    wait_for(lambda: host.subnet_env["FLANNEL_NETWORK"] == network, 30, f"{network} in subnet.env")
