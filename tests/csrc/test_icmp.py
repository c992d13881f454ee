import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from internals import Internals, PageEnd
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.packet import Raw
from scapy.utils import checksum as scapy_checksum

TUNNEL = 0x0A010F00
FROM, TO = "10.1.15.2", "10.1.16.2"

errors = st.sampled_from(
    [
        ("ICMP_NET_UNREACHABLE", 3, 0),
        ("ICMP_FRAGMENTATION_NEEDED", 3, 4),
        ("ICMP_TIME_EXCEEDED", 11, 0),
    ]
)


def error_about(
    internals: Internals,
    data: bytes | memoryview,
    name: str = "ICMP_TIME_EXCEEDED",
    mtu: int = 0,
) -> bytes:
    """The error about a packet, b"" if there is none, from a buffer that was full of others."""
    packet = internals.view(data)
    buffer = bytearray(b"\xa5" * (internals.lib.ICMP_ERROR_MAX + 8))
    into = internals.ffi.from_buffer("uint8_t[]", buffer)
    error = getattr(internals.lib, name)
    length = internals.lib.icmp_build(into, error, mtu, TUNNEL, packet)
    assert buffer[length:] == b"\xa5" * (len(buffer) - length)
    return bytes(buffer[:length])


@given(
    error=errors,
    mtu=st.integers(0, 65535),
    payload=st.binary(max_size=100) | st.integers(500, 1500).map(bytes),
    n_options=st.integers(0, 40),
    tos=st.integers(0, 255),
    flags=st.sampled_from(["", "DF", "MF"]),
)
def test_an_error_follows_the_rfcs(
    internals: Internals,
    error: tuple[str, int, int],
    mtu: int,
    payload: bytes,
    n_options: int,
    tos: int,
    flags: str,
) -> None:
    options = [IPOption_NOP()] * n_options
    headers = IP(src=FROM, dst=TO, tos=tos, flags=flags, options=options) / UDP(sport=7, dport=9)
    about = bytes(headers / Raw(payload))
    name, type_, code = error
    data = error_about(internals, about, name, mtu)
    ip = IP(data)
    assert (ip.src, ip.dst, ip.len, ip.ihl) == ("10.1.15.0", FROM, len(data), 5)
    assert (ip.tos, ip.flags, ip.proto) == (0xC0, "DF", 1)
    assert scapy_checksum(data[:20]) == scapy_checksum(data[20:]) == 0
    assert (ip[ICMP].type, ip[ICMP].code) == (type_, code)
    # RFC 1191: 2 unused bytes, then the MTU of the next hop.
    assert data[24:28] == struct.pack("!HH", 0, mtu)
    # RFC 1812, 4.3.2.3: as much of the packet as there is room for in 576 bytes.
    assert data[28:] == about[:548]


@pytest.mark.parametrize("length", [20, 21, 27, 28])
def test_a_short_packet_is_quoted_without_stale_bytes(internals: Internals, length: int) -> None:
    """Upstream quotes 8 bytes behind any header, of the packet before if need be."""
    about = bytes(IP(src=FROM, dst=TO, proto=99) / Raw(bytes(range(length - 20))))
    assert error_about(internals, about)[28:] == about


@pytest.mark.parametrize("type_", range(256))
def test_icmp_queries_lead_to_errors_and_icmp_errors_do_not(
    internals: Internals, type_: int
) -> None:
    about = bytes(IP(src=FROM, dst=TO) / ICMP(type=type_) / Raw(bytes(20)))
    # Echo, timestamp, information and address mask: the queries and answers of RFC 792 and 950.
    is_query = type_ in (0, 8, 13, 14, 15, 16, 17, 18)
    assert bool(error_about(internals, about)) == is_query


def test_icmp_without_a_type_gets_no_error(internals: Internals) -> None:
    assert not error_about(internals, bytes(IP(src=FROM, dst=TO, proto=1)))


@pytest.mark.parametrize("flags", ["", "MF"])
@pytest.mark.parametrize("protocol", [1, 6, 17])
def test_a_later_fragment_leads_to_no_error(
    internals: Internals, flags: str, protocol: int
) -> None:
    for offset in (1, 0x100, 0x1FFF):
        headers = IP(src=FROM, dst=TO, flags=flags, frag=offset, proto=protocol)
        assert not error_about(internals, bytes(headers / Raw(b"\x08" + bytes(30))))


@pytest.mark.parametrize(
    "nobody",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.9.9.9", "240.0.0.1", "255.255.255.255"],
)
def test_packets_not_between_two_hosts_get_no_error(
    internals: Internals, nobody: dict[str, str]
) -> None:
    assert not error_about(internals, bytes(IP(src=nobody, dst=TO) / UDP() / Raw(b"payload")))
    assert not error_about(internals, bytes(IP(src=FROM, dst=nobody) / UDP() / Raw(b"payload")))


@pytest.mark.parametrize("somebody", ["1.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.1"])
def test_packets_between_two_hosts_get_an_error(internals: Internals, somebody: str) -> None:
    assert error_about(internals, bytes(IP(src=somebody, dst=TO) / TCP()))
    assert error_about(internals, bytes(IP(src=FROM, dst=somebody) / TCP()))


@given(data=st.binary(min_size=20, max_size=80), n_words=st.integers(5, 15))
def test_no_bytes_are_read_outside_the_packet(
    internals: Internals, at_page_end: PageEnd, data: bytes, n_words: int
) -> None:
    about = bytearray(data.ljust(n_words * 4, b"\0"))
    about[0] = 0x40 | n_words
    about[2:4] = struct.pack("!H", len(about))
    answer = error_about(internals, at_page_end(bytes(about)))
    assert answer[28:] in (b"", bytes(about))
