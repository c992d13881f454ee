"""Time that passes only while nothing is left to do: a test waits for hours in milliseconds."""

import asyncio
import selectors
from collections.abc import Coroutine
from types import ModuleType
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


_MAX_TURNS = 20_000
"""Turns of the loop in which no time passes. The longest test takes some hundred."""


class _Selector(selectors.DefaultSelector):
    """Waits for descriptors as others do, but not for a time: that is over at once.

    A task that never waits fails its test, which would not end otherwise.
    """

    def __init__(self, clock: "Clock") -> None:
        super().__init__()
        self._clock = clock
        self._turned_at, self._turns = clock.now, 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(min(timeout, 0) if timeout is not None else None)
        if timeout is not None and timeout > 0 and not found:
            self._clock.skip(timeout)
        self._turns = self._turns + 1 if self._turned_at == self._clock.now else 0
        self._turned_at = self._clock.now
        if self._turns > _MAX_TURNS:
            self._turns = 0  # for the end of the loop's tasks
            raise AssertionError("the tasks turn without end while no time passes")
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: "Clock") -> None:
        super().__init__(_Selector(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.now


class Clock:
    """The time of the loop that runs tests, and of the modules that it rules.

    clock = Clock(monkeypatch)
    clock.rule(module)                      # its `monotonic` is this clock from now on
    clock.run(work())                       # in which asyncio.sleep() takes no time

    :ivar now: seconds.
    :ivar used: seconds of a CPU; they pass only as a test says.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        self.used = 0.0
        self._monkeypatch = monkeypatch
        # At once: for a thread, time would have to pass outside as well.
        monkeypatch.setattr("flannel.threads.start", lambda run: run())

    def rule(self, *modules: ModuleType) -> None:
        """Let these modules ask this clock for the time."""
        for module in modules:
            self._monkeypatch.setattr(module, "monotonic", lambda: self.now)
            self._monkeypatch.setattr(module, "thread_time", lambda: self.used, raising=False)

    def skip(self, seconds: float) -> None:
        """Let time pass in which the loop does not run."""
        self.now += seconds

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work``, which may take up to a day."""
        with asyncio.Runner(loop_factory=lambda: _Loop(self)) as runner:
            return runner.run(_limited(work))


async def _limited(work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(86400.0):
        return await work
