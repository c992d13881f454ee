"""The loop, without privileges: two sockets stand for the TUN device, loopback for the net."""

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import loopback
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw
from waiting import wait_for

from flannel.backends.udp import _dataplane
from flannel.backends.udp.dataplane import DROPS, ENCAP_LEN, Dataplane, Settings, pack_route

CSRC = Path(__file__).parents[3] / "csrc"
NO_VNET = bytes(10)  # struct virtio_net_hdr
OWN, PEER = IPv4Network("10.1.15.0/24"), IPv4Network("10.1.16.0/24")
HOST, PEER_HOST, STRANGER = (loopback.address(n) for n in (1, 2, 3))
TOO_BIG = bytes(1445)
"""A byte more of UDP payload than fits an MTU of 1472."""


class Loop:
    """A running loop: `tun` is the kernel's side of its device, `peer` a host that it knows."""

    def __init__(self) -> None:
        self.tun, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((str(HOST), 0))
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = self.udp.getsockname()[1]
        # All hosts have one port: the peer is another address of loopback.
        self.peer.bind((str(PEER_HOST), self.port))
        for each in (self.tun, self.peer):
            each.settimeout(100)
        network = IPv4Network("10.1.0.0/16")
        self.dataplane = Dataplane(Settings(network, OWN, 1472, self.port, merge_udp=True))
        self.dataplane.set_routes([pack_route(PEER, PEER_HOST)])
        self.stop = os.eventfd(0)
        self.device = device
        run = (device.fileno(), self.udp.fileno(), self.stop)
        self.thread = threading.Thread(target=self.dataplane.run, args=run)
        self.thread.start()

    def close(self) -> None:
        os.eventfd_write(self.stop, 1)
        self.thread.join(100)
        assert not self.thread.is_alive()
        os.close(self.stop)
        for each in (self.tun, self.device, self.udp, self.peer):
            each.close()

    def wait(self, counter: str, value: int = 1) -> None:
        """Wait until a counter has a value."""
        wait_for(lambda: self.dataplane.stats()[counter] == value, f"{counter} of {value}")


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def packet(
    src: str, dst: str, *, ttl: int = 64, flags: str = "", payload: bytes = b"payload"
) -> bytes:
    return bytes(IP(src=src, dst=dst, ttl=ttl, flags=flags) / UDP(sport=7, dport=9) / Raw(payload))


def test_a_packet_leaves_as_the_payload_of_one_datagram_with_a_hop_less(loop: Loop) -> None:
    loop.tun.send(NO_VNET + packet("10.1.15.2", "10.1.16.2"))
    received, source = loop.peer.recvfrom(2000)
    assert received == packet("10.1.15.2", "10.1.16.2", ttl=63)
    assert source == (str(HOST), loop.port)


def test_a_packet_from_a_peer_arrives_with_a_hop_less_and_without_what_trailed_it(
    loop: Loop,
) -> None:
    sent = packet("10.1.16.2", "10.1.15.2")
    loop.peer.sendto(sent + b"trailing", (str(HOST), loop.port))
    assert loop.tun.recv(70000)[10:] == packet("10.1.16.2", "10.1.15.2", ttl=63)


def test_a_super_packet_leaves_as_segments_that_scapy_would_build(loop: Loop) -> None:
    data = bytes(range(256)) * 12
    headers = IP(src="10.1.15.2", dst="10.1.16.2", flags="DF", id=7)
    whole = bytes(headers / TCP(sport=7, dport=9, seq=1000, flags="PA") / Raw(data))
    loop.tun.send(struct.pack("=BBHHHH", 1, 1, 40, 1000, 20, 16) + whole)
    for n in range(4):
        part = data[n * 1000 : (n + 1) * 1000]
        headers = IP(src="10.1.15.2", dst="10.1.16.2", flags="DF", id=7 + n, ttl=63)
        flags = "PA" if n == 3 else "A"
        tcp = TCP(sport=7, dport=9, seq=1000 + n * 1000, flags=flags)
        assert loop.peer.recv(2000) == bytes(headers / tcp / Raw(part))


@pytest.mark.parametrize(
    ("source", "data", "counter"),
    [
        (STRANGER, packet("10.1.16.2", "10.1.15.2"), "rx_unknown_peer"),
        (PEER_HOST, packet("10.1.17.2", "10.1.15.2"), "rx_spoofed"),
        (PEER_HOST, packet("10.1.15.3", "10.1.15.2"), "rx_spoofed"),
        (PEER_HOST, packet("10.1.16.2", "10.1.17.2"), "rx_not_mine"),
        (PEER_HOST, packet("10.1.16.2", "224.0.0.1"), "rx_not_mine"),
        (PEER_HOST, packet("10.1.16.2", "10.1.15.2", flags="DF", payload=TOO_BIG), "rx_too_big"),
        (PEER_HOST, packet("10.1.16.2", "10.1.15.2", ttl=0), "rx_ttl"),
        (PEER_HOST, b"", "rx_short"),
        (PEER_HOST, b"\x45" + bytes(18), "rx_short"),
        (PEER_HOST, b"\x60" + bytes(39), "rx_malformed"),
        (PEER_HOST, packet("10.1.16.2", "10.1.15.2")[:-1], "rx_malformed"),
    ],
)
def test_packets_that_may_not_be_carried_are_counted_and_dropped(
    loop: Loop, source: IPv4Address, data: bytes, counter: str
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        if source != PEER_HOST:
            sender.bind((str(source), 0))
        (loop.peer if source == PEER_HOST else sender).sendto(data, (str(HOST), loop.port))
    loop.wait(counter)
    loop.peer.sendto(packet("10.1.16.9", "10.1.15.9"), (str(HOST), loop.port))
    assert IP(loop.tun.recv(70000)[10:]).src == "10.1.16.9"


@pytest.mark.parametrize(
    ("data", "counter", "type_", "code"),
    [
        (packet("10.1.15.2", "10.1.99.2"), "tx_no_route", 3, 0),
        (packet("10.1.15.2", "10.1.16.2", ttl=1), "tx_ttl", 11, 0),
    ],
)
def test_a_sender_gets_the_reason_why_its_packet_was_dropped(
    loop: Loop, data: bytes, counter: str, type_: int, code: int
) -> None:
    loop.tun.send(NO_VNET + data)
    error = IP(loop.tun.recv(70000)[10:])
    assert (error[ICMP].type, error[ICMP].code) == (type_, code)
    assert (error.src, error.dst) == ("10.1.0.0", "10.1.15.2")
    assert bytes(error[ICMP].payload) == data
    loop.wait(counter)


def test_a_sender_with_many_errors_does_not_use_up_the_errors_of_other_senders(loop: Loop) -> None:
    began = time.monotonic()
    for _ in range(50):
        loop.tun.send(NO_VNET + packet("10.1.15.2", "10.1.99.2"))
    loop.wait("tx_no_route", 50)
    loop.tun.send(NO_VNET + packet("10.1.15.3", "10.1.99.2"))
    told: list[str] = []
    while not told or told[-1] != "10.1.15.3":
        told.append(IP(loop.tun.recv(70000)[10:]).dst)
    n_seconds = int(time.monotonic()) - int(began) + 1  # that have begun meanwhile
    assert len(told) <= n_seconds * 10 + 1
    assert loop.dataplane.stats()["icmp_limited"] == 51 - len(told)


def test_consecutive_segments_arrive_as_one_super_packet(loop: Loop) -> None:
    def segment(n: int) -> bytes:
        ip = IP(src="10.1.16.2", dst="10.1.15.2", flags="DF", id=n)
        return bytes(ip / TCP(sport=7, dport=9, seq=n * 1000, flags="A") / Raw(bytes(1000)))

    loop.udp.setsockopt(socket.IPPROTO_UDP, 104, 1)
    option = [(socket.IPPROTO_UDP, 103, struct.pack("=H", 1040))]
    segments = b"".join(segment(n) for n in range(8))
    loop.peer.sendmsg([segments], option, 0, (str(HOST), loop.port))
    received = loop.tun.recv(70000)
    assert received[:10] == struct.pack("=BBHHHH", 1, 1, 40, 1000, 20, 16)
    assert len(received) == 10 + 40 + 8000


@pytest.mark.parametrize(("ecn", "outer"), [(False, 0), (True, 2)])
def test_a_datagram_has_the_ecn_of_its_packet_where_all_hosts_know_that(
    loop: Loop, ecn: bool, outer: int
) -> None:
    network = IPv4Network("10.1.0.0/16")
    loop.dataplane.set(Settings(network, OWN, 1472, loop.port, ecn=ecn))
    loop.peer.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    loop.tun.send(NO_VNET + bytes(IP(src="10.1.15.2", dst="10.1.16.2", tos=0xBA)))
    data, control, _, _ = loop.peer.recvmsg(2000, 100)
    assert IP(data).tos == 0xBA
    assert [value[0] for _, kind, value in control if kind == socket.IP_TOS] == [outer]


def test_routes_are_replaced_while_it_runs(loop: Loop) -> None:
    loop.dataplane.set_routes([])
    loop.tun.send(NO_VNET + packet("10.1.15.2", "10.1.16.2"))
    loop.wait("tx_no_route")
    with pytest.raises(OSError, match="cannot set routes: File exists"):
        loop.dataplane.set_routes([pack_route(PEER, HOST), pack_route(PEER, HOST)])


def test_the_tunnel_costs_an_ip_and_a_udp_header() -> None:
    assert len(bytes(IP() / UDP())) == ENCAP_LEN


def test_the_documents_explain_every_counter_of_drops_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs/troubleshoot.md").read_text()
    table = text.partition("## What the drop counters mean")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| ((?:`\w+`(?:, )?)+) \|", table)
    assert set(re.findall(r"\w+", " ".join(rows))) == {*DROPS, "icmp_limited"}  # the last row


def test_each_counter_has_one_place_in_the_statistics() -> None:
    stats = Dataplane(Settings(IPv4Network("10.1.0.0/16"), OWN, 1472, 8285)).stats()
    fields = re.findall(r"uint64_t (\w+);", (CSRC / "dataplane.cdef").read_text())
    assert sorted(fields) == sorted(stats)
    assert set(stats) > set(DROPS)


def test_the_module_fits_every_python_from_here_on() -> None:
    assert Path(_dataplane.__file__).name == "_dataplane.abi3.so"


def test_production_has_no_window_on_internals() -> None:
    assert all(name.lower().startswith("flannel_") for name in dir(_dataplane.lib))
