"""The udp backend beside a plain peer of the same wire format, and beside strangers."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from flannel_command import status_of
from packets import Sniffer, send_raw, transfer
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from world import Container, Host, World, ping, wait_for

CONFIG = {"Network": "10.1.0.0/16", "Backend": {"Type": "udp"}}
PORT = 8285
PLAIN = IPv4Network("10.1.66.0/24")
_MEBIBYTE = 1 << 20


def start_host(world: World, mtu: int = 1472) -> tuple[Host, Host]:
    """A host with our daemon and a container, and one that holds the lease ``PLAIN``.

    The other one runs no daemon of ours.
    """
    host, other = world.add_host("h1"), world.add_host("h2")
    world.configure(CONFIG)
    world.put_leases({str(PLAIN).replace("/", "-"): f'{{"PublicIP":"{other.address}"}}'})
    other.subnet_file.write_text(
        f"FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET={PLAIN[1]}/24\nFLANNEL_MTU={mtu}\n"
    )
    host.start_flanneld("-iface=eth0").wait_ready()
    host.add_container(1)
    return host, other


@contextmanager
def plain_peer(host: Host, mtu: int, *peers: Host) -> Iterator[None]:
    """plain_peer.py on ``host``, with what flanneld would set up around it."""
    program = Path(__file__).parent / "helpers/plain_peer.py"
    routes = [f"{peer.subnet}={peer.address}" for peer in peers]
    with host.popen(
        sys.executable, str(program), str(host.address), str(mtu), *routes,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            host.ip(f"link set flannel0 up mtu {mtu}", f"addr add {PLAIN[0]}/32 dev flannel0",
                    "route add 10.1.0.0/16 dev flannel0")  # fmt: skip
            yield
        finally:
            process.kill()


@contextmanager
def larger_peer(world: World) -> Iterator[tuple[Host, Container, Container]]:
    """Our host, a container on it, and one on a plain peer of a larger MTU that reaches it."""
    host, other = start_host(world, mtu=1500)
    near = host.containers[0]
    with plain_peer(other, 1500, host):
        far = other.add_container(1)
        assert ping(far, near.address, 30) is not None
        yield host, near, far


class TestPlainPeer:
    def test_a_plain_peer_and_flanneld_carry_everything_for_each_other(self, world: World) -> None:
        host, other = start_host(world)
        near = host.containers[0]
        with plain_peer(other, 1472, host):
            far = other.add_container(1)
            assert ping(near, far.address, 30) is not None
            assert ping(far, near.address, 30) is not None
            for one, address in ((near, far.address), (far, near.address)):
                for size in (0, 1444, 1445, 20_000, 65_507):
                    one.run(*f"ping -n -c1 -W30 -s{size} {address}".split())
            with transfer(near, far, far.address, 4 * _MEBIBYTE):
                pass
            with transfer(far, near, near.address, 4 * _MEBIBYTE):
                pass
            with (
                transfer(near, far, far.address, _MEBIBYTE, 2),
                transfer(far, near, near.address, _MEBIBYTE, 2),
            ):
                pass

    def test_a_peer_with_a_larger_mtu_learns_ours(self, world: World) -> None:
        with larger_peer(world) as (host, near, far):
            larger = far.try_run(*f"ping -n -c1 -W30 -Mdo -s1445 {near.address}".split())
            assert f"From {host.subnet[0]} icmp_seq=1" in larger.stdout
            assert "Frag needed and DF set (mtu = 1472)" in larger.stdout
            far.run(*f"ping -n -c1 -W30 -Mdo -s1444 {near.address}".split())

    def test_packets_without_df_are_fragmented_by_routers(self, world: World) -> None:
        """Fragments of its own MTU, and whole packets without DF: senders hear nothing of those."""
        with larger_peer(world) as (_, near, far):
            for size in (1445, 1472, 4000, 65_507):
                far.run(*f"ping -n -c1 -W30 -Mdont -s{size} {near.address}".split())


@dataclass(frozen=True)
class Forgery:
    """A datagram that our host must not open.

    :ivar outer: who sends it: a stranger, or the holder of the lease ``PLAIN``.
    :ivar source: of the packet in it; here and in ``destination`` "own.N" is of our host's subnet.
    """

    outer: str
    source: str
    destination: str
    counter: str


HOLDER, STRANGER = "holder", "stranger"
GOOD_SOURCE, CONTAINER = "10.1.66.2", "own.2"
FORGERIES = {
    "stranger": Forgery(STRANGER, GOOD_SOURCE, CONTAINER, "rx_unknown_peer"),
    "stranger in its own name": Forgery(STRANGER, "192.0.2.13", CONTAINER, "rx_unknown_peer"),
    "stranger in our name": Forgery(STRANGER, "own.3", CONTAINER, "rx_unknown_peer"),
    "of another peer": Forgery(HOLDER, "10.1.67.2", CONTAINER, "rx_spoofed"),
    "of our subnet": Forgery(HOLDER, "own.3", CONTAINER, "rx_spoofed"),
    "of our tunnel": Forgery(HOLDER, "own.0", CONTAINER, "rx_spoofed"),
    "of the underlay": Forgery(HOLDER, "192.0.2.12", CONTAINER, "rx_spoofed"),
    "of loopback": Forgery(HOLDER, "127.0.0.1", CONTAINER, "rx_spoofed"),
    "of nobody": Forgery(HOLDER, "0.0.0.0", CONTAINER, "rx_spoofed"),
    "to the underlay": Forgery(HOLDER, GOOD_SOURCE, "192.0.2.11", "rx_not_mine"),
    "to loopback": Forgery(HOLDER, GOOD_SOURCE, "127.0.0.1", "rx_not_mine"),
    "to a group": Forgery(HOLDER, GOOD_SOURCE, "224.0.0.1", "rx_not_mine"),
    "to everybody": Forgery(HOLDER, GOOD_SOURCE, "255.255.255.255", "rx_not_mine"),
    "to another host": Forgery(HOLDER, GOOD_SOURCE, "10.1.67.2", "rx_not_mine"),
    "to the internet": Forgery(HOLDER, GOOD_SOURCE, "198.51.100.1", "rx_not_mine"),
}


class TestStrangers:
    def test_no_forged_packet_is_on_the_device_and_each_is_counted(self, world: World) -> None:
        host, holder = start_host(world)
        stranger = world.add_host("h3")
        senders = {HOLDER: holder, STRANGER: stranger}
        expected = {"rx_unknown_peer": 1}  # the tunnel in the tunnel, below

        def address(text: str) -> str:
            return str(host.subnet[int(text[4:])]) if text.startswith("own.") else text

        def datagram(source: str, destination: str, mark: str) -> bytes:
            inner = IP(src=address(source), dst=address(destination)) / UDP(sport=7, dport=9)
            return bytes(inner / Raw(mark.encode()))

        with Sniffer(host, "flannel0", header_len=0) as sniffer:
            for name, forgery in FORGERIES.items():
                forged = datagram(forgery.source, forgery.destination, f"forged: {name}")
                send_datagram(senders[forgery.outer], host, forged)
                expected[forgery.counter] = expected.get(forgery.counter, 0) + 1
            inside = datagram(GOOD_SOURCE, CONTAINER, "forged: tunnel in the tunnel")
            send_datagram(host.containers[0], host, inside)
            send_datagram(holder, host, datagram(GOOD_SOURCE, CONTAINER, "an honest packet"))
            seen: list[bytes] = []

            def honest_is_through() -> bool:
                seen.extend(sniffer.packets())
                return any(b"an honest packet" in packet for packet in seen)

            wait_for(honest_is_through, 30, "the honest packet")
        assert [packet for packet in seen if b"forged" in packet] == []

        def dropped() -> dict[str, int]:
            return {name: n for name, n in status_of(host)["counters"].items() if n}

        wait_for(lambda: dropped() == expected, 30, lambda: f"{expected}, not {dropped()}")
        host.daemon.stop()
        counted: Counter[str] = Counter()
        for said in re.findall(r"dropped since the last such line: (.*)", host.daemon.log):
            counted.update({name: int(n) for name, n in re.findall(r"(\w+) (\d+)", said)})
        assert counted == expected


def send_datagram(sender: Host | Container, to: Host, payload: bytes) -> None:
    """One datagram to the port of our daemon."""
    address: IPv4Address = sender.address
    outer = IP(src=str(address), dst=str(to.address)) / UDP(sport=PORT, dport=PORT)
    send_raw(sender, bytes(outer / Raw(payload)))
