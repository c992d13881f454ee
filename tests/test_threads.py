"""Blocking work in threads, and a system that has none or no memory for one."""

import _thread
import asyncio
import threading

import pytest
from virtual_time import Clock

from flannel.threads import NoThread, in_thread


def fail() -> None:
    raise KeyError("a mistake")


def test_the_result_or_error_of_the_work_reaches_the_caller() -> None:
    assert asyncio.run(in_thread(threading.get_ident)) != threading.get_ident()
    with pytest.raises(KeyError, match="a mistake"):
        asyncio.run(in_thread(fail))


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()], ids=repr)
def test_a_thread_that_the_kernel_refuses_is_reported(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    with pytest.raises(NoThread, match="thread"):
        asyncio.run(in_thread(fail))


def test_a_thread_that_ends_before_its_first_line_blocks_no_task(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python's do when there is no memory for the first line; the event loop goes on."""
    before = clock.now
    monkeypatch.setattr("flannel.threads.start", lambda run: None)
    with pytest.raises(NoThread, match="no memory for a thread"):
        clock.run(in_thread(fail))
    assert clock.now - before < 10


def test_a_result_for_which_there_is_no_memory_is_handed_over_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        hand_over, n_tries = loop.call_soon_threadsafe, 0

        def short_of_memory(*arguments: object) -> asyncio.Handle:
            nonlocal n_tries
            n_tries += 1
            if n_tries < 3:
                raise MemoryError
            return hand_over(*arguments)  # type: ignore[arg-type] # whatever it is

        monkeypatch.setattr(loop, "call_soon_threadsafe", short_of_memory)
        return await in_thread(lambda: 7)

    assert asyncio.run(scenario()) == 7
