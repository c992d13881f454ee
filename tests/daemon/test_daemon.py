"""One run of the network follows another, until somebody ends the daemon."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from fake_store import FakeStore

from flannel.daemon.daemon import Daemon
from flannel.errors import ConfigChanged
from flannel.health.status import Status
from flannel.kernel.doors import Kernel
from flannel.options.table import parse


class ShortRuns(Daemon):
    """Each run ends by an error, and takes a moment to."""

    n_runs = 0
    is_ending: asyncio.Event

    async def _run_once(self) -> None:
        self.n_runs += 1
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


@pytest.mark.parametrize(("n_runs", "seconds"), [(1, 0), (1, 0.02), (2, 0), (3, 0), (3, 0.02)])
def test_it_is_stopped_at_once_as_a_run_ends_and_between_two(
    tmp_path: Path, n_runs: int, seconds: float
) -> None:
    async def scenario() -> int:
        options = parse([f"-state-dir={tmp_path}", f"-subnet-file={tmp_path}/subnet.env"], {})
        kernel = Kernel(cast(Any, None), cast(Any, None))
        daemon = ShortRuns(options, FakeStore(), kernel, Status(options, cast(Any, None)))
        daemon.is_ending = asyncio.Event()
        running = asyncio.create_task(daemon.run())
        for _ in range(n_runs):
            async with asyncio.timeout(30):
                await daemon.is_ending.wait()
            daemon.is_ending.clear()
        await asyncio.sleep(seconds)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(30):
                await running
        return daemon.n_runs

    assert asyncio.run(scenario()) == n_runs
