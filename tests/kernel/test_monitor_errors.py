"""The socket of the kernel's messages fails: it is opened anew, and everything is compared."""

import asyncio
import errno

import pytest
from recorded_notices import NOTICES
from watching import OWN_PORT, Watching, Wire, until

from flannel.errors import KernelError
from flannel.kernel import monitor as module
from flannel.kernel.monitor import ANYTHING, Hint, Monitor
from flannel.kernel.subscription import Subscription


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(monkeypatch)


class TestErrors:
    """The socket fails."""

    @pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EIO])
    def test_after_an_error_everything_is_compared_and_another_socket_read(
        self, watching: Watching, number: int
    ) -> None:
        async def scenario() -> None:
            watching.wire.near[-1].errors.append(number)
            watching.wire.send("other down")  # wakes the reader
            assert await watching.hint() == ANYTHING
            assert len(watching.wire.near) == 2
            assert watching.wire.near[0].fileno() == -1
            watching.wire.send("default route")
            assert await watching.hint() == Hint.UNDERLAY

        watching.run(scenario)

    def test_the_new_socket_has_the_filter_of_the_old_one(self, watching: Watching) -> None:
        async def scenario() -> None:
            watching.wire.near[-1].errors.append(errno.ENOBUFS)
            watching.wire.send("other down")
            await watching.hint()
            watching.wire.send("route added by us", port=OWN_PORT)
            watching.wire.send("neighbour added")
            assert await watching.hint() == Hint.OVERLAY
            assert watching.monitor.last_port == NOTICES["neighbour added"][0].port

        watching.run(scenario)

    def test_a_socket_that_cannot_be_opened_at_once_is_opened_later(
        self, watching: Watching, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_RETRY", 4 * module.QUIET)

        async def scenario() -> None:
            watching.wire.near[-1].errors.append(errno.ENOMEM)
            watching.wire.refuses += [errno.EMFILE, errno.ENOBUFS]
            watching.wire.send("other down")
            assert await watching.hint() == ANYTHING
            assert await watching.hint() == ANYTHING  # whatever was missed meanwhile
            assert len(watching.wire.near) == 2
            watching.wire.send("default route")
            assert await watching.hint() == Hint.UNDERLAY

        watching.run(scenario)

    def test_an_error_while_a_hint_waits_is_in_the_same_hint(self, watching: Watching) -> None:
        async def scenario() -> None:
            watching.wire.send("default route")
            await until(lambda: watching.monitor._timer is not None)
            watching.wire.near[-1].errors.append(errno.ENOBUFS)
            assert await watching.hint() == ANYTHING
            watching.wire.send("device down")
            assert await watching.hint() == Hint.OVERLAY

        watching.run(scenario)

    def test_a_monitor_that_waits_for_a_socket_can_be_ended(self, watching: Watching) -> None:
        async def scenario() -> None:
            watching.wire.near[-1].errors.append(errno.ENOMEM)
            watching.wire.refuses += [errno.EMFILE] * 1000
            watching.wire.send("other down")
            await watching.hint()

        watching.run(scenario)
        assert len(watching.wire.near) == 1

    def test_without_a_first_socket_there_is_no_monitor(self) -> None:
        wire = Wire()
        wire.refuses.append(errno.EMFILE)

        async def scenario() -> None:
            with Monitor(1, lambda port: Subscription(port, wire.open)):
                pass

        with pytest.raises(KernelError, match="follow the kernel's changes: Too many open files"):
            asyncio.run(scenario())
