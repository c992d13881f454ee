"""Programs that are forked from a process which has imported them already.

Two thirds of what the tests in namespaces computed was Python's imports, in 700 starts of flanneld
and 200 of `flannel`. Here a server imports both once; each start is a fork of it that gets the
arguments, environment, namespace, descriptors and priority which a start by nsenter would give, and
runs the same ``main()`` to the same end.

    program = fork_server.start(namespace, ["/.../flanneld", "-iface=eth0"], env, stdout, stderr)
    program.wait(30)

One server for each process of pytest, started when it is first needed; it ends with that process.
What looks at the start itself starts the program, as systemd does in test_boot.py: `is_wanted` says
for which starts a fork is the same. The demo, the soak test and the benchmarks never fork.
"""

import atexit
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

_LONGEST = 1 << 18  # bytes of a request, which holds an environment
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_PR_SET_NAME = 15  # linux/prctl.h
_AT_START = ("LD_", "PYTHON", "COVERAGE", "LISTEN_", "MALLOC_", "GLIBC_")
"""Beginnings of the variables that act when a program is started."""

is_enabled = False
"""Whether programs may be forked at all; conftest.py sets it."""


def is_wanted(changes: Mapping[str, str]) -> bool:
    """Whether a fork is the same as a start with these changes of the environment."""
    at_start = any(name.startswith(_AT_START) for name in changes)
    # coverage.py measures programs from their start on.
    return (
        is_enabled and not at_start and not any(name.startswith("COVERAGE") for name in os.environ)
    )


class Forked:
    """A program that runs; the part of `subprocess.Popen` that the tests use.

    :ivar returncode: None while it runs, or nobody has looked whether it still does.
    """

    def __init__(self, from_server: socket.socket) -> None:
        self._from_server = from_server
        message, fds, _, _ = socket.recv_fds(from_server, 100, 1)
        if not fds:
            raise RuntimeError("the server of forks could not fork")
        self.pid = int(message)
        self._pidfd = fds[0]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, as `subprocess.Popen` has it; None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        :raises subprocess.TimeoutExpired: it did not come in time.
        """
        status = self._look(timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired([f"process {self.pid}"], timeout)
        return status

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._from_server], [], [], timeout)[0]:
            message = self._from_server.recv(100)
            if not message:
                raise RuntimeError("the server of forks has ended")
            self.returncode = int(message)
            self._from_server.close()
            os.close(self._pidfd)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send it SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def start(
    namespace: str, argv: Sequence[str], env: Mapping[str, str], stdout: int, stderr: int
) -> Forked:
    """Start flanneld or `flannel`, whichever the last part of ``argv[0]`` names.

    :param env: the whole environment.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = {
        "namespace": namespace,
        "argv": list(argv),
        "env": dict(env),
        "cwd": str(Path.cwd()),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }
    with theirs:
        fds = [stdout, stderr, theirs.fileno()]
        socket.send_fds(_server(), [json.dumps(request).encode()], fds)
    return Forked(ours)


def run(
    namespace: str, argv: Sequence[str], env: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, with nothing to read."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        status = start(namespace, argv, env, out.fileno(), err.fileno()).wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(list(argv), status, *texts)


# What follows runs in the server.


def _serve(requests: socket.socket) -> Callable[[], int] | None:
    """Fork for each request and report each end; return in a fork what it is to run."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    poller = select.poll()
    poller.register(requests, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd != requests.fileno():
                poller.unregister(fd)
                os.close(fd)
                pid, client = running.pop(fd)
                _, status = os.waitpid(pid, 0)
                with client, suppress(OSError):
                    client.send(str(os.waitstatus_to_exitcode(status)).encode())
                continue
            message, fds, _, _ = socket.recv_fds(requests, _LONGEST, 3)
            if not message:
                return None
            client = socket.socket(fileno=fds.pop())
            pid = os.fork()
            if pid == 0:
                for other, (_, others_client) in running.items():
                    os.close(other)
                    others_client.close()
                client.close()
                requests.close()
                return _become(json.loads(message), fds)
            for each in fds:
                os.close(each)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, client
            poller.register(pidfd, select.POLLIN)
            with suppress(OSError):
                socket.send_fds(client, [str(pid).encode()], [pidfd])


def _become(request: dict[str, Any], fds: Sequence[int]) -> Callable[[], int]:
    """Make this process what a start would have made."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/run/netns", request["namespace"]).open() as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    for number, fd in enumerate(fds, 1):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["cwd"])
    os.setpriority(os.PRIO_PROCESS, 0, request["priority"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    name = Path(sys.argv[0]).name
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    return _mains()[name]


@cache
def _mains() -> dict[str, Callable[[], int]]:
    """The programs; what they import later is imported as well."""
    from flannel import __main__ as flanneld
    from flannel.cli import main as flannel

    for name in (
        *("flannel.backends.alloc", "flannel.backends.hostgw", "flannel.backends.udp"),
        *("flannel.backends.vxlan", "flannel.daemon.daemon", "flannel.health.pages"),
        "flannel.handover.all_recipients",
        *(
            "flannel.kernel.pyroute2_part",
            "flannel.stores.etcd_endpoints",
            "flannel.stores.etcd_v2",
        ),
        *("flannel.cli.check", "flannel.cli.cleanup", "flannel.cli.config", "flannel.cli.explain"),
        *("flannel.cli.hand_back", "flannel.cli.leases", "flannel.cli.peers", "flannel.cli.status"),
    ):
        import_module(name)
    return {"flanneld": flanneld.main, "flannel": flannel.main}


if __name__ == "__main__":
    _mains()
    program = _serve(socket.socket(fileno=int(sys.argv[1])))
    if program is not None:
        sys.exit(program())
