"""Tell systemd how we are: sd_notify(3), which is one datagram."""

import logging
import os
import socket
from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

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
