"""Subscription: the socket that receives rtnetlink's messages about changes.

A filter in the kernel drops two sorts before they are queued: the messages about entries that
`flannel.kernel.rtnetlink` writes, by their port, and the ARP and FDB traffic of other links.
"""

import errno
import socket
import struct
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

from flannel.errors import KernelError
from flannel.kernel import rtlayout as rt

_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
_BUFFER = 4 << 20
_LONGEST = 1 << 16

# enum rtnetlink_groups: links, neighbours and FDB, IPv4 addresses, IPv4 routes, nexthops.
_GROUPS = (1, 3, 5, 7)
_GROUP_NEXTHOP = 32  # Linux 5.3

# linux/filter.h: load 32 or 16 bits in network order; jump if equal; end with that many bytes.
_LOAD_32, _LOAD_16, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")
# Offsets in a message: nlmsghdr's type and port, and the ndm_ifindex of a neighbour.
_TYPE_AT, _PORT_AT, _INDEX_AT = 4, 12, rt.HEADER.size + 4


class Notice(NamedTuple):
    """One message.

    :ivar kind: rtnetlink's number of its type, such as RTM_NEWROUTE.
    :ivar port: the netlink port of the socket that made the change, often a process id; 0: the
        kernel itself, or unknown.
    :ivar payload: all behind the header.
    """

    kind: int
    port: int
    payload: bytes


def join_groups() -> socket.socket:
    """A netlink socket that receives the messages about changes."""
    opened = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    try:
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        opened.bind((0, 0))
        for group in _GROUPS:
            opened.setsockopt(rt.SOL_NETLINK, rt.NETLINK_ADD_MEMBERSHIP, group)
        with suppress(OSError):
            opened.setsockopt(rt.SOL_NETLINK, rt.NETLINK_ADD_MEMBERSHIP, _GROUP_NEXTHOP)
    except OSError:
        opened.close()
        raise
    return opened


class Subscription:
    """An open socket.

    :param own_port: the netlink port of the socket that writes our entries.
    :param open_: opens the socket.
    :raises KernelError: it cannot be opened.
    """

    def __init__(self, own_port: int, open_: Callable[[], socket.socket] = join_groups) -> None:
        self._own_port = own_port
        try:
            self._socket = open_()
        except OSError as error:
            raise KernelError("follow the kernel's changes", error.errno or errno.EIO) from error
        self.focus(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Receive nothing more."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for the event loop."""
        return self._socket.fileno()

    def focus(self, link: int) -> None:
        """Receive neighbours of this link only; 0: of none."""
        # The filter loads in network order what lies there in host order.
        program = [
            (_LOAD_32, 0, 0, _PORT_AT),
            (_JUMP_EQUAL, 6, 0, socket.htonl(self._own_port)),
            (_LOAD_16, 0, 0, _TYPE_AT),
            (_JUMP_EQUAL, 1, 0, socket.htons(rt.RTM_NEWNEIGH)),
            (_JUMP_EQUAL, 0, 2, socket.htons(rt.RTM_DELNEIGH)),
            (_LOAD_32, 0, 0, _INDEX_AT),
            (_JUMP_EQUAL, 0, 1, socket.htonl(link)),
            (_RETURN, 0, 0, _LONGEST),
            (_RETURN, 0, 0, 0),
        ]
        code = array("B", b"".join(_INSTRUCTION.pack(*each) for each in program))
        address, _ = code.buffer_info()
        # The filter only saves work: the monitor judges each message itself. A kernel that refuses
        # the filter can still be followed.
        with suppress(OSError):
            self._socket.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, _PROGRAM.pack(len(program), address)
            )

    def read(self, limit: int) -> list[Notice]:
        """The messages that wait, at most ``limit``.

        :raises KernelError: some may be lost; ENOBUFS says that the kernel dropped some.
        """
        notices: list[Notice] = []
        for _ in range(limit):
            try:
                data = self._socket.recv(_LONGEST)
            except BlockingIOError:
                break
            except OSError as error:
                raise KernelError("read from netlink", error.errno or errno.EIO) from error
            if len(data) < rt.HEADER.size:
                continue
            # One message a datagram, as notifications come.
            _, kind, _, _, port = rt.HEADER.unpack_from(data)
            notices.append(Notice(kind, port, data[rt.HEADER.size :]))
        return notices
