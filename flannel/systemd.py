"""What flanneld and systemd tell each other: how we are, and descriptors that outlive a flanneld.

`notify` is sd_notify(3), one datagram. The rest is about descriptors: systemd holds them open, and
hands them to the next flanneld.

What a TUN device or a socket has got while nobody reads waits in its queue, and is carried late
instead of lost. See FDSTORE=1 in sd_notify(3), FileDescriptorStoreMax= in systemd.service(5) and
sd_listen_fds(3). Without systemd they are kept from one life of the network to the next.

    store = FdStore(os.environ)
    store.retain("flannel0/udp", is_usable)         # whoever knows what they should be checks them
    fds = store.fill("flannel0/udp", n, make)       # the rest is made

A name is that of a link, ``/``, and what it is. Descriptors belong to the store: it closes them.
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_FIRST = 3
"""SD_LISTEN_FDS_START in sd_listen_fds(3)."""
_PATIENCE = 1.0
"""Seconds to wait for room in the receiver's queue; systemd empties it at once."""


def notify(state: str, environ: Mapping[str, str], fds: Sequence[int] = ()) -> None:
    """Send ``state``, e.g. ``READY=1``, to $NOTIFY_SOCKET; nothing if that is not set.

    It never raises: to carry on unheard beats to stop.

    :param fds: descriptors for systemd to keep; at most 253 go into one message (unix(7)).
    """
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # the abstract namespace, which has no file
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(address)
            socket.send_fds(sock, [state.encode()], fds)
    except (OSError, ValueError) as why:  # ValueError: an address that is none
        log.debug("cannot notify systemd at %r: %s", address, why)


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Seconds within which systemd wants to hear ``WATCHDOG=1``; None if it does not.

    See sd_watchdog_enabled(3).
    """
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for another process of the unit
    try:
        microseconds = int(environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None


class FdStore:
    """At first it holds what systemd has kept for us; see the head of this file.

    :param environ: of this process; programs that it starts are told nothing of descriptors.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._environ = environ
        self._kept: dict[str, list[int]] = {}
        given = {name: environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES")}
        if given["PID"] != str(os.getpid()) or not given["FDS"].isdecimal():
            return  # none, or meant for another process
        names = given["FDNAMES"].split(":")
        for i in range(int(given["FDS"])):
            with suppress(OSError):  # it is not open
                os.set_inheritable(_FIRST + i, False)
                name = names[i] if i < len(names) else "unknown"
                self._kept.setdefault(name, []).append(_FIRST + i)

    def held(self, name: str) -> tuple[int, ...]:
        """Those of a name."""
        return tuple(self._kept.get(name, ()))

    def retain(self, name: str, fits: Callable[[int], bool]) -> bool:
        """Close those of a name that do not fit; say whether any are left."""
        kept = self._kept.get(name, [])
        self._reduce(name, [fd for fd in kept if fits(fd)])
        return bool(self._kept.get(name))

    def fill(self, name: str, n: int, make: Callable[[], int]) -> tuple[int, ...]:
        """Exactly ``n`` of a name: those that are kept, and new ones; too many are closed.

        What ``make`` raises comes through; those that it has made before are kept.
        """
        self._reduce(name, self._kept.get(name, [])[:n])
        fds = self._kept.setdefault(name, [])
        made: list[int] = []
        try:
            while len(fds) + len(made) < n:
                made.append(make())
        finally:
            fds += made
            self._send(name, made)
        return tuple(fds)

    def drop_others(self, link: str) -> None:
        """Close all but those of one link."""
        for name in list(self._kept):
            if name.partition("/")[0] != link:
                self._reduce(name, [])

    def _reduce(self, name: str, fds: list[int]) -> None:
        before = self._kept.pop(name, [])
        if fds:
            self._kept[name] = fds
        if len(fds) < len(before):
            # It can be told to forget all of a name only.
            notify(f"FDSTOREREMOVE=1\nFDNAME={name}", self._environ)
            self._send(name, fds)
            for fd in set(before) - set(fds):
                os.close(fd)

    def _send(self, name: str, fds: Sequence[int]) -> None:
        if fds:
            notify(f"FDSTORE=1\nFDNAME={name}", self._environ, fds)


def is_our_namespace(fd: int) -> bool:
    """Whether it is the network namespace of this process; closes the descriptor."""
    try:
        return os.path.samestat(os.fstat(fd), Path("/proc/self/ns/net").stat())
    finally:
        os.close(fd)
