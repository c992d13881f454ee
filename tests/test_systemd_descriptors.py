"""Descriptors kept from one run to the next, and given to systemd for the next process."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flannel.errors import KernelError
from flannel.systemd import FdStore

# What the process after an exec finds; 3 and 4 are what it is handed.
_TAKE = """
import os
from flannel.systemd import FdStore
store, seen = FdStore(os.environ), []
for name in ("link/a", "link/b", "unknown"):
    store.retain(name, lambda fd: seen.append(f"{name}={fd}{os.get_inheritable(fd)}") or True)
print(*seen, *[name for name in os.environ if name.startswith("LISTEN_")])
"""


class Systemd:
    """The socket that systemd listens at."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.environ = {"NOTIFY_SOCKET": str(path)}

    def heard(self) -> tuple[str, list[int]]:
        """A message, and the inodes of what came with it."""
        message, fds, _, _ = socket.recv_fds(self.socket, 4096, 253)
        inodes = [os.fstat(fd).st_ino for fd in fds]
        for fd in fds:
            os.close(fd)
        return message.decode(), inodes

    def is_quiet(self) -> bool:
        """Whether there is nothing more to hear."""
        try:
            self.heard()
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.socket.close()


@pytest.fixture
def store(systemd: Systemd) -> Iterator[FdStore]:
    store = FdStore(systemd.environ)
    yield store
    store.drop_others("")


def make() -> int:
    return os.memfd_create("test")


def inodes(fds: tuple[int, ...]) -> list[int]:
    return [os.fstat(fd).st_ino for fd in fds]


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").exists()


def test_new_descriptors_are_sent_in_one_message_and_kept(store: FdStore, systemd: Systemd) -> None:
    fds = store.fill("link/a", 2, make)
    assert systemd.heard() == ("FDSTORE=1\nFDNAME=link/a", inodes(fds))
    assert store.held("link/a") == fds
    assert store.held("link/b") == ()
    assert store.retain("link/a", is_open)
    assert store.fill("link/a", 2, make) == fds
    assert systemd.is_quiet()


def test_descriptors_that_are_added_are_sent_without_the_others(
    store: FdStore, systemd: Systemd
) -> None:
    before = store.fill("link/a", 1, make)
    systemd.heard()
    after = store.fill("link/a", 3, make)
    assert after[:1] == before
    assert systemd.heard() == ("FDSTORE=1\nFDNAME=link/a", inodes(after[1:]))


def test_descriptors_that_do_not_fit_are_closed_and_the_rest_sent_again(
    store: FdStore, systemd: Systemd
) -> None:
    """Systemd forgets all of a name, or none."""
    one, two = store.fill("link/a", 2, make)
    systemd.heard()
    assert store.retain("link/a", lambda fd: fd == two)
    assert systemd.heard() == ("FDSTOREREMOVE=1\nFDNAME=link/a", [])
    assert systemd.heard() == ("FDSTORE=1\nFDNAME=link/a", inodes((two,)))
    assert (is_open(one), is_open(two)) == (False, True)


def test_descriptors_beyond_the_wanted_number_are_closed(store: FdStore, systemd: Systemd) -> None:
    one, two = store.fill("link/a", 2, make)
    assert store.fill("link/a", 1, make) == (one,)
    assert not is_open(two)


def test_all_descriptors_are_closed_where_none_fits(store: FdStore, systemd: Systemd) -> None:
    store.fill("link/a", 1, make)
    systemd.heard()
    assert not store.retain("link/a", lambda _: False)
    assert systemd.heard() == ("FDSTOREREMOVE=1\nFDNAME=link/a", [])
    assert systemd.is_quiet()


def test_descriptors_made_before_a_failure_are_kept(store: FdStore, systemd: Systemd) -> None:
    descriptors = [make()]

    def fail_later() -> int:
        if not descriptors:
            raise KernelError("make it", 1)
        return descriptors.pop()

    made = descriptors[0]
    with pytest.raises(KernelError):
        store.fill("link/a", 2, fail_later)
    assert systemd.heard() == ("FDSTORE=1\nFDNAME=link/a", inodes((made,)))
    assert store.fill("link/a", 2, make)[0] == made


def test_no_descriptor_is_kept_after_a_failure_before_the_first(
    store: FdStore, systemd: Systemd
) -> None:
    with pytest.raises(ZeroDivisionError):
        store.fill("link/a", 1, lambda: 1 // 0)
    assert not store.retain("link/a", is_open)
    assert systemd.is_quiet()


@pytest.mark.parametrize(("link", "left"), [("link", (True, False)), ("", (False, False))])
def test_descriptors_of_other_links_are_dropped(
    store: FdStore, link: str, left: tuple[bool, bool]
) -> None:
    (mine,), (other,) = store.fill("link/a", 1, make), store.fill("link2/a", 1, make)
    store.drop_others(link)
    assert (is_open(mine), is_open(other)) == left


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=link/a:link/b", "link/a=3False link/b=4False"),
        ("LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=link/a:link/a", "link/a=3False link/a=4False"),
        ("LISTEN_PID=$$ LISTEN_FDS=2", "unknown=4False"),
        ("LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=x:y:link/b", ""),  # 5 is not open
        ("LISTEN_PID=1 LISTEN_FDS=2 LISTEN_FDNAMES=link/a:link/b", ""),
        ("LISTEN_PID=$$ LISTEN_FDS=-2 LISTEN_FDNAMES=link/a:link/b", ""),
        ("LISTEN_PID=$$ LISTEN_FDS=two LISTEN_FDNAMES=link/a:link/b", ""),
        ("LISTEN_PID=$$ LISTEN_FDNAMES=link/a:link/b", ""),
    ],
)
def test_descriptors_of_systemd_are_taken_and_their_variables_removed(
    variables: str, found: str
) -> None:
    command = f'exec 3</dev/null 4</dev/null; export {variables}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-c", _TAKE], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (f"{found}\n", "")
