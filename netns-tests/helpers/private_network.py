"""A network namespace for the test's own thread: empty, private, gone at the end.

For tests that call our modules directly. Whole hosts with daemons are `world`'s.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_network() -> Iterator[None]:
    """Run the body in a new network namespace, with the loopback link up."""
    with Path("/proc/thread-self/ns/net").open() as original:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            ip("link set lo up")
            yield
        finally:
            _check(_libc.setns(original.fileno(), _CLONE_NEWNET))


def ip(command: str) -> str:
    """Run ``ip COMMAND``, return what it prints."""
    return run("ip", *command.split())


def run(*command: str) -> str:
    """Run a program in this thread's namespace; a failure shows what it said."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


def link_index(name: str) -> int:
    """The index of a link."""
    return int(ip(f"-o link show {name}").partition(":")[0])


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
