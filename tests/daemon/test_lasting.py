"""Lasting: errors of resources pass; nothing else is swallowed."""

import asyncio
import errno
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from virtual_time import Clock

from flannel.conditions import Condition, Conditions
from flannel.daemon.lasting import Lasting
from flannel.errors import KernelError, LeaseLost

SHORTAGES = [
    OSError(errno.EMFILE, "Too many open files"),
    PermissionError(errno.EACCES, "Permission denied"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.EROFS, "Read-only file system"),
    MemoryError(),
    RuntimeError("can't start new thread"),
]


def failing(
    clock: Clock, seconds: float, error: Exception
) -> Callable[[], Coroutine[Any, Any, None]]:
    """Work that fails for so long, and then goes on for ever."""
    end = clock.now + seconds

    async def work() -> None:
        if clock.now < end:
            raise error
        await asyncio.sleep(3600)

    return work


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(logging.getLogger("test"))


@pytest.mark.parametrize("error", SHORTAGES, ids=repr)
@pytest.mark.parametrize("is_grouped", [False, True])
def test_a_shortage_is_a_condition_until_the_task_has_recovered(
    clock: Clock,
    conditions: Conditions,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    is_grouped: bool,
) -> None:
    async def scenario() -> None:
        raised = ExceptionGroup("", [ExceptionGroup("", [error])]) if is_grouped else error
        work = failing(clock, 60, raised)
        task = asyncio.create_task(Lasting(conditions).run("keep it", work))
        await asyncio.sleep(59)
        assert conditions.text(Condition.RESOURCES).startswith("cannot keep it: ")
        await asyncio.sleep(30)
        assert conditions.text(Condition.RESOURCES) == ""
        assert not task.done()
        task.cancel()

    clock.run(scenario())
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "error",
    [
        KernelError("do it", 12),
        LeaseLost("cannot keep it"),
        RuntimeError("the packet loop has ended by itself"),
        KeyError("a mistake"),
        ExceptionGroup("", [OSError(24, "x"), LeaseLost("cannot keep it")]),
    ],
    ids=repr,
)
def test_any_other_error_ends_the_task(
    clock: Clock, conditions: Conditions, error: Exception
) -> None:
    work = failing(clock, 60, error)
    with pytest.raises(type(error)):
        clock.run(Lasting(conditions).run("keep it", work))
    assert conditions.text(Condition.RESOURCES) == ""


def test_a_task_that_has_recovered_does_not_hide_the_trouble_of_another(
    clock: Clock, conditions: Conditions
) -> None:
    async def scenario() -> None:
        lasting = Lasting(conditions)
        tasks = [
            asyncio.create_task(lasting.run(name, failing(clock, seconds, SHORTAGES[0])))
            for name, seconds in (("keep this", 1), ("keep that", 100))
        ]
        await asyncio.sleep(95)
        assert conditions.text(Condition.RESOURCES).startswith("cannot keep that: ")
        await asyncio.sleep(30)
        assert conditions.text(Condition.RESOURCES) == ""
        for each in tasks:
            each.cancel()

    clock.run(scenario())
