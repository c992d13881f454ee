"""A host of the udp backend at its plainest: one packet for each call, as upstream's daemon.

    plain_peer.py ADDRESS MTU SUBNET=HOST...

It opens the TUN device flannel0 and UDP port 8285 of ADDRESS and moves packets of up to MTU bytes
between the two: no offloads, no checks. It says "ready" on a line of its own.
"""

import fcntl
import os
import selectors
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv4Network

PORT = 8285
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # linux/if_tun.h


def with_a_hop_less(packet: bytes) -> bytes:
    """The packet as a router passes it on; b"" if it was its last hop, or is not of IPv4."""
    if packet[0] >> 4 != 4:
        return b""
    ttl = packet[8] - 1
    if ttl <= 0:
        return b""
    header = bytearray(packet[: (packet[0] & 0xF) * 4])
    header[8] = ttl
    header[10:12] = b"\0\0"
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = struct.pack("!H", ~total & 0xFFFF)
    return bytes(header) + packet[len(header) :]


def main() -> None:
    """Read the command line, carry packets until killed."""
    address, mtu, *pairs = sys.argv[1:]
    routes = [(IPv4Network(subnet), host) for subnet, _, host in (p.partition("=") for p in pairs)]
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("=16sH22x", b"flannel0", _IFF_TUN | _IFF_NO_PI))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, PORT))
    wait = selectors.DefaultSelector()
    wait.register(tun, selectors.EVENT_READ)
    wait.register(udp, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in wait.select():
            if key.fd == tun:
                packet = with_a_hop_less(os.read(tun, int(mtu)))
                to = IPv4Address(packet[16:20]) if packet else IPv4Address(0)
                for subnet, host in routes:
                    if to in subnet:
                        udp.sendto(packet, (host, PORT))
            elif packet := with_a_hop_less(udp.recv(int(mtu))):
                os.write(tun, packet)


if __name__ == "__main__":
    main()
