"""Runs blocking work in threads that do not delay the end of the process.

`_thread` starts them, not `threading`: if there is no memory for a thread, it ends before its first
line, and `threading.Thread.start` would wait for that line for ever.
"""

import _thread
import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_BEGIN, _MOMENT = 5.0, 1.0
"""Seconds that a thread has to reach its first line; it gets this time twice."""
_RETRY = 0.1


class NoThread(Exception):
    """The kernel cannot start a thread for this process, or lacks the memory."""


def start(run: Callable[[], None]) -> None:
    """Call ``run`` in a thread that ends at the latest with the process.

    :raises NoThread: the kernel refuses.
    """
    try:
        _thread.start_new_thread(run, ())
    except (RuntimeError, MemoryError) as why:  # "can't start new thread"
        raise NoThread(str(why) or "no memory for a thread") from None


async def in_thread(work: Callable[[], T]) -> T:
    """The result of blocking ``work``. A cancellation does not stop the thread.

    :raises NoThread: the kernel refuses; exceptions of ``work`` are passed on.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()
    begun: list[bool] = []
    looks: list[asyncio.TimerHandle] = []

    def settle(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type] # None only if T allows it

    def run() -> None:
        begun.append(True)
        value, error = None, None
        try:
            value = work()
        except BaseException as raised:  # any exception goes to the awaiting task
            error = raised
        while True:
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except MemoryError:
                time.sleep(_RETRY)
            except RuntimeError:  # the loop is closed: the process is about to end
                return
            else:
                return

    def look() -> None:
        """Look twice: after a pause of this process, its threads need a moment."""
        if not begun:
            looks.append(loop.call_later(_MOMENT, look_again))

    def look_again() -> None:
        if not begun:
            settle(None, NoThread("no memory for a thread"))

    start(run)
    looks.append(loop.call_later(_BEGIN, look))
    try:
        return await result
    finally:
        for timer in looks:
            timer.cancel()
