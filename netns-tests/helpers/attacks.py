"""Packets that nobody should be able to send, and what became of them.

    with Catcher(container) as catcher:
        send(host, as_user, datagram(tunnel_payload(...), str(peer.address), 8472))
        assert catcher.caught() == []

A sender is a command that drops privileges, before a small program that sends what it is given.
Within namespaces a packet has reached its socket when the sending system call returns, or soon
after; `Catcher.caught` sends one of its own, and what has not come by then does not come.
"""

import json
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Self

from namespaces import Completed, Namespace, one_cpu, run
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from world import Host

PORT = 9999
FORGED = b"forged"

_NO_CAPS = ("--inh-caps=-all", "--no-new-privs")
AS_ROOT: tuple[str, ...] = ()
AS_USER = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"),
    *_NO_CAPS,
)
"""A user of the host, or a process of a container that has no capability."""
WITH_NET_RAW = ("setpriv", "--bounding-set=-all,+net_raw", *_NO_CAPS)
"""Root of a container with the one capability that matters here of those that docker gives."""

_SEND = """
import json, socket, sys
for each in json.loads(sys.argv[1]):
    kind = getattr(socket, each["kind"])
    with socket.socket(getattr(socket, each["family"]), kind, each["protocol"]) as sender:
        for level, name, value in each["options"]:
            value = bytes.fromhex(value) if isinstance(value, str) else value
            sender.setsockopt(level, name, value)
        try:
            if each["bind"] is not None:
                sender.bind(tuple(each["bind"]))
            if each["to"] is None:
                sender.send(bytes.fromhex(each["data"]))
            else:
                sender.sendto(bytes.fromhex(each["data"]), tuple(each["to"]))
        except OSError as why:
            print(why)
"""


@dataclass(frozen=True)
class Sending:
    """One call of sendto(2), and the socket for it; see `_SEND`."""

    family: str
    kind: str
    protocol: int
    data: bytes
    to: tuple[Any, ...] | None
    bind: tuple[Any, ...] | None = None
    options: tuple[tuple[int, int, Any], ...] = ()


def datagram(data: bytes, to: object, port: int, **options: Any) -> Sending:
    """By an ordinary UDP socket.

    :param options: further members of a `Sending`.
    """
    return Sending("AF_INET", "SOCK_DGRAM", 0, data, (str(to), port), **options)


def raw(packet: bytes) -> Sending:
    """A whole IPv4 packet; the kernel makes the header checksum, and the id if it is 0."""
    to = str(IPv4Address(packet[16:20]))
    return Sending("AF_INET", "SOCK_RAW", socket.IPPROTO_RAW, packet, (to, 0))


def frame(link: str, data: bytes) -> Sending:
    """A whole Ethernet frame, out of a link."""
    return Sending("AF_PACKET", "SOCK_RAW", 0, data, None, (link, 0))


def send(where: Namespace, sender: tuple[str, ...], *sendings: Sending) -> Completed:
    """Send from a namespace with what privileges ``sender`` leaves."""
    document = json.dumps([{**vars(each), "data": each.data.hex()} for each in sendings])
    with one_cpu():
        done = where.try_run(*sender, "/usr/bin/python3", "-c", _SEND, document)
    assert done.returncode == 0, done.stderr
    return done


def inner(source: object, to: object, payload: bytes = FORGED) -> bytes:
    """A packet of the overlay."""
    return bytes(IP(src=str(source), dst=str(to)) / UDP(sport=53, dport=PORT) / payload)


def vxlan(packet: bytes, mac: str, *, vni: int = 1, ethertype: int = 0x0800) -> bytes:
    """The payload of a VXLAN datagram.

    :param mac: of the receiver's link.
    """
    link = Ether(dst=mac, src="02:00:00:00:00:99", type=ethertype)
    return bytes(VXLAN(flags=8, vni=vni) / link / packet)


def tunnelled(backend: str, packet: bytes, receiver: Host) -> tuple[bytes, int]:
    """The payload of a tunnel's datagram to a host, and the port."""
    if backend == "udp":
        return packet, 8285
    return vxlan(packet, mac_of(receiver, "flannel.1")), 8472


def mac_of(host: Namespace, link: str) -> str:
    """A link's address."""
    return str(json.loads(host.run("ip", "-j", "link", "show", "dev", link))[0]["address"])


class Catcher:
    """What arrives at UDP port `PORT` of a namespace, from ``with`` on."""

    def __init__(self, where: Namespace) -> None:
        self._where = where
        self._socket = where.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("0.0.0.0", PORT))
        self._socket.settimeout(120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def caught(self, last: Namespace, address: object) -> list[tuple[bytes, str]]:
        """What has arrived since the last call, with its source.

        :param last: a namespace whose packets to ``address`` arrive here, by the way of those that
            may have arrived.
        """
        send(last, AS_USER, datagram(b"last", address, PORT))
        found: list[tuple[bytes, str]] = []
        while True:
            data, (source, _) = self._socket.recvfrom(2000)
            if data == b"last":
                return found
            found.append((data, source))


class OtherNetwork(Namespace):
    """A container on another bridge of a host, as of a second docker network."""

    def __init__(self, host: Host, *, masquerade: bool = True, tool: str = "nft") -> None:
        super().__init__(f"{host.name}other")
        self.address = IPv4Address("172.20.0.2")
        host.ip("link add br-other type bridge", "addr add 172.20.0.1/16 dev br-other",
                "link set br-other up",
                f"link add vethother type veth peer name eth0 netns {self.name}",
                "link set vethother master br-other up")  # fmt: skip
        self.ip("addr add 172.20.0.2/16 dev eth0", "link set eth0 up",
                "route add default via 172.20.0.1")  # fmt: skip
        if masquerade and tool == "nft":
            rule = "ip saddr 172.20.0.0/16 oifname != br-other masquerade"
            chain = f"chain post {{ type nat hook postrouting priority srcnat; {rule}\n}}"
            run(
                *("nsenter", f"--net=/run/netns/{host.name}", "nft", "-f", "-"),
                stdin=f"table ip docker {{\n{chain}\n}}\n",
            )
        elif masquerade:
            host.run(tool, "-t", "nat", "-A", "POSTROUTING", "-s", "172.20.0.0/16",
                     "!", "-o", "br-other", "-j", "MASQUERADE")  # fmt: skip
