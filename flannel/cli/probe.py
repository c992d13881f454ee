"""Probes other hosts: by ICMP echo, and by datagrams to UDP ports.

The echoes show whether an address answers, how quickly, and the size of the largest packet that
gets there and back. One raw socket probes many addresses at once. Don't-fragment is set, and the
path MTU that this host has cached is ignored, so that the path itself is measured. An answer proves
both directions.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from time import monotonic

from flannel.errors import KernelError
from flannel.health import peer_probe

_ECHO, _ECHO_REPLY = 8, 0  # RFC 792
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3  # ip(7), linux/in.h
_HEADERS = 28
"""Bytes of IPv4 and ICMP around the payload of an echo."""

PATIENCE = 1.0
"""Seconds to wait for an answer; within a data centre one takes a thousandth of that."""
_TRIES = 2
_SIZES = 16
"""Packets sent at a time in the search for a path's MTU."""
_RECEIVE_BUFFER = 1 << 20
_MAX_QUEUED = 4096
"""The most packets that are read after the time is over: more than the buffer can hold. The kernel
doubles the buffer (socket(7)), and counts at least 512 bytes for each packet."""


def open_icmp_socket() -> socket.socket:
    """The socket of a `Pinger`.

    :raises KernelError: this process may not open a raw socket.
    """
    try:
        opened = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
        )
    except PermissionError as why:
        raise KernelError("open a raw socket", why.errno or 1) from why
    opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    return opened


class Pinger:
    """``with Pinger() as pinger: rtts = await pinger.ping(addresses, 1450)``.

    :param sock: sends and receives ICMP; not blocking. The Pinger closes it.
    :param patience: seconds to wait for an answer.
    """

    def __init__(self, sock: socket.socket | None = None, patience: float = PATIENCE) -> None:
        self._socket = open_icmp_socket() if sock is None else sock
        self._patience = patience
        self._id = int.from_bytes(os.urandom(2), "big")
        self._sequence = 0

    def __enter__(self) -> "Pinger":
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    async def ping(
        self, addresses: Collection[IPv4Address], size: int = 64
    ) -> dict[IPv4Address, float]:
        """Seconds that the answers took, by address; an address that does not answer is left out.

        :param size: bytes of the whole packet, header included.
        """
        found: dict[IPv4Address, float] = {}
        for _ in range(_TRIES):
            missing = [address for address in addresses if address not in found]
            if not missing:
                break
            found |= await self._round(missing, size)
        return found

    async def _round(self, addresses: Iterable[IPv4Address], size: int) -> dict[IPv4Address, float]:
        """One echo to each address, and the seconds until it came back."""
        sent = {}
        sequence = self._next()
        for address in addresses:
            sent[address] = monotonic()
            if not self._send(address, sequence, size):
                del sent[address]
        found: dict[IPv4Address, float] = {}
        async for source, number in self._answers(self._patience):
            if number == sequence and source in sent and source not in found:
                found[source] = monotonic() - sent[source]
            if len(found) == len(sent):
                break
        return found

    async def path_mtu(self, address: IPv4Address, low: int, high: int) -> int:
        """The size of the largest packet from ``low``, which is answered, to ``high``.

        Many sizes are probed at a time: each lost packet costs a wait, and waits in turn would take
        long.
        """
        while low < high:
            step = max(1, (high - low) // _SIZES)
            asked = {self._next(): size for size in range(high, low, -step)}
            for sequence, size in asked.items():
                self._send(address, sequence, size)
            answered = set()
            async for source, sequence in self._answers(self._patience / 2):
                if source == address and sequence in asked:
                    answered.add(asked[sequence])
                if len(answered) == len(asked):
                    break
            best = max(answered, default=low)
            high = min((size for size in asked.values() if size > best), default=best + 1) - 1
            low = best
        return low

    def _next(self) -> int:
        self._sequence = self._sequence + 1 & 0xFFFF
        return self._sequence

    def _send(self, address: IPv4Address, sequence: int, size: int) -> bool:
        packet = _echo(self._id, sequence, max(0, size - _HEADERS))
        try:
            self._socket.sendto(packet, (str(address), 0))
        except OSError:  # no route, or too large for the link: the same as no answer
            return False
        return True

    async def _answers(self, seconds: float) -> AsyncIterator[tuple[IPv4Address, int]]:
        """The sources of answers, with the number of their echo, until the time is over.

        Answers in the socket's buffer count, even if this process was paused meanwhile.
        """
        deadline, n_left = monotonic() + seconds, _MAX_QUEUED
        while n_left > 0:
            left = deadline - monotonic()
            if left <= 0:
                n_left -= 1
            try:
                data, source = self._socket.recvfrom(65535)
            except BlockingIOError:
                if left <= 0:
                    return
                await _wait_readable(self._socket, left)
                continue
            header = (data[0] & 15) * 4
            if len(data) < header + 8:
                continue
            kind, _, _, number, sequence = struct.unpack_from("!BBHHH", data, header)
            if (kind, number) == (_ECHO_REPLY, self._id):
                yield IPv4Address(source[0]), sequence


async def _wait_readable(sock: socket.socket, seconds: float) -> None:
    """Wait until ``sock`` can be read, at most ``seconds``, and read nothing.

    `loop.sock_recvfrom` loses a datagram that it reads at the moment of the timeout.
    """
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await readable.wait()
    finally:
        loop.remove_reader(sock)


def _echo(number: int, sequence: int, n_payload: int) -> bytes:
    head = struct.pack("!BBHHH", _ECHO, 0, 0, number, sequence)
    payload = bytes(n_payload)
    checksum = _checksum(head + payload)
    return struct.pack("!BBHHH", _ECHO, 0, checksum, number, sequence) + payload


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True, slots=True)
class PortAnswer:
    """The outcome of a question to a UDP port.

    :ivar ready: whether flanneld there reports that it is ready; None: no answer.
    :ivar refused: the kernel there reports that nothing listens at the port.
    """

    ready: bool | None = None
    refused: bool = False


async def ask_peers(addresses: Collection[IPv4Address], port: int) -> dict[IPv4Address, PortAnswer]:
    """Ask the flannelds at these addresses of the overlay whether they are ready.

    :param port: a UDP port; 0: send nothing, and return an empty result.
    """
    if port == 0:
        return {}
    limit = asyncio.Semaphore(200)  # of descriptors

    async def ask(address: IPv4Address) -> tuple[IPv4Address, PortAnswer]:
        async with limit:
            answer = PortAnswer()
            for _ in range(_TRIES):
                answer = await _ask(address, port)
                if answer != PortAnswer():
                    break
            return address, answer

    return dict(await asyncio.gather(*(ask(address) for address in addresses)))


async def ask_port(address: IPv4Address, port: int, mark: int) -> PortAnswer:
    """Ask whether a UDP port of a host is closed, which its kernel reports; silence proves nothing.

    :param mark: the mark of the datagram; the guard drops those to that port without it.
    """
    return await _ask(address, port, mark)


async def _ask(address: IPv4Address, port: int, mark: int = 0) -> PortAnswer:
    nonce = peer_probe.new_nonce()
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            if mark:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
            # Connected: the kernel reports a closed port, and drops datagrams of other senders.
            sock.connect((str(address), port))
            sock.send(peer_probe.question(nonce))
            async with asyncio.timeout(PATIENCE):
                while True:
                    ready = peer_probe.is_ready(await loop.sock_recv(sock, 64), nonce)
                    if ready is not None:
                        return PortAnswer(ready)
        except ConnectionRefusedError:
            return PortAnswer(refused=True)
        except (TimeoutError, OSError):
            return PortAnswer()
