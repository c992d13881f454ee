"""Claims: allow one flanneld for each device, or each network's routes, in a network namespace.

    claims = Claims()
    claims.claim("flannel.1")      # AlreadyRunning: another flanneld has it
    claims.close()

    find_claims()                  # the claims here, and the process of each

A claim is an abstract unix socket (unix(7)): its name is unique within the network namespace, as
the device's is, and the kernel frees it when the process ends. Any process may bind such a name,
even in a container of the host's network, so a claim counts only if its process could serve a
network.
"""

import asyncio
import errno
import logging
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from flannel.errors import AlreadyRunning
from flannel.privileges import is_no_flanneld
from flannel.run_lock import describe

log = logging.getLogger(__name__)

_PREFIX = "flanneld/"
_PATIENCE = 1.0
_UCRED = struct.Struct("=3i")  # pid, uid, gid


class Claims:
    """Holds the claim of this process, one at a time."""

    def __init__(self) -> None:
        self._name = ""
        self._socket: socket.socket | None = None

    def claim(self, name: str) -> None:
        """Claim a device or a network by its name, instead of the one before; "" claims nothing.

        :raises AlreadyRunning: another flanneld has it; the claim before stays.
        """
        if name == self._name:
            return
        claimed = _bind(name) if name else None
        self.close()
        self._name, self._socket = name, claimed
        if claimed is not None:
            asyncio.get_running_loop().add_reader(claimed, _answer, claimed)

    def of_others(self) -> set[str]:
        """The names that other flannelds of this network namespace have claimed."""
        return find_claims().keys() - {self._name}

    def close(self) -> None:
        """Claim nothing."""
        if self._socket is not None:
            with suppress(RuntimeError):  # at the end there is no loop
                asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        self._name, self._socket = "", None


class NoClaims(Claims):
    """Claims nothing, for commands and tests."""

    def claim(self, name: str) -> None:
        """Do nothing."""

    def of_others(self) -> set[str]:
        """Nothing."""
        return set()


def find_claims() -> dict[str, str]:
    """The names that flannelds of this network namespace have claimed, and by which process."""
    try:
        # The thread's own: "self" is the main thread, which may be in another namespace.
        lines = Path("/proc/thread-self/net/unix").read_text(errors="replace").splitlines()
    except OSError:
        return {}
    # Num, RefCount, Protocol, Flags, Type, St, Inode, Path: an abstract one begins with @.
    paths = {path for line in lines for path in line.split()[7:8]}
    start = f"@{_PREFIX}"
    names = sorted(path.removeprefix(start) for path in paths if path.startswith(start))
    return {name: holder for name in names if (holder := _holder(name)) is not None}


def _bind(name: str) -> socket.socket | None:
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        claimed.bind(_address(name))
        claimed.listen()
    except OSError as why:
        claimed.close()
        if why.errno == errno.EADDRINUSE:
            holder = _holder(name)
            if holder is not None:
                raise AlreadyRunning(
                    f"cannot use {name}: another flanneld, {holder}, uses it"
                ) from why
        log.warning("cannot claim %s: %s; going on without", name, why.strerror)
        return None
    return claimed


def _answer(claimed: socket.socket) -> None:
    """Accept a process that asks for our pid: the kernel reports it, so nothing is sent."""
    with suppress(OSError):
        claimed.accept()[0].close()


def _holder(name: str) -> str | None:
    """The process that has a claim, for messages; None: no process whose claim counts."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_PATIENCE)
        try:
            asking.connect(_address(name))
            found = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        except OSError:  # also if its queue is full: it may be any process
            return None
    pid, uid, _ = _UCRED.unpack(found)
    is_weaker = is_no_flanneld(pid) and not is_no_flanneld(os.getpid())
    counts = uid in (0, os.geteuid()) and not is_weaker
    return describe(pid) if counts else None


def _address(name: str) -> str:
    return f"\0{_PREFIX}{name}"
