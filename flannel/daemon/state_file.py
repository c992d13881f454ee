"""StateFile: saves the state to ``state.json``, for a start while the store is unreachable."""

import asyncio
import threading
from pathlib import Path

from flannel.conditions import Condition, Conditions
from flannel.daemon import saved_state
from flannel.daemon.saved_state import SavedState
from flannel.errors import CannotWrite
from flannel.threads import NoThread, in_thread

_LAST_WRITE = 5.0
"""Seconds that a write has to finish after the run was cancelled."""


class StateFile:
    """The file in `-state-dir`, for as long as the daemon runs.

    :ivar current: the state served last, by this process or the one before; None if unknown.
    :param prefix: the prefix of the network's keys; the state of a different network is ignored.
    """

    def __init__(self, directory: Path, prefix: str, conditions: Conditions) -> None:
        self._path = directory / saved_state.FILE_NAME
        self._conditions = conditions
        self._writing = threading.Lock()
        self.current = saved_state.read(self._path, prefix)

    async def keep(self, state: SavedState) -> bool:
        """Make ``state`` the current one and write it; report a file that cannot be written.

        :return: whether it was written.
        """
        self.current = state
        try:
            await self._write_in_thread()
        except (CannotWrite, NoThread) as why:
            if isinstance(why, NoThread):
                why = CannotWrite(f"cannot write {self._path}: {why}")
            self._conditions.report(
                Condition.STATE, f"{why}; without it, no start while etcd is unreachable"
            )
            return False
        self._conditions.clear(Condition.STATE)
        return True

    def remove(self) -> None:
        """Delete the file: the lease in it was given up.

        :raises OSError: it cannot be deleted.
        """
        self._path.unlink(missing_ok=True)

    async def _write_in_thread(self) -> None:
        writing = asyncio.create_task(in_thread(self._write))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:  # the end of the process must not cut a write in two
            await asyncio.wait([writing], timeout=_LAST_WRITE)
            raise

    def _write(self) -> None:
        # A write of an earlier run may still be under way: its state must not be written last.
        with self._writing:
            if self.current is not None:
                saved_state.write(self._path, self.current)
