import struct

from hypothesis import example, given
from hypothesis import strategies as st
from internals import Internals, PageEnd
from scapy.utils import checksum as scapy_checksum

words = st.integers(0, 0xFFFF)


def in_memory(value: int) -> bytes:
    """The bytes of a uint16_t, which is what C stores in a packet."""
    return struct.pack("=H", value)


def c_checksum(internals: Internals, *pieces: bytes | memoryview) -> bytes:
    total = 0
    for piece in pieces:
        buffer = internals.ffi.from_buffer(piece)
        total = internals.lib.checksum_add(total, buffer, len(piece))
    return in_memory(~internals.lib.checksum_fold(total) & 0xFFFF)


@given(data=st.binary(max_size=300), skip=st.integers(0, 7))
def test_a_checksum_is_scapys_at_any_length_and_alignment(
    internals: Internals, data: bytes, skip: int
) -> None:
    shifted = memoryview(bytes(skip) + data)[skip:]
    assert c_checksum(internals, shifted) == struct.pack("!H", scapy_checksum(data))


def test_a_checksum_of_a_full_sized_packet_of_ones_keeps_every_carry(internals: Internals) -> None:
    data = b"\xff" * 65535
    assert c_checksum(internals, data) == struct.pack("!H", scapy_checksum(data))


@given(total=st.integers(0, 2**64 - 1))
@example(total=0xFFFFFFFF_00010000)  # each of the four folds has a carry to bring home
def test_every_sum_folds_to_its_residue(internals: Internals, total: int) -> None:
    """Modulo 2^16 - 1, where 0xffff stands for nought unless nothing but nought was added."""
    folded = internals.lib.checksum_fold(total)
    assert folded == (total % 0xFFFF or (0xFFFF if total else 0))


@given(head=st.binary(max_size=64), tail=st.binary(max_size=65))
def test_a_sum_can_be_made_of_pieces_of_even_length(
    internals: Internals, head: bytes, tail: bytes
) -> None:
    head = head[: len(head) // 2 * 2]
    assert c_checksum(internals, head, tail) == c_checksum(internals, head + tail)


@given(data=st.binary(max_size=200))
def test_a_checksum_does_not_read_beyond_the_buffer(
    internals: Internals, at_page_end: PageEnd, data: bytes
) -> None:
    assert c_checksum(internals, at_page_end(data)) == c_checksum(internals, data)


@given(before=words, after=words, rest=st.binary(min_size=18, max_size=58))
def test_an_updated_checksum_equals_one_computed_from_all_bytes(
    internals: Internals, before: int, after: int, rest: bytes
) -> None:
    """For a header, that is, which is never all noughts: RFC 1624 counts on that."""
    rest = b"\x45" + rest[1:]
    old, new = in_memory(before), in_memory(after)
    (check,) = struct.unpack("=H", c_checksum(internals, old + rest))
    updated = internals.lib.checksum_update(check, before, after)
    assert in_memory(updated) == c_checksum(internals, new + rest)


def test_the_example_of_rfc_1624_is_not_negative_zero(internals: Internals) -> None:
    """Its section 4: HC 0xDD2F, m 0x5555, m' 0x3285; the older rule gave 0xFFFF."""
    assert internals.lib.checksum_update(0xDD2F, 0x5555, 0x3285) == 0x0000
