"""Other programs: their results, and their end after a timeout."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from waiting import until, wait_for

from flannel import programs
from flannel.errors import CannotRun


def run(work: Coroutine[Any, Any, programs.Done]) -> programs.Done:
    return asyncio.run(asyncio.wait_for(work, 250))


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has as well."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def test_a_program_gets_its_arguments_input_and_environment_unchanged() -> None:
    script = 'cat; printf "[%s]" "$1" "$NAME" "$HOME"; echo so >&2; exit 3'
    words = ["sh", "-c", script, "sh", "$(id) 'x"]
    done = run(programs.run(words, timeout=200, stdin=b"in\n", environ={"NAME": "a b"}))
    assert done == (3, b"in\n[$(id) 'x][a b][]", b"so\n")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo first >&2; echo last >&2; exit 1", "last"),
        ("echo out; exit 1", "out"),
        ("exit 7", "exit status 7"),
        ("kill -9 $$", "signal 9"),
    ],
)
def test_a_failure_is_reported_in_one_line(script: str, complaint: str) -> None:
    assert run(programs.run(["sh", "-c", script], timeout=200)).complaint == complaint


def test_input_that_the_program_does_not_read_is_dropped() -> None:
    assert run(programs.run(["true"], timeout=200, stdin=b"x" * 1_000_000)).status == 0


@pytest.mark.parametrize("program", ["/does/not/exist", "no-such-program", "/etc/passwd", "a\0b"])
def test_a_program_that_cannot_be_started_is_named(program: str) -> None:
    with pytest.raises(CannotRun, match=r"cannot run .*: "):
        run(programs.run([program], timeout=200))


def is_written(path: Path) -> bool:
    return path.exists() and path.read_text() != ""


def test_a_program_is_killed_after_its_timeout_with_all_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 100 & echo $$ $! > {pids}; wait"

    async def main() -> None:
        task = asyncio.create_task(programs.run(["sh", "-c", script], timeout=50))
        await until(lambda: is_written(pids), "process")
        loop = asyncio.get_running_loop()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + 50)
        with pytest.raises(CannotRun, match="cannot run sh: it did not end within 50 s"):
            await task

    asyncio.run(main())
    wait_for(lambda: all(map(is_gone, map(int, pids.read_text().split()))), "end of all")


def test_a_program_is_killed_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def main() -> None:
        task = asyncio.create_task(
            programs.run(["sh", "-c", f"echo $$ > {pids}; exec sleep 100"], timeout=100)
        )
        await until(lambda: is_written(pids), "process")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_for(lambda: is_gone(int(pids.read_text())), "end of it")
