"""The end of a life that coincides with the end of the daemon."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from fake_store import FakeStore

from flannel.backends import Kernel
from flannel.daemon import Daemon
from flannel.errors import ConfigChanged
from flannel.options import parse
from flannel.status import Status


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


@pytest.mark.parametrize("moment", ["as it ends", "later"])
def test_who_stops_it_while_a_life_ends_gets_no_other_life(tmp_path: Path, moment: str) -> None:
    async def scenario() -> int:
        options = parse([f"-state-dir={tmp_path}", f"-subnet-file={tmp_path}/subnet.env"], {})
        kernel = Kernel(cast(Any, None), cast(Any, None))
        daemon = ShortLives(options, FakeStore(), kernel, Status(options, cast(Any, None)))
        daemon._preparation = cast(Any, Prepared())
        daemon.is_ending = asyncio.Event()
        running = asyncio.create_task(daemon.run())
        await daemon.is_ending.wait()
        if moment == "later":  # between two lives
            await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(1):
                await running
        return daemon.n_lives

    assert asyncio.run(scenario()) == 1
