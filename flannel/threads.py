"""Blocking work in threads that do not keep the process from ending.

They are started by `_thread`, not by `threading`: a thread for which there is no memory ends before
its first line, and `threading.Thread.start` would wait for that line for ever.
"""

import _thread
import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_BEGIN, _MOMENT = 5.0, 1.0
"""Seconds for a thread to reach its first line, until the first look and from it to the second."""
_RETRY = 0.1


class NoThread(Exception):
    """The kernel has no thread, or no memory for one, left for this process."""


def start(run: Callable[[], None]) -> None:
    """Call ``run`` in a thread that ends with the process at the latest.

    :raises NoThread: the kernel refuses.
    """
    try:
        _thread.start_new_thread(run, ())
    except (RuntimeError, MemoryError) as why:  # "can't start new thread"
        raise NoThread(str(why) or "no memory for a thread") from None


async def in_thread(work: Callable[[], T]) -> T:
    """The result of blocking ``work``. Cancelling leaves the thread to its end, unheard.

    :raises NoThread: and whatever ``work`` raises.
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
        except BaseException as raised:  # whatever it is, it belongs to whoever awaits
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
        """Look twice: after a pause of this process its threads have to be given a moment."""
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
