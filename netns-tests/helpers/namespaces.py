"""Network namespaces in which programs run, and the waiting for what they do."""

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Completed = subprocess.CompletedProcess[str]

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_BUSY = 4
"""So many times as long as on an idle machine everything may take."""
_libc = ctypes.CDLL(None, use_errno=True)  # Python has os.setns() since 3.12


class WorldError(Exception):
    """Something of the world did not come about; the text says what and why."""


def wait_for(condition: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> Any:
    """Poll until ``condition()`` is true and return its value.

    :param seconds: after which it is true on a machine that has nothing else to do.

    It is checked once more when the time is over, as this process may have been paused itself.
    The pause between two checks is as long as the check took, so that checks which run programs
    leave the machine to the awaited work.
    """
    began = time.monotonic()
    deadline = began + _BUSY * seconds
    is_over = False
    while not (value := condition()):
        took = time.monotonic() - began
        if is_over:
            text = what if isinstance(what, str) else what()
            raise WorldError(f"waited {_BUSY * seconds:g} s for {text}")
        time.sleep(min(max(0.02, took), 1.0))
        began = time.monotonic()
        is_over = began > deadline
    return value


class Namespace:
    """A network namespace in which programs can be run."""

    def __init__(self, name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        self.ip("link set lo up")

    def run(self, *command: str) -> str:
        """What a program prints; it has to succeed."""
        return run("nsenter", f"--net=/run/netns/{self.name}", *command)

    def try_run(self, *command: str) -> Completed:
        """A program that may fail."""
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.name}", *command], capture_output=True, text=True
        )

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """A program that goes on running."""
        return subprocess.Popen(["nsenter", f"--net=/run/netns/{self.name}", *command], **options)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of this process that lives in there, as do those that it accepts."""
        with (
            Path("/proc/thread-self/ns/net").open() as before,
            Path("/run/netns", self.name).open() as namespace,
        ):
            _enter(namespace.fileno())
            try:
                return socket.socket(family, kind, protocol)
            finally:
                _enter(before.fileno())

    def ip(self, *commands: str) -> None:
        """Several ``ip`` commands, in one batch."""
        run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands) + "\n")

    def remove(self) -> None:
        """Give it up before the world ends; nothing may run in it."""
        run("ip", "netns", "del", self.name)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run(*command: str, stdin: str = "") -> str:
    """What a program prints; it has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, input=stdin)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise WorldError(f"{' '.join(command)}: {said}")
    return done.stdout


@contextmanager
def one_cpu() -> Iterator[None]:
    """Run the body, and the programs that it starts, on one CPU, which is always the same.

    Packets that are sent from one CPU are received in their order.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def is_paused(pid: int) -> bool:
    """Whether all threads of a process have been stopped, as SIGSTOP does after a moment."""
    threads = Path(f"/proc/{pid}/task").glob("*/stat")
    try:
        return all(each.read_text().rpartition(") ")[2][0] == "T" for each in threads)
    except OSError:  # a thread was just ending
        return False


def list_namespaces() -> list[str]:
    """The names of all that there are."""
    names = Path("/run/netns")
    return [path.name for path in names.iterdir()] if names.is_dir() else []


def remove_namespaces(tag: str) -> None:
    """Remove the namespaces of one world, what still runs in them, and its cgroups."""
    names = [name for name in list_namespaces() if name.startswith(f"{tag}-")]
    here = set()
    for name in names:
        with suppress(FileNotFoundError):  # another process may be sweeping as well
            file = Path("/run/netns", name).stat()
            here.add((file.st_dev, file.st_ino))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            file = (process / "ns/net").stat()
            if (file.st_dev, file.st_ino) in here:
                os.kill(int(process.name), signal.SIGKILL)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False)
    groups = Path("/sys/fs/cgroup")  # where one hierarchy is mounted, or a directory for each
    for top in (*groups.glob(f"{tag}-*"), *groups.glob(f"*/{tag}-*")):
        _remove_cgroups(top)


def remove_leftovers() -> None:
    """Remove the namespaces and files of processes that are gone."""
    files = Path(tempfile.gettempdir())
    for name in [*list_namespaces(), *(path.name for path in files.glob("fl*-*"))]:
        found = re.match(r"(fl(\d+)[a-z])-", name)
        if found is not None and not Path("/proc", found[2]).exists():
            remove_namespaces(found[1])
            shutil.rmtree(files / name, ignore_errors=True)


def _remove_cgroups(top: Path) -> None:
    """Remove a tree of cgroups, which dockerd has made; the programs in it have been killed."""
    for path in [*sorted(top.glob("**/*/"), reverse=True), top]:  # what is inside comes first
        for _ in range(100):  # some of them may be just ending
            with suppress(OSError):
                path.rmdir()
            if not path.exists():
                break
            time.sleep(0.02)
