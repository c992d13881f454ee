"""Privileges: two capabilities are left; a third for a secret of another user."""

import ctypes
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flannel import privileges
from flannel.errors import KernelError
from flannel.privileges import CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_NET_RAW, KEPT

CAP_SETPCAP, CAP_SYS_ADMIN, LAST = 8, 21, 40
ALL = (1 << LAST + 1) - 1
SETS = struct.Struct("=6I")


class FakeLibc:
    """A kernel that keeps the capabilities of one thread.

    :ivar sets: effective, permitted, inheritable.
    :ivar refused: names of calls that end with EPERM.
    """

    def __init__(self, effective: int, permitted: int, inheritable: int = 0) -> None:
        self.sets = [effective, permitted, inheritable]
        self.bounding = ALL
        self.no_new_privs = False
        self.refused: set[str] = set()
        self.calls: list[str] = []

    def _refuses(self, name: str) -> bool:
        self.calls.append(name)
        if name in self.refused:
            ctypes.set_errno(errno.EPERM)
            return True
        return False

    def prctl(self, operation: int, argument: int, *rest: int) -> int:
        if operation == privileges._PR_SET_NO_NEW_PRIVS:
            if self._refuses("no_new_privs"):
                return -1
            self.no_new_privs = argument == 1
            return 0
        if argument > LAST:
            ctypes.set_errno(errno.EINVAL)
            return -1
        if operation == privileges._PR_CAPBSET_READ:
            return self.bounding >> argument & 1
        assert operation == privileges._PR_CAPBSET_DROP
        if self._refuses("bound") or not self.sets[0] & 1 << CAP_SETPCAP:
            ctypes.set_errno(errno.EPERM)
            return -1
        self.bounding &= ~(1 << argument)
        return 0

    def capget(self, header: bytes, data: Any) -> int:
        assert struct.unpack("=Ii", header) == (0x20080522, 0)
        if self._refuses("capget"):
            return -1
        low, high = ([each >> shift & 0xFFFFFFFF for each in self.sets] for shift in (0, 32))
        data.raw = SETS.pack(*low, *high)
        return 0

    def capset(self, header: bytes, data: bytes) -> int:
        if self._refuses("capset"):
            return -1
        halves = SETS.unpack(data)
        wanted = [low | high << 32 for low, high in zip(halves[:3], halves[3:], strict=True)]
        # capabilities(7): nothing is gained that was not permitted.
        assert not wanted[1] & ~self.sets[1]
        assert not wanted[0] & ~wanted[1]
        self.sets = wanted
        return 0


def given(monkeypatch: pytest.MonkeyPatch, *sets: int) -> FakeLibc:
    libc = FakeLibc(*sets)
    monkeypatch.setattr(privileges, "_libc", libc)
    return libc


def test_two_of_roots_capabilities_are_left_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = given(monkeypatch, ALL, ALL, 1 << CAP_SYS_ADMIN)
    privileges.drop()
    assert libc.sets == [KEPT, KEPT, 0]
    assert libc.bounding == KEPT == 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW
    assert libc.no_new_privs


def test_secrets_that_root_can_read_need_no_capability(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key").write_text("x")
    libc = given(monkeypatch, ALL, ALL)
    privileges.drop([tmp_path / "key"])
    assert libc.sets[:2] == [KEPT, KEPT]
    assert caplog.messages == []


def test_one_more_capability_is_kept_for_a_secret_of_another_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be read without it is stood for by a file that is not there."""
    libc = given(monkeypatch, ALL, ALL)
    privileges.drop([tmp_path / "key"])
    kept = KEPT | 1 << CAP_DAC_READ_SEARCH
    assert libc.sets[:2] == [kept, kept]
    assert libc.bounding == kept
    assert caplog.messages == [f"keeping CAP_DAC_READ_SEARCH: root does not own {tmp_path / 'key'}"]


def test_secrets_are_tried_without_the_capability(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    libc = given(monkeypatch, ALL, ALL)
    tried = []

    def is_readable(path: Path) -> bool:
        tried.append(libc.sets[0] & 1 << CAP_DAC_READ_SEARCH)
        return True

    monkeypatch.setattr(privileges, "_is_readable", is_readable)
    privileges.drop([tmp_path / "key"])
    assert tried == [0]


def test_another_user_with_two_capabilities_keeps_them_and_asks_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where systemd starts flanneld with AmbientCapabilities."""
    libc = given(monkeypatch, KEPT, KEPT, KEPT)
    libc.refused = {"capset", "bound"}
    privileges.drop([tmp_path / "key"])
    assert libc.sets == [KEPT, KEPT, KEPT]
    assert libc.no_new_privs
    assert "capset" not in libc.calls


def test_capabilities_are_dropped_where_the_bounding_set_cannot_be_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = KEPT | 1 << CAP_SYS_ADMIN
    libc = given(monkeypatch, few, few, few)
    privileges.drop()
    assert libc.sets == [KEPT, KEPT, KEPT]
    assert libc.bounding == ALL


@pytest.mark.parametrize(
    ("call", "doing"),
    [
        ("capget", "read the capabilities"),
        ("capset", "give up capabilities"),
        ("no_new_privs", "set no_new_privs"),
        ("bound", "cut the bounding set"),
    ],
)
def test_the_call_that_the_kernel_refuses_is_named(
    monkeypatch: pytest.MonkeyPatch, call: str, doing: str
) -> None:
    libc = given(monkeypatch, ALL, ALL)
    libc.refused = {call}
    with pytest.raises(KernelError, match=f"cannot {doing}: Operation not permitted"):
        privileges.drop()


def test_a_real_process_has_no_more_than_that_and_can_get_no_more() -> None:
    script = (
        "from flannel import privileges; privileges.drop(); print(open('/proc/self/status').read())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert found["NoNewPrivs"] == "1"
    is_root = os.geteuid() == 0
    for name in ("CapEff", "CapPrm", "CapInh", *(["CapBnd"] if is_root else [])):
        assert not int(found[name], 16) & ~KEPT


class TestOtherProcesses:
    """Which processes cannot be a flanneld."""

    def status(self, monkeypatch: pytest.MonkeyPatch, answer: str | OSError) -> None:
        def read(_: Path, **__: Any) -> str:
            if isinstance(answer, OSError):
                raise answer
            return answer

        monkeypatch.setattr(Path, "read_text", read)

    @pytest.mark.parametrize(
        ("effective", "expected"), [(KEPT, False), (ALL, False), (1 << CAP_NET_RAW, True)]
    )
    def test_a_process_that_cannot_change_links_is_not_a_flanneld(
        self, monkeypatch: pytest.MonkeyPatch, effective: int, expected: bool
    ) -> None:
        self.status(monkeypatch, f"Name:\tx\nCapEff:\t{effective:016x}\nSeccomp:\t0\n")
        assert privileges.is_no_flanneld(1) is expected

    def test_a_process_that_proc_hides_is_not_a_flanneld(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.status(monkeypatch, FileNotFoundError())
        assert privileges.is_no_flanneld(1)
        assert not privileges.is_no_flanneld(0)  # in a PID namespace beside this one
        assert not privileges.is_no_flanneld(2**22 + 1)  # it has ended (PID_MAX_LIMIT)
        self.status(monkeypatch, PermissionError())
        assert not privileges.is_no_flanneld(1)
        self.status(monkeypatch, "it has ended\n")
        assert not privileges.is_no_flanneld(1)
