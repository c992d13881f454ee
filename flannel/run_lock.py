"""RunLock: allows one flanneld for each directory of its files, and shows which one runs.

    lock = RunLock(subnet_file.parent, state_dir)
    lock.take()                    # AlreadyRunning: another flanneld has one of them
    await lock.keep()              # makes lock files again that somebody removes
    lock.release()

    find_holder(directory)         # the flanneld that runs there; "" if none does

A lock is flock(2) on ``flanneld.lock`` in the directory. The kernel releases it when the process
ends for any reason. The file stays; it names the process, the systemd unit and the host of the last
holder. Hosts may share a directory, and a process may be in a container.

Root of a container that is given the directory, for subnet.env, can lock the file too. A lock does
not count if all its holders are processes that could not serve a network.
"""

import asyncio
import logging
import os
import socket
import stat
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
from pathlib import Path
from time import monotonic, sleep

from flannel.atomic_file import make_directory
from flannel.errors import AlreadyRunning
from flannel.once import Once
from flannel.privileges import is_no_flanneld
from flannel.threads import NoThread, in_thread

log = logging.getLogger(__name__)

FILE_NAME = "flanneld.lock"

_PATIENCE = 1.0
"""Seconds to wait for another flanneld that is about to end; it may release its lease first."""
_POLL = 0.1
_LOOK = 2.0
"""Seconds between two looks at the lock files."""
_MAX_BYTES = 200
_LOCKS = Path("/proc/locks")


class RunLock:
    """Locks the directories of one flanneld, and makes them; both may be the same.

    :param run: for files that others read.
    :param state: for files that nobody else reads.
    """

    def __init__(self, run: Path, state: Path) -> None:
        self._paths = {run / FILE_NAME: 0o755, state / FILE_NAME: 0o700}
        self._held: dict[Path, int] = {}
        self._problems = Once(log)

    def take(self) -> None:
        """Lock all directories; those that cannot be locked are logged.

        This may block for a second.

        :raises AlreadyRunning: another flanneld has one of them; nothing is locked then.
        """
        deadline = monotonic() + _PATIENCE
        for path in self._paths:
            while holder := self._take(path):
                if monotonic() > deadline:
                    self.release()
                    raise AlreadyRunning(f"cannot use {path.parent}: {holder} uses it")
                sleep(_POLL)

    async def keep(self) -> None:
        """Keep the locks until cancelled: make and lock a file again that somebody has removed."""
        while True:
            await asyncio.sleep(_LOOK)
            with suppress(NoThread):  # the next look tries again
                # In a thread: if a file server does not answer, the call never returns.
                await in_thread(self._look)

    def release(self) -> None:
        """Release all locks; the files stay."""
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    def _look(self) -> None:
        for path in self._paths:
            fd = self._held.get(path)
            if fd is not None and _is_at(path, fd):
                continue
            if holder := self._take(path):
                self._problems.warn(path, f"cannot use {path.parent}: {holder} uses it")

    def _take(self, path: Path) -> str:
        """Lock one directory; return the holder if that is another flanneld.

        If the file cannot be made or locked, there is no lock.
        """
        try:
            make_directory(path.parent, self._paths[path])
            fd = _open(path, os.O_RDWR | os.O_CREAT)
        except OSError as why:
            self._problems.warn(path, f"cannot lock {path}: {why.strerror}")
            return ""
        try:
            if any(os.path.samestat(os.fstat(fd), os.fstat(each)) for each in self._held.values()):
                os.close(fd)
                return ""
            flock(fd, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            holder, is_weak = _holder(fd), _is_held_by_weaker(fd)
            os.close(fd)
            if is_weak:
                text = "a process that is no flanneld holds the lock"
                self._problems.warn(path, f"cannot lock {path}: {text}")
            return "" if is_weak else holder
        except OSError as why:
            os.close(fd)
            self._problems.warn(path, f"cannot lock {path}: {why.strerror}")
            return ""
        if path in self._held:
            os.close(self._held[path])  # this lock is on a file that was removed
        self._held[path] = fd
        _sign(fd)
        self._problems.forget(path)
        return ""


def find_holder(directory: Path) -> str:
    """The flanneld that has the lock of a directory, for messages; "" if none has it.

    :raises OSError: the lock file cannot be opened.
    """
    try:
        fd = _open(directory / FILE_NAME, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        # Shared: processes that ask are not taken for a flanneld, and NFS needs no write access.
        flock(fd, LOCK_SH | LOCK_NB)
    except BlockingIOError:
        return "" if _is_held_by_weaker(fd) else _holder(fd)
    except OSError:
        return ""  # files that cannot be locked are not locked by a flanneld either
    finally:
        os.close(fd)
    return ""


def describe(pid: int) -> str:
    """A process for messages, with the systemd unit that it belongs to.

    :param pid: 0 if this PID namespace does not show the process.
    """
    if not pid:
        return "a process of another PID namespace"
    unit = ""
    with suppress(OSError):
        # cgroups(7): hierarchy, controllers, path.
        for line in Path(f"/proc/{pid}/cgroup").read_text(errors="replace").splitlines():
            last = line.rpartition("/")[2]
            if last.endswith(".service"):
                unit = f" of {last}"
    return f"process {pid}{unit}"


def _open(path: Path, flags: int) -> int:
    """Open a lock file.

    :raises OSError: it cannot be opened, or is not what a flanneld makes.
    """
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        os.close(fd)
        raise OSError(0, "it is not a file of this user")
    return fd


def _sign(fd: int) -> None:
    """Write the holder into its lock file. The lock counts without: the disk may be full."""
    with suppress(OSError):
        # Only for root: any process that can read it can lock it.
        os.fchmod(fd, 0o600)
    with suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{describe(os.getpid())}\n{socket.gethostname()}\n".encode(), 0)


def _holder(fd: int) -> str:
    try:
        text = os.pread(fd, _MAX_BYTES, 0).decode(errors="replace")
    except OSError:
        text = ""
    process, _, host = text.strip().partition("\n")
    if host and host != socket.gethostname():
        process += f" on {host}"
    return (
        f"another flanneld, {process}," if process and process.isprintable() else "another flanneld"
    )


def _is_held_by_weaker(fd: int) -> bool:
    """Whether all holders of the lock on a file are processes that could not serve a network.

    False if a holder is unknown: on another host, or in a PID namespace beside ours.
    """
    found = os.fstat(fd)
    # proc(5): number, type, mode, access, PID, device (both halves in hexadecimal) and inode.
    inode = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        lines = _LOCKS.read_text(errors="replace").splitlines()
    except OSError:
        return False
    locks = [words for line in lines if "->" not in (words := line.split()) and len(words) > 5]
    pids = {int(words[4]) for words in locks if (words[1], words[5]) == ("FLOCK", inode)}
    return bool(pids) and all(map(is_no_flanneld, pids)) and not is_no_flanneld(os.getpid())


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(fd))
    except OSError:
        return False
