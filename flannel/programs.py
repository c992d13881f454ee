"""Runs other programs: nft, iptables and the operator's hook. No other file of flanneld does.

    done = await programs.run(["nft", "-j", "-f", "-"], stdin=document, timeout=10)
    if done.status != 0:
        ...

No shell is used: a program gets its arguments unchanged. It has its own process group, so that its
child processes end with it after a timeout or a cancellation.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from flannel.errors import CannotRun


def wait_without_threads() -> None:
    """Learn of the end of a program by a pidfd (Linux 5.3).

    Python 3.11 would start a thread for each program; later versions use a pidfd by themselves.
    """
    if sys.version_info < (3, 12):
        with suppress(OSError):
            os.close(os.pidfd_open(os.getpid()))
            asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


class Done(NamedTuple):
    """How a program ended.

    :ivar status: its exit status; negative: the number of the signal that ended it.
    """

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def complaint(self) -> str:
        """For messages: its last words on one line, or else its status."""
        lines = (self.stderr.strip() or self.stdout.strip()).decode(errors="replace").splitlines()
        if lines:
            return lines[-1][:200]
        return f"signal {-self.status}" if self.status < 0 else f"exit status {self.status}"


async def run(
    argv: Sequence[str],
    *,
    timeout: float,  # noqa: ASYNC109 # its end kills the program
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
) -> Done:
    """Run a program until it has ended and closed its output.

    :param argv: the program, searched for in $PATH if it has no slash, and its arguments.
    :param timeout: seconds after which it and its child processes are killed.
    :param environ: its whole environment; None: that of this process.
    :raises CannotRun: it cannot be started, or did not end in time.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
            start_new_session=True,
        )
    except (OSError, ValueError, RuntimeError) as why:  # a NUL in a word; "can't start new thread"
        reason = why.strerror if isinstance(why, OSError) else why
        raise CannotRun(f"cannot run {argv[0]}: {reason}") from why
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError:
        raise CannotRun(f"cannot run {argv[0]}: it did not end within {timeout:g} s") from None
    finally:
        with suppress(ProcessLookupError):  # ended, and all of its group
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, stdout, stderr)
