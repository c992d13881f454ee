"""Senders and tools that cannot send to the tunnel's port of another host."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from attacks import (
    AS_ROOT,
    AS_USER,
    FORGED,
    PORT,
    WITH_NET_RAW,
    Catcher,
    Sending,
    datagram,
    frame,
    inner,
    mac_of,
    raw,
    send,
    tunnelled,
)
from flannel_command import findings, wait_findings
from guard_rig import Rig, build
from overlays import VXLAN, start_pair
from pings import ping
from scapy.layers.inet import IP, UDP, IPOption_NOP, fragment
from scapy.layers.l2 import Ether
from world import Host, World, wait_for

from flannel.firewall.nft_table import TABLE

IP_OPTIONS, IP_MTU_DISCOVER, SO_BINDTODEVICE = 4, 10, 25  # linux/in.h, asm-generic/socket.h
UDP_SEGMENT = 103  # linux/udp.h
NOPS = "01010101"


NFT = [("vxlan", "nft", True), ("vxlan", "nft", False), ("udp", "nft", True)]
IPTABLES = [
    ("vxlan", "iptables-nft", True),
    ("vxlan", "iptables-legacy", True),
    ("udp", "iptables-legacy", True),
]


def kind_id(kind: tuple[str, str, bool]) -> str:
    return f"{kind[0]}-{kind[1]}{'' if kind[2] else '-unmasqueraded'}"


@pytest.fixture(scope="class", params=NFT + IPTABLES, ids=kind_id)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    with World() as world, ExitStack() as stack:
        yield build(world, request.param, stack)


def by_socket(sending: Sending) -> Callable[[Rig, bytes], list[Sending]]:
    """A way to send a payload; with address and port of the second host where it has none."""

    def make(rig: Rig, payload: bytes) -> list[Sending]:
        to = sending.to or (str(rig.hosts[1].address), 0)
        return [replace(sending, data=payload, to=(to[0], rig.port, *to[2:]))]

    return make


PLAIN = Sending("AF_INET", "SOCK_DGRAM", 0, b"", None)
ORDINARY = {
    "plain": by_socket(PLAIN),
    "from a chosen port": by_socket(replace(PLAIN, bind=("0.0.0.0", 45678))),
    "with IPv4 options": by_socket(
        replace(PLAIN, options=((socket.IPPROTO_IP, IP_OPTIONS, NOPS),))
    ),
    "from an IPv6 socket": by_socket(
        replace(PLAIN, family="AF_INET6", to=("::ffff:192.0.2.12", 0, 0, 0))
    ),
    "in fragments": lambda rig, payload: by_socket(
        replace(PLAIN, options=((socket.IPPROTO_IP, IP_MTU_DISCOVER, 0),))
    )(rig, payload + bytes(4000)),
    "as the second of two segments": lambda rig, payload: by_socket(
        replace(PLAIN, options=((socket.IPPROTO_UDP, UDP_SEGMENT, len(payload)),))
    )(rig, bytes(len(payload)) + payload),
    "to a second address": by_socket(replace(PLAIN, to=("192.0.2.112", 0))),
    "over a second network": by_socket(replace(PLAIN, to=("198.51.100.12", 0))),
}
ON_THE_HOST = {
    **ORDINARY,
    "out of the external interface": by_socket(
        replace(PLAIN, options=((socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0".hex()),))
    ),
    "with the lease's source over a second network": by_socket(
        replace(PLAIN, to=("198.51.100.12", 0), bind=("192.0.2.11", 0))
    ),
}


def outer(rig: Rig, payload: bytes, source: object, to: object = "192.0.2.12") -> IP:
    return IP(src=str(source), dst=str(to)) / UDP(sport=45678, dport=rig.port) / payload


def in_fragments(rig: Rig, payload: bytes, source: object) -> list[Sending]:
    """The first one has nothing but the header of UDP."""
    whole = bytes(outer(rig, payload, source))
    head, body = whole[:20], whole[20:]
    parts = []
    for at, piece in ((0, body[:8]), (8, body[8:])):
        flags = "MF" if at == 0 else ""
        part = IP(head)
        part.flags, part.frag, part.id = flags, at // 8, 4711
        del part.len, part.chksum
        part.remove_payload()
        parts.append(raw(bytes(part / piece)))
    return parts


RAW: dict[str, Callable[[Rig, bytes], list[Sending]]] = {
    "of its own address": lambda rig, data: [
        raw(bytes(outer(rig, data, rig.containers[0].address)))
    ],
    "of a peer's address": lambda rig, data: [raw(bytes(outer(rig, data, "192.0.2.13")))],
    "of a peer's address, over a second network": lambda rig, data: [
        raw(bytes(outer(rig, data, "192.0.2.13", "198.51.100.12")))
    ],
    "of an address of the internet": lambda rig, data: [
        raw(bytes(outer(rig, data, "203.0.113.7")))
    ],
    "with IPv4 options": lambda rig, data: [
        raw(
            bytes(
                IP(src=str(rig.containers[0].address), dst="192.0.2.12",
                   options=[IPOption_NOP()] * 40)
                / UDP(sport=45678, dport=rig.port) / data
            )
        )
    ],
    "in fragments, the first of 8 bytes": lambda rig, data: in_fragments(
        rig, data, rig.containers[0].address
    ),
    "in fragments of scapy": lambda rig, data: [
        raw(bytes(part))
        for part in fragment(outer(rig, data + bytes(2000), rig.containers[0].address), 800)
    ],
}  # fmt: skip


class TestInjection:
    """Datagrams to the tunnel's port that the tunnel has not sent."""

    @pytest.mark.parametrize("way", ON_THE_HOST)
    def test_a_user_of_the_host_cannot_send_forged_packets(self, rig: Rig, way: str) -> None:
        self.attack(
            rig, lambda sendings: send(rig.hosts[0], AS_USER, *sendings), way, ON_THE_HOST[way]
        )

    @pytest.mark.parametrize("way", ORDINARY)
    def test_a_container_without_capabilities_cannot_send_them(self, rig: Rig, way: str) -> None:
        container = rig.containers[0]
        self.attack(rig, lambda sendings: send(container, AS_USER, *sendings), way, ORDINARY[way])

    @pytest.mark.parametrize("way", ORDINARY)
    def test_a_container_of_another_network_cannot_send_them(self, rig: Rig, way: str) -> None:
        self.attack(rig, lambda sendings: send(rig.other, AS_USER, *sendings), way, ORDINARY[way])

    @pytest.mark.parametrize("way", RAW)
    def test_a_container_with_net_raw_cannot_send_them(self, rig: Rig, way: str) -> None:
        container = rig.containers[0]
        self.attack(rig, lambda sendings: send(container, WITH_NET_RAW, *sendings), way, RAW[way])

    def attack(
        self,
        rig: Rig,
        sending: Callable[[list[Sending]], object],
        way: str,
        make: Callable[[Rig, bytes], list[Sending]],
    ) -> None:
        rig.newly_dropped(0), rig.newly_dropped(1)
        sending([each for name in rig.names for each in make(rig, rig.payload(name))])
        assert rig.caught() == []
        if rig.backend == "udp" and "second" in way:
            return  # flanneld listens at one address alone
        here, there = Counter[str](), Counter[str]()

        def are_dropped() -> bool:
            here.update(rig.newly_dropped(0))
            there.update(rig.newly_dropped(1))
            n_dropped = here["tx_injected"]
            if rig.tool != "nft":  # iptables does not know all of them: the peer drops the rest
                n_dropped += there.total()
            return n_dropped >= len(rig.names)

        wait_for(are_dropped, 30, lambda: f"{len(rig.names)} drops, not {here}, {there}")


class TestArrival:
    def test_a_container_does_not_reach_its_own_host_under_a_peers_address(self, rig: Rig) -> None:
        a, b, _ = rig.hosts
        near, far = rig.containers[:2]
        payload, port = tunnelled(rig.backend, inner(far.address, near.address), a)
        forged = IP(src=str(b.address), dst=str(a.address)) / UDP(sport=port, dport=port) / payload
        rig.newly_dropped()
        with Catcher(near) as catcher:
            for container in (near, rig.other):
                send(container, WITH_NET_RAW, raw(bytes(forged)))
            assert catcher.caught(far, near.address) == []
        rig.wait_dropped({"wrong_interface": 2})


@pytest.mark.parametrize("rig", NFT, indirect=True, ids=kind_id, scope="class")
class TestTranslation:
    """Datagrams that are not addressed to the tunnel's port, until the host translates them.

    In iptables nothing is filtered after addresses have been translated.
    """

    def test_a_nat_rule_for_what_the_host_sends_cannot_be_used(self, rig: Rig) -> None:
        a, b, _ = rig.hosts
        to = f"{b.address}:{rig.port}"
        with translating(a, "output", f"ip daddr 203.0.113.1 meta l4proto udp dnat to {to}"):
            for port in (1000, rig.port):
                rig.newly_dropped()
                for name in rig.names:
                    send(a, AS_USER, datagram(rig.payload(name), "203.0.113.1", port))
                assert rig.caught() == []
                rig.wait_dropped({"tx_injected": len(rig.names)})

    def test_the_answer_to_a_forged_question_cannot_be_used(self, rig: Rig) -> None:
        """A stranger asks a published port, from the tunnel's port of a peer."""
        a, b, _ = rig.hosts
        container = rig.containers[0]
        rule = f"ip daddr {a.address} udp dport 5000 dnat to {container.address}:5000"
        with (
            translating(a, "prerouting", rule),
            container.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        ):
            server.bind(("0.0.0.0", 5000))
            server.settimeout(120)
            question = IP(src=str(b.address), dst=str(a.address)) / UDP(sport=rig.port, dport=5000)
            link = Ether(dst=mac_of(a, "eth0")) / question / b"question"
            send(rig.world.net, AS_ROOT, frame(f"p{int(a.address) & 0xFF}", bytes(link)))
            _, asked_by = server.recvfrom(2000)
            assert asked_by == (str(b.address), rig.port)
            rig.newly_dropped()
            for name in rig.names:
                server.sendto(rig.payload(name), asked_by)
            assert rig.caught() == []
            rig.wait_dropped({"tx_injected": len(rig.names)})


@contextmanager
def translating(host: Host, hook: str, rule: str) -> Iterator[None]:
    """With a nat rule at a hook of a host; entered when flanneld has adapted its guard to it."""
    host.run("nft", f"add table ip translate; add chain ip translate c {{ type nat hook {hook} "
             f"priority -100; }}; add rule ip translate c {rule}")  # fmt: skip
    seen = ("nft", "list", "table", "ip", TABLE)
    wait_for(lambda: "proto-dst" in host.run(*seen), 30, "a guard that is adapted to nat")
    try:
        yield
    finally:
        host.run("nft", "delete", "table", "ip", "translate")


class TestHonest:
    """What must go on, while all of that is dropped."""

    def test_the_same_users_reach_the_victim_through_the_overlay(self, rig: Rig) -> None:
        honest = datagram(b"honest", rig.victim.address, PORT)
        a = rig.hosts[0]
        expected = {
            a: str(a.subnet[0]),
            rig.containers[0]: str(rig.containers[0].address),
        }
        if rig.masquerade:
            expected[rig.other] = str(a.subnet[0])
        for sender, source in expected.items():
            rig.newly_dropped()
            send(sender, AS_USER, honest)
            assert rig.newly_dropped() == {}
            assert rig.caught() == [(b"honest", source)]

    def test_other_datagrams_to_that_port_pass(self, rig: Rig) -> None:
        """Those of another tunnel, and those for a client that happens to have the port."""
        outside = "192.0.2.1"
        other_vni = bytes.fromhex("0800000000002a00") + bytes(60)
        payloads = [other_vni, b"short"] if rig.backend == "vxlan" else [bytes(30)]
        for sender in (rig.hosts[0], rig.containers[0], rig.other):
            sendings = [datagram(each, outside, rig.port) for each in payloads]
            rig.newly_dropped()
            send(sender, AS_USER, *sendings)
            assert rig.newly_dropped() == {}

    def test_containers_may_run_the_same_protocol_between_them(self, rig: Rig) -> None:
        """A cluster within the cluster: the port and the VNI are the same."""
        within = datagram(rig.payload(rig.names[0]), rig.victim.address, rig.port)
        with rig.victim.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("0.0.0.0", rig.port))
            receiver.settimeout(120)
            rig.newly_dropped()
            send(rig.containers[0], AS_USER, within)
            assert rig.newly_dropped() == {}
            assert receiver.recv(2000).endswith(FORGED)


def test_a_rule_that_uses_the_bit_is_named_by_check(world: World) -> None:
    pair = start_pair(world, VXLAN)
    wait_findings(pair.one)
    pair.one.run("iptables-nft", "-t", "mangle", "-A", "OUTPUT", "-j", "MARK",
                 "--or-mark", "0x10000000")  # fmt: skip
    assert "FLANNEL" not in findings(pair.one)["mark-conflict"]
    assert ping(pair.near, pair.far.address, 30) is not None
