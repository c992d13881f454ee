"""The packets that pass, and do not pass, between hosts whose flanneld keeps the firewall."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from firewalls import (
    CONFIG,
    IPTABLES,
    TOOLS,
    only,
)
from namespaces import Namespace, wait_for
from pings import ping
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from world import Host, World

from flannel.firewall.nft_table import TABLE

RECEIVE = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as receiver:
    receiver.bind(("", 7777))
    print("listening", flush=True)
    while True:
        payload, sender = receiver.recvfrom(2000)
        print(payload.decode(errors="replace"), sender[0], flush=True)
"""


class Receiver:
    """What arrives at UDP port 7777 of a namespace: ``payload source``, a line each."""

    def __init__(self, where: Namespace) -> None:
        self._process = where.popen(
            sys.executable, "-c", RECEIVE, stdout=subprocess.PIPE, text=True
        )
        assert self.next() == "listening"

    def next(self) -> str:
        assert self._process.stdout is not None
        return str(self._process.stdout.readline()).strip()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def receivers() -> Iterator[Callable[[Namespace], Receiver]]:
    made: list[Receiver] = []

    def receive(where: Namespace) -> Receiver:
        made.append(Receiver(where))
        return made[-1]

    yield receive
    for receiver in made:
        receiver.close()


def send(where: Namespace, to: object, source: object = "", payload: str = "x") -> None:
    script = (
        "import socket\n"
        "with socket.socket(type=socket.SOCK_DGRAM) as sender:\n"
        f"    sender.bind(({str(source)!r}, 0))\n"
        f"    sender.sendto({payload!r}.encode(), ({str(to)!r}, 7777))\n"
    )
    where.run(sys.executable, "-c", script)


class TestMasquerade:
    @pytest.mark.parametrize("tool", TOOLS)
    def test_containers_see_the_documented_source_addresses(
        self, world: World, tool: str, receivers: Callable[[Namespace], Receiver]
    ) -> None:
        world.configure(CONFIG)
        one, other = world.add_host("h1"), world.add_host("h2")
        path = {"PATH": only(world.directory / "bin", tool)}
        one.start_flanneld("-iface=eth0", "-ip-masq", env=path)
        other.start_flanneld("-iface=eth0", "-ip-masq", "-ip-masq-except=198.51.100.0/24,192.0.2.1")
        for host in world.hosts:
            host.daemon.wait_ready()
            assert host.subnet_env["FLANNEL_IPMASQ"] == "true"
            world.net.ip(f"route add {host.subnet} via {host.address}")
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 30) is not None
        outside, peer, local = receivers(world.net), receivers(far), receivers(near)

        send(near, "192.0.2.1")
        assert outside.next() == "x 192.0.2.11"
        send(far, "192.0.2.1")  # excepted
        assert outside.next() == f"x {far.address}"
        send(near, far.address)  # within the overlay
        assert peer.next() == f"x {near.address}"
        send(one, far.address, one.address)  # from elsewhere into it: answers must come back
        assert peer.next() == f"x {one.subnet.network_address}"
        send(world.net, near.address)  # from elsewhere to a container of the host itself
        assert local.next() == "x 192.0.2.1"

    def test_flanneld_does_not_masquerade_without_its_flag(self, world: World) -> None:
        world.configure(CONFIG)
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0").wait_ready()
        assert host.subnet_env["FLANNEL_IPMASQ"] == "false"
        assert "masquerade" not in host.run("nft", "list", "ruleset").lower()


class TestForward:
    @IPTABLES
    def test_packets_pass_the_policy_of_docker_whichever_starts_first(
        self, world: World, iptables: str
    ) -> None:
        world.configure(CONFIG)
        one, other = world.add_host("h1"), world.add_host("h2")
        one.run(iptables, "-P", "FORWARD", "DROP")  # docker first
        path = {"PATH": only(world.directory / "bin", "nft", iptables)}
        for host in (one, other):
            host.start_flanneld("-iface=eth0", "-iptables-resync=1", env=path)
        for host in (one, other):
            host.daemon.wait_ready()
        other.run(iptables, "-P", "FORWARD", "DROP")  # docker second
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 30) is not None
        # In one command: between two, flanneld may restore rules, and the second then fails.
        nothing = r"*filter\n:FORWARD DROP\nCOMMIT\n"
        one.run("sh", "-c", f"printf '{nothing}' | {iptables}-restore")
        assert ping(near, far.address, 30) is not None
        one.daemon.wait_log("repaired the firewall: chains of iptables were changed")

    def test_the_forward_chain_is_left_alone_without_its_flag(self, world: World) -> None:
        world.configure(CONFIG)
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0", "-iptables-forward-rules=false").wait_ready()
        assert "FLANNEL" not in host.run("iptables-save")


class TestGuard:
    def test_forged_packets_of_a_host_without_a_lease_are_dropped_and_counted(
        self, world: World, receivers: Callable[[Namespace], Receiver]
    ) -> None:
        world.configure(CONFIG)
        one, peer, stranger = (world.add_host(name) for name in ("h1", "h2", "stranger"))
        for host in (one, peer):
            host.start_flanneld("-iface=eth0", "-guard=false")
        for host in (one, peer):
            host.daemon.wait_ready()
        near, far = one.add_container(1), peer.add_container(1)
        assert ping(near, far.address, 30) is not None
        at_container, at_host = receivers(near), receivers(one)
        forged = forge(one, peer, near.address)
        # The packets are good enough to get in where nobody guards.
        send_frames(stranger, forged)
        assert at_container.next().startswith("from a stranger")

        one.daemon.stop()
        one.start_flanneld("-iface=eth0").wait_ready()
        send(far, near.address, payload="before")
        send(peer, one.subnet.network_address, payload="before")
        for receiver in (at_container, at_host):
            while not receiver.next().startswith("before "):
                pass
        send_frames(stranger, forged)
        # A container has CAP_NET_RAW in docker, and its host hears VXLAN on docker0 as well.
        send_frames(near, forge_from_container(one, peer, near))
        counters = {"unknown_peer": 6, "spoofed": 2, "not_mine": 1, "wrong_interface": 1}
        wait_for(lambda: dropped(one) == counters, 30, lambda: f"{counters}, not {dropped(one)}")
        send(far, near.address, payload="genuine")
        send(peer, one.subnet.network_address, payload="genuine")
        assert at_container.next() == f"genuine {far.address}"
        assert at_host.next() == f"genuine {peer.subnet.network_address}"
        assert dropped(one) == counters

    def test_a_new_peer_is_let_in_and_one_that_left_is_not(self, world: World) -> None:
        world.configure(CONFIG)
        one, other = world.add_host("h1"), world.add_host("h2")
        one.start_flanneld("-iface=eth0").wait_ready()
        other.start_flanneld("-iface=eth0").wait_ready()
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 30) is not None
        other.daemon.stop()
        key = str(other.subnet).replace("/", "-")
        world.etcdctl("rm", f"/coreos.com/network/subnets/{key}")
        peers = ("nft", "list", "set", "ip", TABLE, "peers")
        wait_for(lambda: str(other.address) not in one.run(*peers), 30, "the set without the peer")


def forge(one: Host, peer: Host, container: IPv4Address) -> list[bytes]:
    """Eight kinds of VXLAN packets as frames for h1's eth0; the last needs two."""
    mine, theirs = one.subnet.network_address, peer.subnet.network_address
    outer_mac = mac(one, "eth0")
    inner_mac = mac(one, "flannel.1")

    def frame(
        source: object, inner_source: object, to: object, *, size: int = 0, **udp: Any
    ) -> list[bytes]:
        payload = b"from a stranger" + bytes(size)
        inner = IP(src=str(inner_source), dst=str(to)) / UDP(sport=9, dport=7777) / payload
        vxlan = VXLAN(flags=8, vni=1) / Ether(dst=inner_mac, src="02:00:00:00:00:66") / inner
        outer = (
            IP(src=str(source), dst=str(one.address)) / UDP(sport=4444, dport=8472, **udp) / vxlan
        )
        parts = fragment(outer, 800) if size else [outer]
        return [bytes(Ether(dst=outer_mac) / part) for part in parts]

    stranger = "192.0.2.13"
    return [
        *frame(stranger, theirs + 2, container),  # in the name of a peer's container
        *frame(stranger, theirs, mine),  # of the peer itself, to the host
        *frame(stranger, container + 1, container),  # of a neighbour of the victim
        *frame(stranger, "198.51.100.7", container),  # of somebody on the internet
        *frame(stranger, theirs + 2, container, chksum=0),  # without a checksum
        *frame(stranger, theirs + 2, container, size=1200),  # in fragments
        *frame(peer.address, "198.51.100.7", container),  # a peer's own address forged as well
        *frame(peer.address, container + 1, container),
        *frame(peer.address, theirs + 2, one.address),  # to relay it into the underlay
    ]


def forge_from_container(one: Host, peer: Host, container: Any) -> list[bytes]:
    inner = IP(src=str(peer.subnet[2]), dst=str(container.address)) / UDP(dport=7777) / b"forged"
    vxlan = VXLAN(flags=8, vni=1) / Ether(dst=mac(one, "flannel.1")) / inner
    outer = IP(src=str(peer.address), dst=str(one.address)) / UDP(sport=4444, dport=8472) / vxlan
    return [bytes(Ether(dst=mac(one, "docker0")) / outer)]


def mac(host: Host, link: str) -> str:
    found: str = json.loads(host.run("ip", "-j", "link", "show", link))[0]["address"]
    return found


def send_frames(where: Namespace, frames: list[bytes]) -> None:
    script = (
        "import socket, sys\n"
        "with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:\n"
        "    wire.bind(('eth0', 0))\n"
        "    for frame in sys.argv[1:]:\n"
        "        wire.send(bytes.fromhex(frame))\n"
    )
    where.run(sys.executable, "-c", script, *(frame.hex() for frame in frames))


def dropped(host: Host) -> dict[str, int]:
    """What a host has counted, by reason, without zeros."""
    listing = json.loads(host.run("nft", "-j", "list", "counters", "table", "ip", TABLE))
    found = [each["counter"] for each in listing["nftables"] if "counter" in each]
    return {each["name"]: each["packets"] for each in found if each["packets"]}
