"""Blocking work in threads that do not keep the process from ending."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class NoThread(Exception):
    """The kernel has no thread left for this process."""


async def in_thread(work: Callable[[], T]) -> T:
    """The result of blocking ``work``. Cancelling leaves the thread to its end, unheard.

    :raises NoThread: and whatever ``work`` raises.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type] # None only if T allows it

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # whatever it is, it belongs to whoever awaits
            error = raised
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            loop.call_soon_threadsafe(settle, value, error)

    try:
        threading.Thread(target=run, name="etcd", daemon=True).start()
    except RuntimeError as why:  # "can't start new thread"
        raise NoThread(str(why)) from None
    return await result
