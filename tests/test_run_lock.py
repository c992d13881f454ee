"""One flanneld for each directory of its files."""

import asyncio
import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import pytest
from virtual_time import Clock
from waiting import until

from flannel import run_lock as module
from flannel.errors import AlreadyRunning
from flannel.run_lock import FILE_NAME, RunLock, describe, find_holder
from flannel.threads import NoThread

OTHER = """
import sys
from pathlib import Path
from flannel.run_lock import RunLock
lock = RunLock(*map(Path, sys.argv[1:]))
lock.take()
print("taken", flush=True)
sys.stdin.read()
"""


class Other:
    """Another process that has the locks of two directories."""

    def __init__(self, run: Path, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(run), str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "taken\n"

    @property
    def name(self) -> str:
        return f"another flanneld, process {self.process.pid},"

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "run", tmp_path / "lib/state"


@pytest.fixture
def other(directories: tuple[Path, Path]) -> Iterator[Other]:
    made = Other(*directories)
    yield made
    made.end()


@pytest.fixture
def lock(directories: tuple[Path, Path]) -> Iterator[RunLock]:
    made = RunLock(*directories)
    yield made
    made.release()


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_the_locks_name_this_process_and_only_their_owner_may_open_them(
    lock: RunLock, directories: tuple[Path, Path]
) -> None:
    lock.take()
    for directory in directories:
        file = directory / FILE_NAME
        assert file.read_text() == f"{describe(os.getpid())}\n{socket.gethostname()}\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert find_holder(directory) == f"another flanneld, {describe(os.getpid())},"
    run, state = directories
    assert [stat.S_IMODE(each.stat().st_mode) for each in (run, state)] == [0o755, 0o700]


def test_a_lock_file_that_others_could_open_is_made_private(
    lock: RunLock, directories: tuple[Path, Path]
) -> None:
    file = directories[0] / FILE_NAME
    file.parent.mkdir()
    file.write_text("process 1 of a.service\n" * 3)
    file.chmod(0o666)
    lock.take()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == f"{describe(os.getpid())}\n{socket.gethostname()}\n"


@pytest.mark.parametrize("shared", [0, 1])
def test_a_second_flanneld_is_refused_and_the_first_named(
    directories: tuple[Path, Path], other: Other, tmp_path: Path, shared: int
) -> None:
    mine = [tmp_path / "run2", tmp_path / "state2"]
    mine[shared] = directories[shared]
    lock = RunLock(*mine)
    with pytest.raises(AlreadyRunning) as raised:
        lock.take()
    assert str(raised.value) == f"cannot use {mine[shared]}: {other.name} uses it"
    # It has left nothing locked.
    assert find_holder(mine[1 - shared]) == ""
    assert find_holder(mine[shared]) == other.name


def test_a_process_that_is_not_a_flanneld_cannot_prevent_a_start(
    directories: tuple[Path, Path],
    lock: RunLock,
    other: Other,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "is_no_flanneld", lambda pid: pid == other.process.pid)
    path = directories[0] / FILE_NAME
    assert find_holder(directories[0]) == ""
    lock.take()
    assert f"cannot lock {path}: a process that is no flanneld holds the lock" in caplog.text
    other.end()
    lock._look()  # it locks the files as soon as it can
    monkeypatch.undo()
    assert str(os.getpid()) in find_holder(directories[0])


def test_a_holder_that_is_not_known_is_a_flanneld(
    directories: tuple[Path, Path], other: Other, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "is_no_flanneld", lambda _: True)  # this process as well
    assert find_holder(directories[0]) == other.name
    monkeypatch.setattr(module, "is_no_flanneld", lambda pid: pid == other.process.pid)
    monkeypatch.setattr(module, "_LOCKS", tmp_path / "locks")
    assert find_holder(directories[0]) == other.name
    (tmp_path / "locks").write_text("1: POSIX ADVISORY WRITE 1 fe:00:1 0 EOF\n1: -> FLOCK\n\n")
    assert find_holder(directories[0]) == other.name


def test_several_flannelds_may_run_with_different_directories(tmp_path: Path, other: Other) -> None:
    lock = RunLock(tmp_path / "a", tmp_path / "b")
    lock.take()
    lock.release()


def test_a_directory_that_is_both_has_one_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    for state in (tmp_path, tmp_path / "link"):
        lock = RunLock(tmp_path, state)
        lock.take()
        assert find_holder(tmp_path) != ""
        lock.release()
        assert find_holder(tmp_path) == ""


def test_a_flanneld_that_is_just_ending_is_waited_for(
    lock: RunLock, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 250)
    monkeypatch.setattr(module, "sleep", lambda _: other.end())
    lock.take()


def test_the_end_of_a_process_is_the_end_of_its_locks(
    lock: RunLock, directories: tuple[Path, Path], other: Other
) -> None:
    assert find_holder(directories[0]) == other.name
    other.end()
    assert find_holder(directories[0]) == ""
    lock.take()


def test_a_holder_whose_name_is_not_text_is_another_flanneld(
    directories: tuple[Path, Path], other: Other
) -> None:
    file = directories[0] / FILE_NAME
    for content in (b"", b"\x1b[2J", b"a\nb\nc", b"\xff\xfe"):
        file.write_bytes(content)
        holder = find_holder(directories[0])
        assert holder in ("another flanneld", "another flanneld, \ufffd\ufffd,")


def test_a_holder_on_another_host_that_shares_the_directory_is_named_with_its_host(
    directories: tuple[Path, Path], other: Other
) -> None:
    (directories[0] / FILE_NAME).write_text("process 7 of flanneld.service\nnode-b\n")
    name = "another flanneld, process 7 of flanneld.service on node-b,"
    assert find_holder(directories[0]) == name


def test_no_flanneld_is_found_without_a_lock_file(tmp_path: Path) -> None:
    assert find_holder(tmp_path) == ""


class TestProblems:
    """Where a directory cannot be locked, flanneld runs without a lock on it."""

    @pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
    def test_a_directory_link_or_fifo_in_place_of_the_lock_file_is_named_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
    ) -> None:
        path = tmp_path / FILE_NAME
        if kind == "directory":
            path.mkdir()
        elif kind == "link":
            path.symlink_to("/dev/null")
        else:
            os.mkfifo(path)
        lock = RunLock(tmp_path, tmp_path / "state")
        lock.take()
        lock.take()
        assert [each.partition(": ")[0] for each in caplog.messages] == [f"cannot lock {path}"]
        assert find_holder(tmp_path / "state") != ""
        lock.release()

    def test_a_file_of_another_user_is_not_locked_for_he_could_hold_it(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / FILE_NAME).touch()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        RunLock(tmp_path, tmp_path).take()
        assert "it is not a file of this user" in caplog.text
        with pytest.raises(OSError, match="it is not a file of this user"):
            find_holder(tmp_path)

    def test_a_directory_that_cannot_be_made_is_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        lock = RunLock(tmp_path, tmp_path / "file/state")
        lock.take()
        lock.release()
        assert f"cannot lock {tmp_path}/file/state/{FILE_NAME}: " in caplog.text
        assert find_holder(tmp_path / "file/state") == ""

    def test_a_file_system_without_locks_is_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(module, "flock", refuse)
        RunLock(tmp_path, tmp_path).take()
        assert f"cannot lock {tmp_path}/{FILE_NAME}: No locks available" in caplog.text
        assert find_holder(tmp_path) == ""

    @pytest.mark.parametrize("call", ["fchmod", "ftruncate", "pwrite"])
    def test_a_file_that_cannot_be_written_is_locked_nevertheless(
        self, lock: RunLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, call, refuse)
            lock.take()
        with pytest.raises(AlreadyRunning, match="another flanneld"):
            RunLock(tmp_path / "run", tmp_path / "other").take()


class TestKeeping:
    """Somebody removes the files while a flanneld runs."""

    async def kept(self, lock: RunLock, *paths: Path) -> None:
        keeping = asyncio.create_task(lock.keep())
        await until(lambda: all(path.exists() for path in paths) or keeping.done())
        keeping.cancel()

    def test_a_file_that_is_removed_is_made_and_locked_again(
        self, clock: Clock, lock: RunLock, directories: tuple[Path, Path]
    ) -> None:
        clock.rule(module)
        lock.take()
        run, state = (directory / FILE_NAME for directory in directories)
        before = inode(state)
        run.unlink()
        clock.run(self.kept(lock, run))
        assert find_holder(run.parent) != ""
        assert inode(state) == before
        assert len(lock._held) == 2

    def test_a_whole_directory_may_be_removed(
        self, clock: Clock, lock: RunLock, directories: tuple[Path, Path]
    ) -> None:
        clock.rule(module)
        lock.take()
        file = directories[1] / FILE_NAME
        file.unlink()
        file.parent.rmdir()
        clock.run(self.kept(lock, file))
        assert find_holder(file.parent) != ""
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_the_lock_files_are_made_again_later_where_no_thread_can_be_started(
        self,
        clock: Clock,
        lock: RunLock,
        directories: tuple[Path, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        lock.take()
        file = directories[0] / FILE_NAME
        file.unlink()
        failures = iter([NoThread("can't start new thread")])

        def failing(run: Callable[[], None]) -> None:
            for error in failures:
                raise error
            run()

        monkeypatch.setattr("flannel.threads.start", failing)
        clock.run(self.kept(lock, file))
        assert find_holder(file.parent) != ""

    def test_another_flanneld_that_took_the_locks_meanwhile_is_named(
        self,
        clock: Clock,
        lock: RunLock,
        directories: tuple[Path, Path],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        clock.rule(module)
        lock.take()
        for directory in directories:
            (directory / FILE_NAME).unlink()
        other = Other(*directories)

        async def scenario() -> None:
            keeping = asyncio.create_task(lock.keep())
            await until(lambda: len(caplog.messages) == 2)
            await asyncio.sleep(60)
            keeping.cancel()

        try:
            clock.run(scenario())
            assert caplog.messages == [
                f"cannot use {directory}: {other.name} uses it" for directory in directories
            ]
        finally:
            other.end()


def test_a_program_that_is_started_does_not_inherit_the_lock(
    lock: RunLock, directories: tuple[Path, Path]
) -> None:
    lock.take()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as program:
        lock.release()
        assert find_holder(directories[0]) == ""
        program.kill()


def test_looking_for_a_holder_takes_no_lock(lock: RunLock, directories: tuple[Path, Path]) -> None:
    lock.take()
    lock.release()
    assert find_holder(directories[0]) == ""
    with (directories[0] / FILE_NAME).open() as file:
        flock(file, LOCK_EX | LOCK_NB)


@pytest.mark.parametrize(
    ("cgroup", "named"),
    [
        ("0::/system.slice/flanneld.service\n", " of flanneld.service"),
        ("12:pids:/x\n1:name=systemd:/system.slice/f.service\n0::/\n", " of f.service"),
        ("0::/user.slice/session-1.scope\n", ""),
        ("", ""),
    ],
)
def test_a_process_is_named_with_its_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, named: str
) -> None:
    (tmp_path / "cgroup").write_text(cgroup)
    monkeypatch.setattr(module, "Path", lambda text: tmp_path / text.rpartition("/")[2])
    assert describe(7) == f"process 7{named}"


def test_a_process_of_another_container_has_no_number_here() -> None:
    assert describe(0) == "a process of another PID namespace"


def test_a_process_that_cannot_be_seen_is_named_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Path", lambda text: tmp_path / "gone")
    assert describe(7) == "process 7"
