"""A kernel that answers rtnetlink's messages as bytes, for `RtNetlink`.

Only the last of a batch is acknowledged; a refused message is answered with its number.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from typing import cast

from flannel.kernel import rtlayout as rt
from flannel.kernel import rtmessages
from flannel.kernel.entries import Entry
from flannel.kernel.rtnetlink import RtNetlink

KINDS = {
    rt.RTM_GETROUTE: rt.RTM_NEWROUTE,
    rt.RTM_GETNEXTHOP: rt.RTM_NEWNEXTHOP,
    rt.RTM_GETNEIGH: rt.RTM_NEWNEIGH,
}


class Kernel:
    """Answers messages as rtnetlink does.

    :ivar dumps: the payloads of a dump, by the type of the request.
    :ivar refuses: the error number for each message that is numbered so within its batch, from 1.
    :ivar words: the kernel's explanation of a refusal.
    :ivar echoed: the body of the request, for the answers of a kernel that repeats it.
    :ivar interrupted: the next so many dumps are marked as inconsistent.
    :ivar errors: raised by the next calls of `recv`; 0: none.
    :ivar send_errors: raised by the next calls of `send`.
    """

    def __init__(self) -> None:
        self.sockets: list[FakeSocket] = []
        self.dumps: dict[int, list[bytes]] = {}
        self.refuses: dict[int, int] = {}
        self.dump_errors: dict[int, int] = {}
        self.words = self.echoed = b""
        self.interrupted = 0
        self.errors: list[int] = []
        self.send_errors: list[int] = []
        self.open_errors: list[int] = []
        self.requests: list[tuple[int, bytes]] = []
        self.batches: list[int] = []

    def open(self, port: int) -> socket.socket:
        if self.open_errors:
            number = self.open_errors.pop(0)
            raise OSError(number, os.strerror(number))
        made = FakeSocket(self, port or 4711)
        self.sockets.append(made)
        return cast(socket.socket, made)

    def tables(self) -> RtNetlink:
        return RtNetlink(self.open)

    def answer(self, data: bytes) -> Iterable[bytes]:
        messages = list(split(data))
        self.batches.append(len(messages))
        for n, (kind, flags, sequence, payload) in enumerate(messages, 1):
            self.requests.append((kind, payload))
            if flags & rt.NLM_F_DUMP == rt.NLM_F_DUMP:
                yield from self._dump(kind, sequence)
            elif n in self.refuses:
                yield error(sequence, self.refuses[n], self.words, self.echoed)
            elif flags & rt.NLM_F_ACK:
                yield error(sequence, 0)

    def _dump(self, kind: int, sequence: int) -> Iterable[bytes]:
        if kind in self.dump_errors:
            yield error(sequence, self.dump_errors[kind])
            return
        flags = 0x2
        if self.interrupted:
            self.interrupted -= 1
            flags |= rt.NLM_F_DUMP_INTR
        answered = KINDS.get(kind, kind)
        for payload in self.dumps.get(kind, ()):
            yield rt.message(answered, sequence, flags, payload)
        yield rt.message(rt.NLMSG_DONE, sequence, 0x2, bytes(4))


class FakeSocket:
    """What `RtNetlink` uses of a socket; each answer is a datagram of its own."""

    def __init__(self, kernel: Kernel, port: int) -> None:
        self.kernel, self.port = kernel, port
        self.waiting: list[bytes] = []
        self.is_open = True

    def getsockname(self) -> tuple[int, int]:
        return self.port, 0

    def send(self, data: bytes) -> None:
        assert self.is_open
        if self.kernel.send_errors:
            number = self.kernel.send_errors.pop(0)
            raise OSError(number, os.strerror(number))
        self.waiting += self.kernel.answer(data)

    def recv(self, _size: int) -> bytes:
        assert self.is_open
        if self.kernel.errors and (number := self.kernel.errors.pop(0)):
            raise OSError(number, os.strerror(number))
        if not self.waiting:
            raise BlockingIOError(errno.EAGAIN, "no answer in time")
        return self.waiting.pop(0)

    def close(self) -> None:
        self.is_open = False


def split(data: bytes) -> Iterable[tuple[int, int, int, bytes]]:
    offset = 0
    while offset < len(data):
        length, kind, flags, sequence, _ = rt.HEADER.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + rt.HEADER.size : offset + length]
        offset += length


def error(sequence: int, number: int, words: bytes = b"", request: bytes = b"") -> bytes:
    """With the body of the request, or without it, as the kernel answers where it may."""
    flags = 0 if request else rt.NLM_F_CAPPED
    header = rt.HEADER.pack(rt.HEADER.size + len(request), rt.RTM_NEWNEIGH, 0, sequence, 0)
    parts = [rt.ERROR.pack(-number) + header + request.ljust(rt.aligned(len(request)), b"\0")]
    if words:
        flags |= rt.NLM_F_ACK_TLVS
        parts.append(struct.pack("=HH", 5 + len(words), rt.NLMSGERR_ATTR_MSG) + words + b"\0")
    return rt.message(rt.NLMSG_ERROR, sequence, flags, *parts)


def payload(entry: Entry) -> bytes:
    return rtmessages.put_message(entry, 1, 0)[rt.HEADER.size :]
