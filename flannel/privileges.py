"""Drops the capabilities that flanneld does not need, before an attacker could use them.

flanneld keeps CAP_NET_ADMIN, for links, routes, the TUN device and the firewall, and CAP_NET_RAW,
which iptables needs. Programs that flanneld starts cannot regain the others: they are removed from
the bounding set too, and no_new_privs is set (capabilities(7), prctl(2)).

Capabilities belong to a thread: call `drop` before a second thread starts.
"""

import ctypes
import logging
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path

from flannel.errors import KernelError

log = logging.getLogger(__name__)

# linux/capability.h, linux/prctl.h
CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_NET_RAW = 2, 12, 13
_CAP_SETPCAP = 8
_VERSION_3 = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: the lower halves, then the upper

KEPT = 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW

_libc = ctypes.CDLL(None, use_errno=True)


def drop(secrets: Iterable[Path] = ()) -> None:
    """Drop all capabilities but `KEPT`, for this process and the programs that it starts.

    :param secrets: files that must stay readable. Without CAP_DAC_READ_SEARCH, root can read only
        files of root or readable by all; for a file of another user that capability is kept.
    :raises KernelError: the kernel refuses.
    """
    kept = KEPT
    effective, permitted, inheritable = _get()
    if permitted & 1 << CAP_DAC_READ_SEARCH:
        _set(effective & KEPT, permitted, inheritable)
        unreadable = [path for path in secrets if not _is_readable(path)]
        if unreadable:
            kept |= 1 << CAP_DAC_READ_SEARCH
            log.warning("keeping CAP_DAC_READ_SEARCH: root does not own %s", unreadable[0])
        _set(effective, permitted, inheritable)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    # Without CAP_SETPCAP, as when systemd started us as another user, this cannot be changed.
    capability = 0
    while (bound := _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0)) >= 0:
        if bound and not kept & 1 << capability and effective & 1 << _CAP_SETPCAP:
            _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0), "cut the bounding set")
        capability += 1
    # Only if there is something to drop: a filter of system calls may forbid the call.
    if (effective | permitted | inheritable) & ~kept:
        _set(effective & kept, permitted & kept, inheritable & kept)


def is_no_flanneld(pid: int) -> bool:
    """Whether a process cannot be a flanneld; False if that is unknown.

    It is none if it cannot change links, as root of a container, or if /proc hides it: with
    ``hidepid`` (proc(5)), as in flanneld's unit, root sees those processes that have no
    capabilities beyond its own, and every flanneld drops the same ones.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except FileNotFoundError:
        return pid > 0 and _exists(pid)
    except OSError:
        return False
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return effective is not None and not int(effective[1], 16) & 1 << CAP_NET_ADMIN


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is not ours to signal
        pass
    return True


def _is_readable(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _get() -> tuple[int, int, int]:
    """The effective, permitted and inheritable set, a bit for each capability."""
    data = ctypes.create_string_buffer(_SETS.size)
    _check(_libc.capget(_header(), data), "read the capabilities")
    low = _SETS.unpack(data.raw)
    return low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32


def _set(*sets: int) -> None:
    halves = [each & 0xFFFFFFFF for each in sets] + [each >> 32 for each in sets]
    _check(_libc.capset(_header(), _SETS.pack(*halves)), "give up capabilities")


def _header() -> bytes:
    return struct.pack("=Ii", _VERSION_3, 0)  # 0: this thread


def _check(result: int, doing: str) -> None:
    if result != 0:
        raise KernelError(doing, ctypes.get_errno())
