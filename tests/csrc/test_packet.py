import errno
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from internals import Internals, PageEnd
from scapy.layers.inet import IP, IPOption_NOP
from scapy.packet import Raw

lengths = st.integers(0, 65535)


def packet(*, ttl: int = 64, payload: bytes = b"payload", n_options: int = 0) -> bytes:
    header = IP(
        src="10.1.15.2", dst="10.1.16.2", ttl=ttl, proto=17, options=[IPOption_NOP()] * n_options
    )
    return bytes(header / Raw(payload))


def parse(internals: Internals, data: bytes | bytearray | memoryview) -> tuple[int, Any]:
    view = internals.ffi.new("struct packet *")
    buffer = internals.ffi.from_buffer(data)
    return internals.lib.packet_parse(view, buffer, len(data)), view


@given(
    payload=st.binary(max_size=100), n_options=st.integers(0, 40), trailing=st.binary(max_size=30)
)
def test_a_packet_ends_where_its_header_says(
    internals: Internals, payload: bytes, n_options: int, trailing: bytes
) -> None:
    data = packet(payload=payload, n_options=n_options)
    result, view = parse(internals, data + trailing)
    assert result == 0
    assert view.header_len == 20 + (n_options + 3) // 4 * 4
    assert view.len == len(data)


@given(data=st.binary(max_size=80))
def test_no_bytes_make_a_view_that_leaves_the_buffer(
    internals: Internals, at_page_end: PageEnd, data: bytes
) -> None:
    result, view = parse(internals, at_page_end(data))
    assert result in (0, -errno.EBADMSG, -errno.EPROTONOSUPPORT)
    if result == 0:
        assert 20 <= view.header_len <= view.len <= len(data)
        assert internals.lib.packet_decrement_ttl(view) in (0, -errno.ETIME)


@given(n_words=st.integers(0, 15), total_length=lengths, read=st.integers(20, 200))
@example(n_words=6, total_length=23, read=60)
@example(n_words=6, total_length=24, read=24)
@example(n_words=4, total_length=20, read=20)
@example(n_words=5, total_length=61, read=60)
def test_lengths_that_contradict_each_other_are_refused(
    internals: Internals, n_words: int, total_length: int, read: int
) -> None:
    data = bytearray(read)
    data[0] = 0x40 | n_words
    struct.pack_into("!H", data, 2, total_length)
    result, view = parse(internals, bytes(data))
    consistent = 20 <= n_words * 4 <= total_length <= read
    assert result == (0 if consistent else -errno.EBADMSG)
    if not consistent:
        assert view.data == internals.ffi.NULL


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"", errno.EBADMSG),
        (b"\x45", errno.EBADMSG),
        (packet()[:19], errno.EBADMSG),
        (packet()[:-1], errno.EBADMSG),
        (b"\x60" + bytes(39), errno.EPROTONOSUPPORT),
        (b"\x60", errno.EPROTONOSUPPORT),
        (bytes(40), errno.EPROTONOSUPPORT),
    ],
    ids=["nothing", "one byte", "half a header", "one byte short", "IPv6", "IPv6 cut", "noughts"],
)
def test_packets_that_are_not_whole_ipv4_are_refused(
    internals: Internals, data: bytes, refusal: int
) -> None:
    assert parse(internals, data)[0] == -refusal


@given(
    ttl=st.integers(2, 255),
    ident=lengths,
    protocol=st.integers(0, 255),
    n_options=st.integers(0, 40),
)
def test_a_hop_leaves_the_header_that_scapy_builds(
    internals: Internals, ttl: int, ident: int, protocol: int, n_options: int
) -> None:
    def header(ttl: int) -> bytes:
        options = [IPOption_NOP()] * n_options
        return bytes(IP(dst="10.1.16.2", ttl=ttl, id=ident, proto=protocol, options=options))

    data = bytearray(header(ttl))
    result, view = parse(internals, data)
    assert result == 0
    assert internals.lib.packet_decrement_ttl(view) == 0
    assert bytes(data) == header(ttl - 1)


@given(wrong=st.integers(1, 0xFFFE))
def test_the_checksum_of_a_damaged_header_stays_wrong(internals: Internals, wrong: int) -> None:
    """Its checksum is off by the same difference after the hop, so that its receiver sees it."""
    data = bytearray(packet())
    (right,) = struct.unpack_from("!H", data, 10)
    damaged = (right + wrong) % 0xFFFF
    struct.pack_into("!H", data, 10, damaged)
    _, view = parse(internals, data)
    assert internals.lib.packet_decrement_ttl(view) == 0
    (right_now,) = struct.unpack_from("!H", packet(ttl=63), 10)
    (now,) = struct.unpack_from("!H", data, 10)
    assert (now - right_now) % 0xFFFF == wrong


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_ttl_that_runs_out_neither_wraps_nor_touches_the_packet(
    internals: Internals, ttl: int
) -> None:
    data = bytearray(packet(ttl=ttl))
    _, view = parse(internals, data)
    assert internals.lib.packet_decrement_ttl(view) == -errno.ETIME
    assert bytes(data) == packet(ttl=ttl)
