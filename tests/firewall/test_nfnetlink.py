"""The kernel's answers about nf_tables, as bytes."""

import errno
import struct
from collections.abc import Iterator

import pytest

from flannel.errors import FirewallError
from flannel.firewall import nfnetlink

NEW_TABLE, DONE, ERROR = 0xA00, 3, 2


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body


def table(family: int, name: str) -> bytes:
    attributes = attribute(2, bytes(4)) + attribute(1, name.encode() + b"\0")
    return message(NEW_TABLE, struct.pack("=BBH", family, 0, 0) + attributes)


class Kernel:
    """A netlink socket that answers what is written down."""

    def __init__(self, *datagrams: bytes | OSError) -> None:
        self._datagrams: Iterator[bytes | OSError] = iter(datagrams)
        self.asked = b""

    def __call__(self, *_: int) -> "Kernel":
        return self

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def settimeout(self, _: float) -> None:
        pass

    def send(self, data: bytes) -> None:
        self.asked = data

    def recv(self, _: int) -> bytes:
        datagram = next(self._datagrams)
        if isinstance(datagram, OSError):
            raise datagram
        return datagram


def answering(monkeypatch: pytest.MonkeyPatch, *datagrams: bytes | OSError) -> Kernel:
    kernel = Kernel(*datagrams)
    monkeypatch.setattr("flannel.firewall.nfnetlink.socket.socket", kernel)
    return kernel


def refusal(number: int) -> bytes:
    return message(ERROR, struct.pack("=i", -number) + bytes(20))


def test_tables_are_read_from_several_datagrams_and_families(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = answering(
        monkeypatch,
        table(2, "flannel") + table(1, "firewalld"),
        table(99, "new") + message(DONE, bytes(4)),
    )
    assert nfnetlink.list_tables() == {("ip", "flannel"), ("inet", "firewalld"), ("99", "new")}
    assert kernel.asked == struct.pack("=IHHIIBBH", 20, 0xA01, 0x301, 1, 0, 0, 0, 0)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPROTONOSUPPORT])
def test_a_kernel_without_nf_tables_has_no_tables(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    answering(monkeypatch, refusal(number))
    assert nfnetlink.list_tables() == set()


def test_a_refusal_is_an_error_and_not_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (refusal(errno.EPERM), PermissionError(errno.EPERM, "Operation not permitted")):
        answering(monkeypatch, answer)
        with pytest.raises(FirewallError, match="tables of nf_tables: Operation not permitted"):
            nfnetlink.list_tables()
    answering(monkeypatch, TimeoutError("timed out"))
    with pytest.raises(FirewallError, match="cannot list the tables of nf_tables: timed out"):
        nfnetlink.list_tables()


def test_the_generation_is_read_from_the_kernel_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytes(4) + attribute(2, b"nft\0") + attribute(1, b"\0\0\0\x07")
    answering(monkeypatch, message(0xA0F, body))
    assert nfnetlink.generation() == b"\0\0\0\x07"
    for answer in (refusal(errno.EPERM), TimeoutError(), b"", message(0xA0F, bytes(4))):
        answering(monkeypatch, answer)
        assert nfnetlink.generation() is None
