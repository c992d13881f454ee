"""One life follows another, until somebody ends the daemon."""

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import pytest
from etcd_server import PREFIX
from fake_store import FakeStore

from flannel.daemon import saved_state
from flannel.daemon.life import Daemon
from flannel.daemon.saved_state import SavedState
from flannel.errors import ConfigChanged
from flannel.health.status import Status
from flannel.kernel.doors import Kernel
from flannel.options.table import parse


class ShortLives(Daemon):
    """Each ends by an error, and takes a moment to."""

    n_lives = 0
    is_ending: asyncio.Event

    async def _serve(self, plan: object) -> None:
        self.n_lives += 1
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._end_slowly())
            tasks.create_task(self._fail())

    async def _fail(self) -> None:
        await asyncio.sleep(0)
        raise ConfigChanged("the network config has changed")

    async def _end_slowly(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            self.is_ending.set()
            await asyncio.sleep(0.01)


class Prepared:
    async def wait(self, saved: object) -> None:
        """All is there at once."""


@pytest.mark.parametrize(("n_lives", "seconds"), [(1, 0), (1, 0.02), (2, 0), (3, 0), (3, 0.02)])
def test_it_is_stopped_at_once_as_a_life_ends_and_between_two(
    tmp_path: Path, n_lives: int, seconds: float
) -> None:
    async def scenario() -> int:
        options = parse([f"-state-dir={tmp_path}", f"-subnet-file={tmp_path}/subnet.env"], {})
        kernel = Kernel(cast(Any, None), cast(Any, None))
        daemon = ShortLives(options, FakeStore(), kernel, Status(options, cast(Any, None)))
        daemon._preparation = cast(Any, Prepared())
        daemon.is_ending = asyncio.Event()
        running = asyncio.create_task(daemon.run())
        for _ in range(n_lives):
            async with asyncio.timeout(30):
                await daemon.is_ending.wait()
            daemon.is_ending.clear()
        await asyncio.sleep(seconds)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):
                await running
        return daemon.n_lives

    assert asyncio.run(scenario()) == n_lives


def test_what_was_true_last_is_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an earlier life that is over takes to write what was true before."""
    begun, end = threading.Event(), threading.Event()
    write = saved_state.write

    def slow(path: Path, state: SavedState) -> None:
        monkeypatch.setattr(saved_state, "write", write)
        begun.set()
        end.wait(60)
        write(path, state)

    async def scenario() -> None:
        options = parse([f"-state-dir={tmp_path}", f"-subnet-file={tmp_path}/subnet.env"], {})
        kernel = Kernel(cast(Any, None), cast(Any, None))
        daemon = Daemon(options, FakeStore(), kernel, Status(options, cast(Any, None)))
        monkeypatch.setattr(saved_state, "write", slow)
        before = asyncio.create_task(daemon._keep_state(SavedState(PREFIX, "before", None, ())))
        await asyncio.to_thread(begun.wait)
        before.cancel()
        after = asyncio.create_task(daemon._keep_state(SavedState(PREFIX, "after", None, ())))
        await asyncio.sleep(0.1)  # its thread writes, or waits for the other
        end.set()
        await after

    asyncio.run(scenario())  # and waits for all threads
    saved = saved_state.read(tmp_path / saved_state.FILE_NAME, PREFIX)
    assert saved is not None
    assert saved.config == "after"
