"""Packets in namespaces: sent raw, seen on a link, judged by scapy; and whole transfers.

with Sniffer(host, "eth0") as sniffer:
    ...
for packet in sniffer.packets(): ...
"""

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Self

from namespaces import one_cpu
from scapy.layers.inet import IP, UDP, in4_chksum
from scapy.utils import checksum
from world import Namespace, wait_for

# linux/if_packet.h, linux/if_ether.h, linux/virtio_net.h; not in Python's socket.
_SOL_PACKET, _PACKET_VNET_HDR = 263, 15
_ETH_P_IP, _ETH_P_ALL = 0x0800, 0x0003
_VNET = struct.Struct("=BBHHHH")
_GSO_UDP_L4 = 5
# asm-generic/socket.h: ignores the sysctl limit.
_SO_RCVBUFFORCE = 33


class Sniffer:
    """What passes a link in both directions, from ``with`` on.

    A link that offloads work shows several datagrams as one, which has no checksum yet: they come
    apart here as they will on a wire, and checksums that are still to be made are not there.

    :param header_len: of the link layer: 14 for Ethernet, 0 for a TUN device.
    """

    def __init__(self, namespace: Namespace, link: str, header_len: int = 14) -> None:
        self._header_len = header_len
        self._socket = namespace.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
        self._socket.setblocking(False)
        self._socket.bind((link, _ETH_P_ALL))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def packets(self) -> list[bytes]:
        """The IPv4 packets since the last call."""
        return [packet for packet, _ in self._read()]

    def datagrams(self, port: int) -> list[tuple[IP, bytes]]:
        """The UDP datagrams to a port since the last call: headers, and payload."""
        found = []
        for data, gso_size in self._read():
            packet = IP(data)
            if UDP not in packet or packet.dport != port or packet.frag:
                continue
            payload = data[packet.ihl * 4 + 8 : packet.len]
            size = gso_size or max(len(payload), 1)
            found += [(packet, payload[at : at + size]) for at in range(0, len(payload), size)]
        return found

    def find(self, wanted: Callable[[IP], bool]) -> IP | None:
        """The first packet since the last call of which ``wanted`` is true."""
        return next(filter(wanted, map(IP, self.packets())), None)

    def wait_for(self, wanted: Callable[[IP], bool]) -> IP:
        """The first packet of which ``wanted`` is true."""
        found: IP = wait_for(lambda: self.find(wanted), 30, "a packet that has not passed")
        return found

    def _read(self) -> Iterator[tuple[bytes, int]]:
        while True:
            try:
                data, address = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                return
            if address[1] != _ETH_P_IP:
                continue
            _, gso_type, _, gso_size, _, _ = _VNET.unpack_from(data)
            size = gso_size if gso_type & 0x7F == _GSO_UDP_L4 else 0
            yield data[_VNET.size + self._header_len :], size


def send_raw(namespace: Namespace, *packets: bytes, mark: int = 0) -> None:
    """Send IPv4 packets as they are, but for the header checksum, which the kernel makes.

    :param mark: of the packets; the guard drops what goes to the backend's port without its bit.
    """
    with one_cpu(), namespace.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        for packet in packets:
            raw.sendto(packet, (str(IPv4Address(packet[16:20])), 0))


def checksums_are_right(packet: bytes) -> bool:
    """Whether the checksum of the IPv4 header is right, and that of TCP or UDP in a whole packet.

    UDP without a checksum is wrong here: nothing that our tests send is.
    """
    ip = IP(packet)
    header_len = ip.ihl * 4
    if checksum(packet[:header_len]) != 0:
        return False
    if ip.frag or ip.flags.MF or ip.proto not in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return True
    if UDP in ip and ip[UDP].chksum == 0:
        return False
    return int(in4_chksum(ip.proto, ip, packet[header_len : ip.len])) == 0


def _digest_of(stream: socket.socket) -> bytes:
    """Of all that arrives."""
    buffer = bytearray(1 << 18)
    digest = hashlib.sha256()
    stream.settimeout(200)
    while n := stream.recv_into(buffer):
        digest.update(memoryview(buffer)[:n])
    return digest.digest()


@contextmanager
def transfer(
    sender: Namespace,
    receiver: Namespace,
    address: IPv4Address,
    n_bytes: int | None,
    n_streams: int = 1,
) -> Iterator[None]:
    """TCP streams that begin with the body, and arrive whole.

    :param n_bytes: of each stream; None: as many as pass until the body ends.
    """
    data = os.urandom(1 << 20)
    is_over = threading.Event()
    sent: list[bytes] = []
    received: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        if n_bytes is None:
            while not is_over.wait(0.005):
                yield data
        else:
            for at in range(0, n_bytes, len(data)):
                yield data[: n_bytes - at]

    with receiver.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(200)
        listener.bind((str(address), 0))
        listener.listen()
        port = listener.getsockname()[1]

        def receive() -> None:
            stream, _ = listener.accept()
            with stream:
                received.append(_digest_of(stream))

        def send() -> None:
            digest = hashlib.sha256()
            with sender.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
                stream.settimeout(200)
                stream.connect((str(address), port))
                for piece in pieces():
                    stream.sendall(piece)
                    digest.update(piece)
            sent.append(digest.digest())

        threads = [
            threading.Thread(target=each) for _ in range(n_streams) for each in (receive, send)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
    assert len(sent) == n_streams
    assert sorted(received) == sorted(sent)
