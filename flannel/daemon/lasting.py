"""Lasting: a task that outlives errors of resources: no descriptor, no memory, no thread left.

Such errors pass, and any system call may fail with one, so no place can deal with all of them. The
places that expect one translate it (`KernelError`, `CannotRun`, ...) and go on by themselves. What
none expects ends a task of the run, and that task alone begins again, after growing pauses.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from flannel.backoff import Backoff
from flannel.conditions import Condition, Conditions

log = logging.getLogger(__name__)

_HEALED = 15.0
"""Seconds without an error, after which a task is taken for healed; longer than any pause."""


def is_shortage(error: BaseException) -> bool:
    """Whether it is an error of the system's resources, and not one of ours."""
    no_thread = isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")
    return isinstance(error, OSError | MemoryError) or no_thread


def shortage_in(error: Exception) -> Exception | None:
    """The first shortage in an error or a group; None if there is something else in it."""
    if not isinstance(error, ExceptionGroup):
        return error if is_shortage(error) else None
    shortages, rest = error.split(is_shortage)
    if shortages is None or rest is not None:
        return None
    first: BaseException = shortages
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, Exception)
    return first


def reason(shortage: Exception) -> str:
    """In words, what is missing."""
    if isinstance(shortage, OSError) and shortage.strerror:
        return shortage.strerror
    return str(shortage) or "no memory"


class Lasting:
    """The tasks of one run of the network."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._healing: dict[str, asyncio.TimerHandle] = {}

    async def run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` to its end, again and again while it ends by a shortage.

        :param name: what ``work`` does, for the message: ``cannot <name>: <why>``.
        """
        backoff = Backoff(0.5, 5.0)
        while True:
            try:
                await work()
                return
            except Exception as error:
                shortage = shortage_in(error)
                if shortage is None:
                    raise
                log.debug("cannot %s", name, exc_info=True)
                self._report(name, shortage)
            await backoff.wait()

    def _report(self, name: str, shortage: Exception) -> None:
        if name in self._healing:
            self._healing[name].cancel()
        loop = asyncio.get_running_loop()
        self._healing[name] = loop.call_later(_HEALED, self._heal, name)
        self._conditions.report(
            Condition.RESOURCES,
            f"cannot {name}: {reason(shortage)}; trying again",
            about=(name, type(shortage)),
        )

    def _heal(self, name: str) -> None:
        del self._healing[name]
        if not self._healing:
            self._conditions.clear(Condition.RESOURCES)
