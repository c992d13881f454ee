"""Is the flanneld of another host alive? It answers when it is asked through the overlay.

A VXLAN device goes on carrying packets when its daemon is dead, and its lease stays for up to a
day: nothing else tells the two apart. The question is a UDP datagram to the peer's own address in
the overlay, and the answer has the same length, so nobody can be flooded by way of it:

    flannel?NNNNNNNN  ->  flannel!NNNNNNNN   it is alive and ready
                          flannel-NNNNNNNN   it is alive, and not ready

N are bytes that the answer repeats. Who can send to containers of the overlay can ask; what he
learns is one bit. More than `_PER_SECOND` questions a second are not heard.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from time import monotonic
from typing import Any

from flannel.backends.traits import traits
from flannel.lease import Lease

log = logging.getLogger(__name__)

LENGTH = 16
_QUESTION, _READY, _UNREADY = b"flannel?", b"flannel!", b"flannel-"
_PER_SECOND = 100
_RETRY = 10.0

_IP_FREEBIND = 15  # linux/in.h, not in Python's socket


def overlay_address(lease: Lease) -> IPv4Address | None:
    """The host's own address in the overlay: its tunnel's; None: without a tunnel it has none."""
    has_one = traits(lease.attrs.backend).has_tunnel_address
    return lease.subnet.network_address if has_one else None


def question(nonce: bytes) -> bytes:
    """The datagram that asks; ``nonce`` has 8 bytes."""
    return _QUESTION + nonce


def is_ready(answer: bytes, nonce: bytes) -> bool | None:
    """What an answer says; None: it is none to that question."""
    if len(answer) != LENGTH or answer[8:] != nonce:
        return None
    return {_READY: True, _UNREADY: False}.get(answer[:8])


async def answer_peers(lease: Lease, port: int, unready: Callable[[], str]) -> None:
    """Answer until cancelled; a port that cannot be had is said once, and tried again.

    :param port: 0 for none.
    """
    address = str(overlay_address(lease) or "")
    said = False
    while address and port:
        try:
            with _bound(address, port) as sock:
                await _answer(sock, unready)
        except OSError as why:
            if not said:
                log.warning(
                    "cannot answer probes at UDP port %d of %s: %s", port, address, why.strerror
                )
            said = True
            await asyncio.sleep(_RETRY)


def _bound(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        # The address may come later, and go: a device is rebuilt.
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


async def _answer(sock: socket.socket, unready: Callable[[], str]) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: _Answering(unready), sock=sock)
    try:
        await loop.create_future()
    finally:
        transport.close()


class _Answering(asyncio.DatagramProtocol):
    def __init__(self, unready: Callable[[], str]) -> None:
        self._unready = unready
        self._second = 0
        self._heard = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        second = int(monotonic())
        if second != self._second:
            self._second, self._heard = second, 0
        self._heard += 1
        if self._heard > _PER_SECOND or len(data) != LENGTH or not data.startswith(_QUESTION):
            return
        word = _UNREADY if self._unready() else _READY
        self._transport.sendto(word + data[8:], addr)


def new_nonce() -> bytes:
    """Bytes for a question."""
    return os.urandom(8)
