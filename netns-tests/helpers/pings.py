"""Pings: one, and many while something happens."""

import re
import secrets
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Protocol, Self

from namespaces import Completed, Namespace, wait_for

_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ICMP_FILTER = 1  # linux/icmp.h, of the level of raw sockets
_ECHO, _ECHO_REPLY = 8, 0  # RFC 792
_MESSAGE = struct.Struct("!BBHIQ")  # type, code, checksum, and the rest is ours: who, which


class Runs(Protocol):
    """Somewhere a program can run: a namespace, a container of docker's."""

    def try_run(self, *command: str) -> Completed:
        """Run a program that may fail."""
        ...


def ping(container: Runs, address: IPv4Address, seconds: float = 0) -> float | None:
    """The round-trip time in ms; None if there is no answer, tried again for ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        done = container.try_run("ping", "-c1", "-W1", str(address))
        found = re.search(r"time=([\d.]+) ms", done.stdout)
        if found:
            return float(found[1])
        if time.monotonic() >= deadline:
            return None


class Pinger:
    """A ping that goes on while the body runs, then tells what was lost.

    Not ping(8): it has room for some 170 answers, and after a pause all come at once; and when it
    is ended it does not wait for those that are on their way.

    :ivar patience: seconds after the end in which missing answers are still waited for.
    """

    def __init__(self, container: Namespace, address: IPv4Address, per_second: int = 100) -> None:
        self._container, self._address, self._pause = container, address, 1 / per_second
        self.patience = 10.0  # what stood still for a while comes all at once
        self._who = secrets.randbits(32)
        self._answered: set[int] = set()
        self._ending = threading.Event()
        self.sent = 0

    @property
    def received(self) -> int:
        """Pings with an answer."""
        return len(self._answered)

    @property
    def lost(self) -> int:
        """Pings without an answer."""
        return self.sent - self.received

    def lost_between(self, first: int, end: int) -> int:
        """Pings without an answer yet, of those from number ``first`` on and before ``end``."""
        return sum(number not in self._answered for number in range(first, end))

    def wait_sent(self, n: int) -> None:
        """Wait for so many pings more."""
        wanted = self.sent + n
        wait_for(lambda: self.sent >= wanted, 30, "pings to be sent")

    def __enter__(self) -> Self:
        self._socket = self._container.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        only_answers = struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF)
        self._socket.setsockopt(socket.IPPROTO_RAW, _ICMP_FILTER, only_answers)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ending.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            self._send()
            due = max(due + self._pause, time.monotonic())
            self._receive_until(due)
        deadline = time.monotonic() + self.patience
        while self.lost and time.monotonic() < deadline:
            self._receive_until(time.monotonic() + 0.01)

    def _send(self) -> None:
        message = _MESSAGE.pack(_ECHO, 0, 0, self._who, self.sent)
        message = _MESSAGE.pack(_ECHO, 0, _checksum(message), self._who, self.sent)
        with suppress(OSError):  # no route, say: it has no answer
            self._socket.sendto(message, (str(self._address), 0))
        self.sent += 1

    def _receive_until(self, due: float) -> None:
        while (left := due - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                packet = self._socket.recv(256)
                _, _, _, who, which = _MESSAGE.unpack_from(packet, (packet[0] & 15) * 4)
                if who == self._who:
                    self._answered.add(which)


def _checksum(message: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
