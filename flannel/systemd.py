"""Notifies systemd, and lets it keep descriptors for the next flanneld.

`notify` is sd_notify(3), one datagram. `FdStore` holds descriptors: systemd keeps them open and
passes them to the next flanneld, so that packets wait in the queue of a TUN device or socket
meanwhile, and are late instead of lost. See FDSTORE=1 in sd_notify(3), FileDescriptorStoreMax= in
systemd.service(5) and sd_listen_fds(3). Without systemd, descriptors are kept from one run of the
network to the next.

    store = FdStore(os.environ)
    store.retain("flannel0/udp", is_usable)         # close those that do not pass the check
    fds = store.fill("flannel0/udp", n, make)       # make the missing ones

A name is that of a link, ``/``, and the kind of descriptor. The store owns the descriptors and
closes them.
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
    """Send ``state``, e.g. ``READY=1``, to $NOTIFY_SOCKET, if that is set.

    It never raises: flanneld goes on without systemd.

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
    except (OSError, ValueError) as why:  # ValueError: not an address
        log.debug("cannot notify systemd at %r: %s", address, why)


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Seconds within which systemd expects ``WATCHDOG=1``; None if it does not expect it.

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
    """Starts with the descriptors that systemd has kept; see the head of this file.

    :param environ: of this process; the variables about descriptors are removed, so that programs
        started later do not get them.
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
        """The descriptors of a name."""
        return tuple(self._kept.get(name, ()))

    def retain(self, name: str, fits: Callable[[int], bool]) -> bool:
        """Close the descriptors of a name that are not usable; return whether any are left."""
        kept = self._kept.get(name, [])
        self._reduce(name, [fd for fd in kept if fits(fd)])
        return bool(self._kept.get(name))

    def fill(self, name: str, n: int, make: Callable[[], int]) -> tuple[int, ...]:
        """Exactly ``n`` descriptors of a name: the kept ones, and new ones; extra ones are closed.

        If ``make`` raises, the descriptors that it has made before are kept.
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
        """Close all descriptors but those of one link."""
        for name in list(self._kept):
            if name.partition("/")[0] != link:
                self._reduce(name, [])

    def _reduce(self, name: str, fds: list[int]) -> None:
        before = self._kept.pop(name, [])
        if fds:
            self._kept[name] = fds
        if len(fds) < len(before):
            # systemd can only remove all descriptors of a name.
            notify(f"FDSTOREREMOVE=1\nFDNAME={name}", self._environ)
            self._send(name, fds)
            for fd in set(before) - set(fds):
                os.close(fd)

    def _send(self, name: str, fds: Sequence[int]) -> None:
        if fds:
            notify(f"FDSTORE=1\nFDNAME={name}", self._environ, fds)


def is_our_namespace(fd: int) -> bool:
    """Whether ``fd`` is the network namespace of this process; closes the descriptor."""
    try:
        return os.path.samestat(os.fstat(fd), Path("/proc/self/ns/net").stat())
    finally:
        os.close(fd)
