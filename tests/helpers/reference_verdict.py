"""What becomes of a received packet, written down a second time: the specification of verdict.c.

Nothing here is fast, and nothing is taken from the C. Addresses are integers.
"""

import struct
from typing import NamedTuple

# The mark of a packet that leaves a tunnel: RFC 6040, figure 4. A row for each mark of the packet,
# a column for each of the datagram: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE. None: it is dropped.
ECN = (
    (0, 0, 0, None),
    (1, 1, 1, 3),
    (2, 1, 2, 3),
    (3, 3, 3, 3),
)


class Net(NamedTuple):
    """All addresses that agree with `address` in the first `length` bits."""

    address: int
    length: int

    def covers(self, address: int) -> bool:
        return (address ^ self.address) >> (32 - self.length) == 0


class Host(NamedTuple):
    """What the host that receives knows: the overlay, its lease, and who holds which other one."""

    network: Net
    subnet: Net
    mtu: int
    check_source: bool
    routes: dict[Net, int]

    def holder(self, address: int) -> int | None:
        """Who serves an address: the longest prefix decides."""
        covering = [net for net in self.routes if net.covers(address)]
        return self.routes[max(covering, key=lambda net: net.length)] if covering else None


def judge(host: Host, sender: int, tos: int, datagram: bytes) -> tuple[str, bytes]:
    """The verdict on a datagram's payload, and the packet as it goes on if it does.

    `sender` and `tos` are of the datagram. The first rule that applies decides.
    """
    # A tunnel in the tunnel, and who holds no lease.
    is_leased = host.subnet.covers(sender) or host.holder(sender) is not None
    if host.network.covers(sender) and is_leased:
        return "UNKNOWN_PEER", b""
    if host.check_source and sender not in host.routes.values():
        return "UNKNOWN_PEER", b""

    if len(datagram) < 20:
        return "SHORT", b""
    version, header_len = datagram[0] // 16, datagram[0] % 16 * 4
    (total_len,) = struct.unpack_from("!H", datagram, 2)
    if version != 4 or not 20 <= header_len <= total_len <= len(datagram):
        return "MALFORMED", b""

    source, destination = struct.unpack_from("!II", datagram, 12)
    if host.check_source and host.holder(source) != sender:
        return "SPOOFED", b""
    if not host.check_source and host.subnet.covers(source):
        return "SPOOFED", b""
    if not host.subnet.covers(destination):
        return "NOT_MINE", b""
    if total_len > host.mtu and datagram[6] & 0x40:  # DF
        return "TOO_BIG", b""
    if datagram[8] <= 1:
        return "TTL", b""
    mark = ECN[datagram[1] % 4][tos % 4]
    if mark is None:
        return "ECN", b""

    packet = bytearray(datagram[:total_len])  # what trails it is not part of it
    replace(packet, 8, datagram[8] - 1)
    replace(packet, 1, datagram[1] // 4 * 4 + mark)
    return "CARRIED", bytes(packet)


def replace(packet: bytearray, at: int, value: int) -> None:
    """Change a byte of the header, and leave its checksum as right or as wrong as it was.

    One's complement is arithmetic modulo 0xFFFF (RFC 1071): the checksum is less by as much as the
    word is more.
    """
    shift = 8 if at % 2 == 0 else 0
    (check,) = struct.unpack_from("!H", packet, 10)
    more = (value - packet[at]) << shift
    packet[at] = value
    struct.pack_into("!H", packet, 10, (check - more) % 0xFFFF)
