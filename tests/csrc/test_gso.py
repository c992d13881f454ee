import errno
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from internals import Internals, PageEnd
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.packet import Packet, Raw

words = st.integers(0, 0xFFFF)
FIN, PSH, CWR = 0x01, 0x08, 0x80

# 0 to 40 bytes of options in either header; scapy fills up the last word.
ip_headers = st.fixed_dictionaries(
    {
        "src": st.ip_addresses(v=4).map(str),
        "dst": st.ip_addresses(v=4).map(str),
        "tos": st.integers(0, 255),
        "ttl": st.integers(0, 255),
        "id": words,
        "flags": st.sampled_from(["", "DF"]),
        "options": st.integers(0, 40).map(lambda n: [IPOption_NOP()] * n),
    }
)
tcp_headers = st.fixed_dictionaries(
    {
        "sport": words,
        "dport": words,
        "seq": st.integers(0, 2**32 - 1),
        "ack": st.integers(0, 2**32 - 1),
        "window": words,
        "urgptr": words,
        "reserved": st.integers(0, 7),
        "flags": st.integers(0, 0x1FF),
        "options": st.binary(max_size=38).map(lambda data: [(253, data)] if data else []),
    }
)
udp_headers = st.fixed_dictionaries({"sport": words, "dport": words})
# The payload, and how much of it goes in a segment.
cuts = st.tuples(st.binary(max_size=300), st.integers(1, 100)).filter(
    lambda cut: len(cut[0]) <= 40 * cut[1]
)


def segments_of(internals: Internals, data: bytes | memoryview, size: int) -> list[bytes]:
    """What C makes of a super-packet."""
    packet = internals.view(data)
    gso = internals.ffi.new("struct gso *")
    result = internals.lib.gso_begin(gso, packet, size)
    if result != 0:
        raise OSError(-result, "gso_begin")
    payload = internals.ffi.new("uint8_t **")
    segments = []
    for i in range(gso.n_segments):
        # What is stale in it must not show; what is behind it must stay.
        header = internals.ffi.new("uint8_t[]", b"\xa5" * (gso.header_len + 8))
        length = internals.lib.gso_segment(gso, i, header, payload)
        whole = bytes(internals.ffi.buffer(header))
        assert whole[gso.header_len :] == b"\xa5" * 8 + b"\0"
        segments.append(whole[: gso.header_len] + bytes(internals.ffi.buffer(payload[0], length)))
    return segments


def pieces(payload: bytes, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Where each segment's payload is, what it is, and whether it is the last."""
    for at in range(0, max(len(payload), 1), size):
        yield at, payload[at : at + size], at + size >= len(payload)


def with_partial_checksum(packet: Packet) -> bytes:
    """As the kernel hands it out: the transport's checksum is left to the device."""
    data = bytearray(bytes(packet))
    header_len = (data[0] & 15) * 4
    struct.pack_into("!H", data, header_len + (16 if data[9] == 6 else 6), 0x1234)
    return bytes(data)


@given(ip=ip_headers, tcp=tcp_headers, cut=cuts)
def test_tcp_segments_are_those_that_scapy_builds(
    internals: Internals,
    at_page_end: PageEnd,
    ip: dict[str, Any],
    tcp: dict[str, Any],
    cut: tuple[bytes, int],
) -> None:
    payload, size = cut
    whole = IP(**ip) / TCP(**tcp) / Raw(payload)
    expected = []
    for n, (at, piece, is_last) in enumerate(pieces(payload, size)):
        flags = tcp["flags"] & ~(0 if is_last else FIN | PSH) & ~(CWR if n else 0)
        ip_n = ip | {"id": (ip["id"] + n) % 2**16}
        tcp_n = tcp | {"seq": (tcp["seq"] + at) % 2**32, "flags": flags}
        expected.append(bytes(IP(**ip_n) / TCP(**tcp_n) / Raw(piece)))
    assert segments_of(internals, at_page_end(with_partial_checksum(whole)), size) == expected


def test_each_tcp_flag_is_on_the_right_segment(internals: Internals) -> None:
    """FIN and PSH at the end, CWR once, all others everywhere."""
    whole = bytes(IP() / TCP(flags=0x1FF) / Raw(bytes(25)))
    flags = [TCP(segment[20:]).flags for segment in segments_of(internals, whole, 10)]
    assert flags == [0x1FF & ~(FIN | PSH), 0x1FF & ~(FIN | PSH | CWR), 0x1FF & ~CWR]


@given(ip=ip_headers, udp=udp_headers, cut=cuts)
def test_udp_segments_are_those_that_scapy_builds(
    internals: Internals,
    at_page_end: PageEnd,
    ip: dict[str, Any],
    udp: dict[str, Any],
    cut: tuple[bytes, int],
) -> None:
    payload, size = cut
    whole = IP(**ip) / UDP(**udp) / Raw(payload)
    expected = [
        bytes(IP(**ip | {"id": (ip["id"] + n) % 2**16}) / UDP(**udp) / Raw(piece))
        for n, (_, piece, _) in enumerate(pieces(payload, size))
    ]
    assert segments_of(internals, at_page_end(with_partial_checksum(whole)), size) == expected


@pytest.mark.parametrize(("size", "n"), [(1448, 46), (65495, 1), (1, 65495), (64, 1024)])
def test_the_largest_packet_loses_no_byte(internals: Internals, size: int, n: int) -> None:
    payload = bytes(i * 7 % 251 for i in range(65495))
    tcp = TCP(sport=7, dport=9, seq=2**32 - 100, flags="PA")
    segments = segments_of(internals, bytes(IP(id=65530, flags="DF") / tcp / Raw(payload)), size)
    assert len(segments) == n
    assert b"".join(segment[40:] for segment in segments) == payload
    for i in (0, n // 2, n - 1):
        ip, tcp = IP(segments[i]), TCP(segments[i][20:])
        assert (ip.len, ip.id) == (len(segments[i]), (65530 + i) % 2**16)
        assert tcp.seq == (2**32 - 100 + i * size) % 2**32


@given(seed=words)
@example(seed=0)
def test_a_udp_checksum_of_nought_is_written_as_its_twin(internals: Internals, seed: int) -> None:
    """RFC 768: nought would say that there is none."""
    headers = IP(src="10.1.15.2", dst="10.1.16.2") / UDP(sport=seed, dport=9)
    (rest,) = struct.unpack_from("!H", bytes(headers / Raw(b"\0\0")), 26)
    payload = struct.pack("!H", rest)
    (segment,) = segments_of(internals, bytes(headers / Raw(payload)), 2)
    assert segment[26:28] == b"\xff\xff"


def tcp_with_offset(words: int, length: int) -> bytes:
    """A packet with `length` bytes behind the IPv4 header, and a data offset of `words`."""
    tcp = bytes(TCP(dataofs=words)) + bytes(60)
    return bytes(IP(proto=6) / Raw(tcp[:length]))


@pytest.mark.parametrize(
    ("data", "size", "refusal"),
    [
        (tcp_with_offset(5, 19), 10, errno.EBADMSG),
        (tcp_with_offset(5, 0), 10, errno.EBADMSG),
        (tcp_with_offset(4, 40), 10, errno.EBADMSG),
        (tcp_with_offset(6, 23), 10, errno.EBADMSG),
        (tcp_with_offset(15, 59), 10, errno.EBADMSG),
        (bytes(IP(proto=17) / Raw(bytes(7))), 10, errno.EBADMSG),
        (bytes(IP() / UDP() / Raw(bytes(20))), 0, errno.EBADMSG),
        (bytes(IP(flags="MF") / UDP() / Raw(bytes(20))), 10, errno.EBADMSG),
        (bytes(IP(frag=1) / UDP() / Raw(bytes(20))), 10, errno.EBADMSG),
        (bytes(IP() / ICMP() / Raw(bytes(20))), 10, errno.EPROTONOSUPPORT),
    ],
    ids=[
        "TCP cut", "no TCP", "offset too small", "option cut", "offset too large", "UDP cut",
        "no size", "first fragment", "later fragment", "ICMP",
    ],
)  # fmt: skip
def test_packets_that_cannot_be_segmented_are_refused(
    internals: Internals, at_page_end: PageEnd, data: bytes, size: int, refusal: int
) -> None:
    with pytest.raises(OSError, match="gso_begin") as refused:
        segments_of(internals, at_page_end(data), size)
    assert refused.value.errno == refusal


@given(data=st.binary(min_size=40, max_size=120), protocol=st.sampled_from([6, 17]), size=words)
def test_no_bytes_are_read_outside_the_packet(
    internals: Internals, at_page_end: PageEnd, data: bytes, protocol: int, size: int
) -> None:
    """What can be parsed is cut or refused, whatever it holds."""
    packet = bytearray(data)
    packet[0] = 0x45
    packet[2:4] = struct.pack("!H", len(packet))
    packet[6:8] = bytes(2) if data[6] < 0xE0 else data[6:8]
    packet[9] = protocol
    header_len = 28 if protocol == 17 else 20 + (packet[32] >> 4) * 4
    has_header = len(packet) >= header_len >= (28 if protocol == 17 else 40)
    is_fragment = packet[6] & 0x3F or packet[7]
    if not size or is_fragment or not has_header:
        with pytest.raises(OSError, match="gso_begin"):
            segments_of(internals, at_page_end(bytes(packet)), size)
    else:
        segments = segments_of(internals, at_page_end(bytes(packet)), size)
        assert b"".join(segment[header_len:] for segment in segments) == packet[header_len:]


@given(ip=ip_headers, tcp=tcp_headers, payload=st.binary(max_size=100))
def test_a_checksum_left_to_the_device_is_finished(
    internals: Internals, ip: dict[str, Any], tcp: dict[str, Any], payload: bytes
) -> None:
    """From the pseudo-header's sum in its place, as virtio_net_hdr says."""
    whole = bytearray(bytes(IP(**ip) / TCP(**tcp) / Raw(payload)))
    expected = bytes(whole)
    packet = internals.view(whole)
    header_len = packet.header_len
    length = len(whole) - header_len
    pseudo = sum(struct.unpack("!4H", whole[12:20])) + 6 + length
    struct.pack_into("!H", whole, header_len + 16, pseudo % 0xFFFF)
    assert internals.lib.packet_finish_checksum(packet, header_len, 16) == 0
    assert bytes(whole).replace(b"\xff\xff", b"\0\0") == expected.replace(b"\xff\xff", b"\0\0")
