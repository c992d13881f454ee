"""The probe: a host asks through the overlay whether another host's flanneld runs.

A VXLAN device carries packets after its daemon has died, and the lease stays for up to a day, so
neither shows that the daemon is dead. The question is a UDP datagram to the peer's own address in
the overlay. The answer has the same length, so the probe amplifies no flood:

    flannel?NNNNNNNN  ->  flannel!NNNNNNNN   it is alive and ready
                          flannel-NNNNNNNN   it is alive, and not ready

N are bytes that the answer repeats. Every sender in the overlay can ask, and learns one bit. Beyond
`_PER_SECOND` datagrams a second, questions are not answered.
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
    """The host's own address in the overlay, its tunnel's; None if the backend has no tunnel."""
    has_one = traits(lease.attrs.backend).has_tunnel_address
    return lease.subnet.network_address if has_one else None


def question(nonce: bytes) -> bytes:
    """The datagram that asks; ``nonce`` has 8 bytes."""
    return _QUESTION + nonce


def is_ready(answer: bytes, nonce: bytes) -> bool | None:
    """Whether the peer is ready; None if ``answer`` is not an answer to that question."""
    if len(answer) != LENGTH or answer[8:] != nonce:
        return None
    return {_READY: True, _UNREADY: False}.get(answer[:8])


async def answer_peers(lease: Lease, port: int, unready: Callable[[], str]) -> None:
    """Answer until cancelled; a port that cannot be bound is logged once, and tried again.

    :param port: a UDP port; 0: answer no probes.
    :param unready: returns why flanneld is not ready; "" if it is.
    """
    address = str(overlay_address(lease) or "")
    is_logged = False
    while address and port:
        try:
            with _bound(address, port) as sock:
                await _answer(sock, unready)
        except OSError as why:
            if not is_logged:
                log.warning(
                    "cannot answer probes at UDP port %d of %s: %s", port, address, why.strerror
                )
            is_logged = True
            await asyncio.sleep(_RETRY)


def _bound(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        # The address may be added later, and again after the device was rebuilt.
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
