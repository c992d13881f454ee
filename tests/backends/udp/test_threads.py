"""Threads that wait for the next packet loop."""

import errno
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait

import pytest

from flannel.backends.udp.threads import ParkedThreads
from flannel.errors import KernelError


@pytest.fixture
def no_new_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Bring this process to its limit."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    return lambda: monkeypatch.setattr("_thread.start_new_thread", refuse)


def test_all_functions_run_at_once_each_in_a_thread_of_its_own() -> None:
    all_there = threading.Barrier(3, timeout=100)
    seen: list[int] = []

    def function() -> None:
        all_there.wait()
        seen.append(threading.get_ident())

    with ParkedThreads().running(3 * [function]) as runs:
        wait(runs)
    assert len(set(seen)) == 3
    assert threading.get_ident() not in seen


def test_the_block_ends_when_all_functions_have_ended() -> None:
    begun, may_end = threading.Event(), threading.Event()
    ended: list[bool] = []

    def function() -> None:
        begun.set()
        assert may_end.wait(100)
        ended.append(True)

    with ParkedThreads().running([function]) as runs:
        assert begun.wait(100)
        assert not runs[0].done()
        threading.Timer(0.05, may_end.set).start()
    assert ended == [True]


def test_the_block_ends_after_the_callbacks_of_the_futures() -> None:
    called: list[object] = []

    def callback(future: object) -> None:
        time.sleep(0.05)
        called.append(future)

    with ParkedThreads().running(2 * [lambda: time.sleep(0.01)]) as runs:
        for run in runs:
            run.add_done_callback(callback)
    assert len(called) == 2


def test_an_exception_is_that_of_the_future_and_the_thread_lives_on(
    no_new_threads: Callable[[], None],
) -> None:
    threads = ParkedThreads()

    def fails() -> None:
        raise OSError(errno.ENODEV, "the device is gone")

    with threads.running([fails]) as runs:
        wait(runs)
    with pytest.raises(OSError, match="the device is gone"):
        runs[0].result()
    no_new_threads()
    with threads.running([threading.get_ident]) as runs:
        wait(runs)
    assert runs[0].exception() is None


def test_a_process_at_its_limit_runs_as_many_functions_as_before(
    no_new_threads: Callable[[], None],
) -> None:
    threads, seen = ParkedThreads(), set()
    all_there = threading.Barrier(2, timeout=100)

    def function() -> None:
        all_there.wait()
        seen.add(threading.get_ident())

    with threads.running(2 * [function]):
        pass
    no_new_threads()
    for _ in range(5):
        with threads.running(2 * [function]):
            pass
    assert len(seen) == 2


def test_no_function_runs_then_or_later_where_a_thread_cannot_be_started(
    no_new_threads: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, ran = ParkedThreads(), []
    with threads.running([lambda: ran.append("first")]):
        pass
    no_new_threads()
    for _ in range(2):
        with (
            pytest.raises(KernelError, match="cannot start a thread: Resource temporarily"),
            threads.running(2 * [lambda: ran.append("too many")]),
        ):
            pass
    monkeypatch.undo()
    with threads.running(2 * [lambda: ran.append("later")]):
        pass
    assert ran == ["first", "later", "later"]
