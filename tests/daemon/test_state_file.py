"""StateFile: a start without the store finds the state that was served last."""

import asyncio
import logging
import threading
from pathlib import Path

import pytest
from etcd_server import PREFIX

from flannel.conditions import Condition, Conditions
from flannel.daemon import saved_state
from flannel.daemon.saved_state import SavedState
from flannel.daemon.state_file import StateFile


def state(config: str) -> SavedState:
    return SavedState(PREFIX, config, None, ())


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(logging.getLogger("test"))


def test_a_saved_state_is_current_at_the_next_start(tmp_path: Path, conditions: Conditions) -> None:
    file = StateFile(tmp_path, PREFIX, conditions)
    assert file.current is None
    asyncio.run(file.keep(state("a")))
    assert file.current == state("a")
    assert StateFile(tmp_path, PREFIX, conditions).current == state("a")
    assert StateFile(tmp_path, "/of/another/network", conditions).current is None
    file.remove()
    assert StateFile(tmp_path, PREFIX, conditions).current is None


def test_a_file_that_cannot_be_written_is_a_condition_until_it_can(
    tmp_path: Path, conditions: Conditions
) -> None:
    (tmp_path / "state").touch()
    file = StateFile(tmp_path / "state", PREFIX, conditions)
    asyncio.run(file.keep(state("a")))
    assert "without it, no start while etcd is unreachable" in conditions.text(Condition.STATE)
    assert file.current == state("a")
    (tmp_path / "state").unlink()
    asyncio.run(file.keep(state("a")))
    assert conditions.text(Condition.STATE) == ""


def test_without_a_thread_to_write_it_that_is_reported_and_nothing_ends(
    tmp_path: Path, conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        with monkeypatch.context() as refused:
            refused.setattr("_thread.start_new_thread", refuse)
            assert not await file.keep(state("a"))
            assert "can't start new thread; without it" in conditions.text(Condition.STATE)
        assert await file.keep(state("b"))

    file = StateFile(tmp_path, PREFIX, conditions)
    asyncio.run(scenario())
    assert conditions.text(Condition.STATE) == ""
    assert StateFile(tmp_path, PREFIX, conditions).current == state("b")


def test_the_latest_state_is_written_last(
    tmp_path: Path, conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an earlier run that is over takes to write what was true before."""
    begun, end = threading.Event(), threading.Event()
    write = saved_state.write

    def slow(path: Path, state: SavedState) -> None:
        monkeypatch.setattr(saved_state, "write", write)
        begun.set()
        end.wait(60)
        write(path, state)

    async def scenario() -> None:
        file = StateFile(tmp_path, PREFIX, conditions)
        monkeypatch.setattr(saved_state, "write", slow)
        before = asyncio.create_task(file.keep(state("before")))
        await asyncio.to_thread(begun.wait)
        before.cancel()
        after = asyncio.create_task(file.keep(state("after")))
        await asyncio.sleep(0.1)  # its thread writes, or waits for the other
        end.set()
        await after

    asyncio.run(scenario())  # and waits for all threads
    found = saved_state.read(tmp_path / saved_state.FILE_NAME, PREFIX)
    assert found == state("after")
