import errno
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internals import Internals
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.packet import Raw
from scapy.utils import checksum as scapy_checksum

Fields = dict[str, Any]
"""Of a header, as scapy names them."""

NEEDS_CSUM = 1  # virtio_net_hdr's flag
TCPV4, UDP_L4 = 1, 5  # and its gso_type


class Batch:
    """What C has gathered."""

    def __init__(
        self, internals: Internals, packets: Iterable[bytes] = (), *, merge_udp: bool = True
    ) -> None:
        self.internals = internals
        self.gro = internals.ffi.new("struct gro *")
        self.kept: list[bytearray] = []
        internals.lib.gro_reset(self.gro, merge_udp)
        for packet in packets:
            assert self.add(packet) == 0

    def add(self, packet: bytes) -> int:
        self.kept.append(bytearray(packet))
        return int(self.internals.lib.gro_add(self.gro, self.internals.view(self.kept[-1])))

    def finish(self) -> list[bytes]:
        """What would be written, each with its virtio_net_hdr."""
        written = []
        for i in range(self.gro.n):
            group = self.gro.groups[i]
            self.internals.lib.gro_finish(self.internals.ffi.addressof(group))
            iov = group.iov[0 : 1 + group.n_segments]
            pieces = [bytes(self.internals.ffi.buffer(each.iov_base, each.iov_len)) for each in iov]
            written.append(b"".join(pieces))
        return written


def words_of(data: bytes) -> int:
    """The sum of big-endian words, before any carry is brought home."""
    return sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))


def as_the_kernel_cuts(written: bytes) -> list[bytes]:
    """The packets that the kernel makes of what it reads from us.

    virtio_net_hdr_to_skb(), inet_gso_segment(), tcp_gso_segment() and __udp_gso_segment() of Linux:
    the checksum of each segment starts from the one that is in the super-packet.
    """
    flags, gso_type, header_len, size, start, offset = struct.unpack("=BBHHHH", written[:10])
    packet = written[10:]
    if gso_type == 0:
        assert (flags, header_len, size, start, offset) == (0, 0, 0, 0, 0)
        return [packet]

    is_tcp = gso_type == TCPV4
    assert (gso_type, packet[9]) in ((TCPV4, 6), (UDP_L4, 17))
    assert (flags, start, offset) == (NEEDS_CSUM, 20, 16 if is_tcp else 6)
    assert header_len == start + (packet[32] >> 4) * 4 if is_tcp else start + 8
    assert len(packet) == struct.unpack_from("!H", packet, 2)[0]
    assert scapy_checksum(packet[:20]) == 0
    payload = packet[header_len:]
    assert len(payload) > size
    (ident,) = struct.unpack_from("!H", packet, 4)
    (partial,) = struct.unpack_from("!H", packet, start + offset)
    segments = []
    for n, at in enumerate(range(0, len(payload), size)):
        piece = payload[at : at + size]
        header = bytearray(packet[:header_len])
        struct.pack_into("!HH", header, 2, header_len + len(piece), (ident + n) % 2**16)
        struct.pack_into("!H", header, 10, 0)
        struct.pack_into("!H", header, 10, scapy_checksum(bytes(header[:20])))
        if is_tcp:
            (seq,) = struct.unpack_from("!I", packet, 24)
            struct.pack_into("!I", header, 24, (seq + at) % 2**32)
            header[33] &= 0xFF if at + size >= len(payload) else ~0x09  # FIN and PSH
            header[33] &= 0xFF if n == 0 else ~0x80  # CWR
        else:
            struct.pack_into("!H", header, 24, 8 + len(piece))
        struct.pack_into("!H", header, start + offset, 0)
        change = len(header) + len(piece) - len(packet)
        total = partial + change + words_of(bytes(header[20:])) + words_of(piece)
        check = 0xFFFF - (total % 0xFFFF or 0xFFFF)
        struct.pack_into("!H", header, start + offset, check if is_tcp or check else 0xFFFF)
        segments.append(bytes(header) + piece)
    return segments


def by_flow(packets: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """The packets of each flow in order, without the ids that say nothing: RFC 6864, 4.1."""
    flows: dict[bytes, list[bytes]] = defaultdict(list)
    for packet in packets:
        known = bytearray(packet)
        if packet[6] & 0x40:
            known[4:6] = known[10:12] = bytes(2)
        header_len = (packet[0] & 15) * 4
        flows[packet[9:10] + packet[12:20] + packet[header_len : header_len + 4]].append(
            bytes(known)
        )
    return flows


def tcp(
    n: int = 0, payload: bytes = b"segment!", ip: Fields | None = None, **changes: Any
) -> bytes:
    """Segment `n` of a connection."""
    headers: Fields = {"sport": 7, "dport": 9, "ack": 77, "window": 512, "flags": "A"}
    options = [("NOP", None), ("NOP", None), ("Timestamp", (5, 6))]
    fields: Fields = {"seq": (2**32 - 20 + n * len(payload)) % 2**32, "options": options}
    addressed: Fields = {"src": "10.1.16.2", "dst": "10.1.15.2", "flags": "DF", "id": n}
    return bytes(IP(**addressed | (ip or {})) / TCP(**headers | fields | changes) / Raw(payload))


def udp(
    n: int = 0, payload: bytes = b"datagram", ip: Fields | None = None, **changes: Any
) -> bytes:
    """Datagram `n` of a flow that may be fragmented, so that ids count."""
    addressed: Fields = {"src": "10.1.16.2", "dst": "10.1.15.2", "id": (65534 + n) % 2**16}
    return bytes(
        IP(**addressed | (ip or {})) / UDP(**{"sport": 7, "dport": 9} | changes) / Raw(payload)
    )


def damaged(packet: bytes, at: int) -> bytes:
    return packet[:at] + bytes([packet[at] ^ 0x10]) + packet[at + 1 :]


@pytest.mark.parametrize(("make", "gso_type", "header_len"), [(tcp, TCPV4, 52), (udp, UDP_L4, 28)])
def test_consecutive_packets_become_one(
    internals: Internals, make: Callable[..., bytes], gso_type: int, header_len: int
) -> None:
    packets = [make(n) for n in range(10)]
    (written,) = Batch(internals, packets).finish()
    assert struct.unpack("=BBHH", written[:6]) == (NEEDS_CSUM, gso_type, header_len, 8)
    assert written[10 + header_len :] == packets[0][header_len:] * 10
    assert as_the_kernel_cuts(written) == packets


# What a second packet may have that makes it another's: it is written by itself.
TCP_CHANGES = {
    "tos": tcp(1, ip={"tos": 1}),
    "ttl": tcp(1, ip={"ttl": 63}),
    "source": tcp(1, ip={"src": "10.1.16.3"}),
    "destination": tcp(1, ip={"dst": "10.1.15.3"}),
    "source port": tcp(1, sport=8),
    "destination port": tcp(1, dport=8),
    "may be fragmented": tcp(1, ip={"flags": ""}),
    "reserved flag": tcp(1, ip={"flags": "DF+evil"}),
    "first fragment": tcp(1, ip={"flags": "MF"}),
    "later fragment": tcp(1, ip={"frag": 4}),
    "IP option": tcp(1, ip={"options": [IPOption_NOP()]}),
    "gap": tcp(1, seq=2**32 - 11),
    "again": tcp(0),
    "acknowledgement": tcp(1, ack=78),
    "window": tcp(1, window=513),
    "urgent pointer": tcp(1, urgptr=1),
    "other option": tcp(1, options=[("NOP", None), ("NOP", None), ("Timestamp", (5, 7))]),
    "no option": tcp(1, options=[]),
    "longer": tcp(1, b"segment!" + b"!", seq=2**32 - 12),
    "no payload": tcp(1, b"", seq=2**32 - 12),
    "reserved bit": tcp(1, reserved=1),
    "damaged payload": damaged(tcp(1), 55),
    "damaged TCP checksum": damaged(tcp(1), 36),
    "damaged IPv4 checksum": damaged(tcp(1), 10),
    "data offset beyond the packet": tcp(1, dataofs=15),
    "data offset too small": tcp(1, dataofs=4),
} | {f"flag {flag}": tcp(1, flags="A" + flag) for flag in "FSRUECN"}
UDP_CHANGES = {
    "tos": udp(1, ip={"tos": 1}),
    "ttl": udp(1, ip={"ttl": 63}),
    "port": udp(1, sport=8),
    "not to be fragmented": udp(1, ip={"flags": "DF"}),
    "first fragment": udp(1, ip={"flags": "MF"}),
    "id": udp(1, ip={"id": 0}),
    "IP option": udp(1, ip={"options": [IPOption_NOP()]}),
    "longer": udp(1, b"datagram!"),
    "no payload": udp(1, b""),
    "no checksum": udp(1, chksum=0),
    "wrong length": udp(1, len=15),
    "damaged payload": damaged(udp(1), 30),
}


@pytest.mark.parametrize("change", TCP_CHANGES)
def test_tcp_with_a_different_header_is_not_merged(internals: Internals, change: str) -> None:
    packets = [tcp(0), TCP_CHANGES[change]]
    first, second = Batch(internals, packets).finish()
    assert [first[10:], second[10:]] == packets


@pytest.mark.parametrize("change", UDP_CHANGES)
def test_udp_with_a_different_header_is_not_merged(internals: Internals, change: str) -> None:
    packets = [udp(0), UDP_CHANGES[change]]
    first, second = Batch(internals, packets).finish()
    assert [first[10:], second[10:]] == packets


@pytest.mark.parametrize("closing", ["PSH", "a shorter one"])
def test_a_packet_that_must_be_the_last_of_a_super_packet_ends_it(
    internals: Internals, closing: str
) -> None:
    last = tcp(2, flags="PA") if closing == "PSH" else tcp(2, b"short", seq=2**32 - 4)
    after = tcp(3) if closing == "PSH" else tcp(3, b"short", seq=1)
    packets = [tcp(0), tcp(1), last, after]
    written = Batch(internals, packets).finish()
    assert [len(as_the_kernel_cuts(each)) for each in written] == [3, 1]
    assert [packet for each in written for packet in as_the_kernel_cuts(each)] == packets


def test_udp_is_left_alone_where_the_device_cannot_cut_it(internals: Internals) -> None:
    assert len(Batch(internals, [udp(0), udp(1)], merge_udp=False).finish()) == 2
    assert len(Batch(internals, [tcp(0), tcp(1)], merge_udp=False).finish()) == 1


@pytest.mark.parametrize(("size", "most"), [(1448, 45), (65483 // 2, 2), (32742, 1), (1, 128)])
def test_a_super_packet_has_an_end(internals: Internals, size: int, most: int) -> None:
    """The largest that IPv4 can say, and as many segments as there is room for."""
    packets = [tcp(n, bytes(size)) for n in range(most + 1)]
    written = Batch(internals, packets).finish()
    assert [len(as_the_kernel_cuts(each)) for each in written] == [most, 1]
    assert len(written[0]) == 10 + 52 + most * size <= 10 + 65535


def test_a_full_batch_takes_only_packets_that_can_be_merged(internals: Internals) -> None:
    batch = Batch(internals, [tcp(0)])
    n_groups = internals.lib.GRO_MAX_GROUPS
    for n in range(n_groups - 1):
        assert batch.add(udp(0, sport=100 + n)) == 0
    assert batch.add(udp(1, sport=n_groups + 1000)) == -errno.ENOBUFS
    assert batch.add(bytes(IP() / ICMP())) == -errno.ENOBUFS
    assert batch.add(tcp(1)) == 0
    assert len(as_the_kernel_cuts(batch.finish()[0])) == 2
    internals.lib.gro_reset(batch.gro, True)
    assert batch.add(tcp(2)) == 0
    assert [each[10:] for each in batch.finish()] == [tcp(2)]


@pytest.mark.parametrize("frag", [0, 185])
def test_no_packet_overtakes_a_fragment(internals: Internals, frag: int) -> None:
    """It may be of the flow that another one belongs to; a later one does not say."""
    fragment = udp(1, ip={"flags": "MF", "frag": frag})
    packets = [udp(0), fragment, udp(1), udp(2)]
    written = Batch(internals, packets).finish()
    assert [packet for each in written for packet in as_the_kernel_cuts(each)] == packets


@st.composite
def batches(draw: st.DrawFn) -> list[bytes]:
    """What a few flows send, in any mixture, most of it to be merged."""
    flows = [
        {"make": make, "size": draw(st.integers(1, 40)), "df": draw(st.sampled_from(["", "DF"]))}
        | {"n": 0, "at": draw(st.integers(0, 2**32 - 1)), "id": draw(st.integers(0, 2**16 - 1))}
        for make, _ in product((tcp, udp), range(2))
    ]
    other = {tcp: TCP_CHANGES, udp: UDP_CHANGES}
    packets = []
    for _ in range(draw(st.integers(1, 40))):
        which = draw(st.integers(0, len(flows) - 1))
        flow = flows[which]
        kind = draw(st.sampled_from(["next"] * 12 + ["PSH", "short", "long", "change"]))
        if kind == "change":
            packets.append(draw(st.sampled_from(list(other[flow["make"]].values()))))
            continue
        length = {"short": draw(st.integers(0, flow["size"])), "long": flow["size"] + 1}
        payload = draw(st.binary(min_size=40, max_size=41))[: length.get(kind, flow["size"])]
        ip = {"flags": flow["df"], "id": (flow["id"] + flow["n"]) % 2**16}
        if flow["make"] is tcp:
            said = {"seq": flow["at"] % 2**32, "flags": "PA" if kind == "PSH" else "A"}
        else:
            said = {}
        packets.append(flow["make"](0, payload, ip, sport=7 + which % 2, **said))
        flow["at"] += len(payload)
        flow["n"] += 1
    return packets


@given(packets=batches())
def test_merged_packets_are_cut_into_the_same_packets(
    internals: Internals, packets: list[bytes]
) -> None:
    written = Batch(internals, packets).finish()
    cut = [packet for each in written for packet in as_the_kernel_cuts(each)]
    assert by_flow(cut) == by_flow(packets)
