"""Lasting: restarts a task that a shortage ended: no descriptor, no memory, no thread left.

A shortage is temporary, and any system call may fail because of one. Code that expects one
translates it (`KernelError`, `CannotRun`, ...) and goes on. An unexpected one ends a task of the
run; only that task starts again, after growing pauses.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from flannel.backoff import Backoff
from flannel.conditions import Condition, Conditions

log = logging.getLogger(__name__)

_HEALED = 15.0
"""Seconds without an error after which a task counts as healed; longer than any pause."""


def is_shortage(error: BaseException) -> bool:
    """Whether the system lacks a resource; other errors are bugs of ours."""
    no_thread = isinstance(error, RuntimeError) and str(error).startswith("can't start new thread")
    return isinstance(error, OSError | MemoryError) or no_thread


def shortage_in(error: Exception) -> Exception | None:
    """The first shortage in an error or a group; None if it contains any other error."""
    if not isinstance(error, ExceptionGroup):
        return error if is_shortage(error) else None
    shortages, rest = error.split(is_shortage)
    if shortages is None or rest is not None:
        return None
    found = first(shortages)
    assert isinstance(found, Exception)
    return found


def first(error: BaseException) -> BaseException:
    """The first error in a group, which may contain groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def reason(shortage: Exception) -> str:
    """What is missing, for messages."""
    if isinstance(shortage, OSError) and shortage.strerror:
        return shortage.strerror
    return str(shortage) or "no memory"


class Lasting:
    """The tasks of one run of the network."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._healing: dict[str, asyncio.TimerHandle] = {}

    async def run(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work``; run it again each time that a shortage ends it.

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
