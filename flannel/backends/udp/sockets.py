"""The UDP sockets of the packet loop's threads: bound, or taken over from the previous flanneld."""

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from fcntl import ioctl
from functools import partial
from ipaddress import IPv4Address

from flannel.backends.udp.tun import NAME
from flannel.errors import KernelError
from flannel.systemd import FdStore, is_our_namespace

_STORED = f"{NAME}/udp"

_SIOCGSKNS = 0x894C  # linux/sockios.h
# asm-generic/socket.h, not in Python's socket: they ignore the sysctl limits.
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SEND_BUFFER, _RECEIVE_BUFFER = 4 << 20, 16 << 20
"""Bytes. A datagram merged by UDP_GRO counts with all its pages; the default holds two or three."""


def bound(store: FdStore, address: IPv4Address, port: int, n: int, mark: int) -> tuple[int, ...]:
    """Descriptors of ``n`` sockets, among which the kernel distributes the datagrams.

    :param mark: of the packets that they send; see `flannel.firewall.nft_table`.
    :raises KernelError: a socket cannot be opened or bound.
    """
    set_up = partial(_set_up, is_shared=n > 1, mark=mark)
    store.retain(_STORED, partial(_adopt, address=address, port=port, set_up=set_up))
    return store.fill(_STORED, n, partial(_bind, address, port, set_up))


def _adopt(
    fd: int, address: IPv4Address, port: int, set_up: Callable[[socket.socket], None]
) -> bool:
    """Set up a descriptor of the store; False if it is not a socket bound to that address."""
    with suppress(OSError):  # it is not a socket
        udp = socket.socket(fileno=fd)
        try:
            if (
                (udp.family, udp.type) == (socket.AF_INET, socket.SOCK_DGRAM)
                and udp.getsockname() == (str(address), port)
                and is_our_namespace(ioctl(fd, _SIOCGSKNS))
            ):
                set_up(udp)
                return True
        finally:
            udp.detach()
    return False


def _bind(address: IPv4Address, port: int, set_up: Callable[[socket.socket], None]) -> int:
    try:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise KernelError("open a UDP socket", error.errno or errno.EIO) from error
    with udp:
        try:
            set_up(udp)
            udp.bind((str(address), port))
        except OSError as error:
            number = error.errno or errno.EIO
            raise KernelError(f"bind UDP port {port} of {address}", number) from error
        return udp.detach()


def _set_up(udp: socket.socket, is_shared: bool, mark: int) -> None:
    for option, size in ((_SO_RCVBUFFORCE, _RECEIVE_BUFFER), (_SO_SNDBUFFORCE, _SEND_BUFFER)):
        with suppress(OSError):
            udp.setsockopt(socket.SOL_SOCKET, option, size)
    udp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
    if udp.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & 0xFFFFFFFF != mark:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
