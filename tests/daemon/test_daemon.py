"""Daemon: one run of the network follows another; what an error leads to before the next one."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from fake_host import FakeHost
from fake_store import FakeStore
from managers import CONFIG, LONG_AGO, ME, OTHER, fresh, net
from virtual_time import Clock
from waiting import until

from flannel.conditions import Condition
from flannel.daemon import config_follower, saved_state
from flannel.daemon import daemon as module
from flannel.daemon.daemon import Daemon
from flannel.daemon.saved_state import SavedState
from flannel.errors import (
    AlreadyRunning,
    ConfigChanged,
    FlannelError,
    IdentityTaken,
    KernelError,
    LeaseLost,
    NoFreeSubnet,
    StoreDenied,
    StoreUnavailable,
    UnderlayChanged,
)
from flannel.health.status import Status
from flannel.lease import Lease
from flannel.options.table import Options, parse

OWN = Lease(net("10.5.1.0/24"), ME, 600, 17)
SAVED = SavedState("/coreos.com/network", "{}", OWN, (Lease(net("10.5.2.0/24"), OTHER),))
REFUSED = StoreUnavailable("cannot list leases: connection refused")


def options(directory: Path, *more: str) -> Options:
    return parse([f"-state-dir={directory}", f"-subnet-file={directory}/subnet.env", *more], {})


class Scripted(Daemon):
    """Its runs end as a script says.

    :ivar ends: seconds that a run lasts, and the error that ends it; the last one goes on.
    :ivar begun: when each run has begun.
    """

    clock: Clock
    ends: list[tuple[float, Exception]]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun: list[float] = []

    async def _run_once(self) -> None:
        self.begun.append(self.clock.now)
        if not self.ends:
            await asyncio.sleep(3600)
        seconds, error = self.ends.pop(0)
        await asyncio.sleep(seconds)
        raise error


class Made:
    def __init__(self, clock: Clock, directory: Path) -> None:
        clock.rule(module, config_follower)
        self.directory = directory
        saved_state.write(directory / saved_state.FILE_NAME, SAVED)
        self.clock = clock
        self.store = FakeStore()
        asked = options(directory)
        self.status = Status(asked, cast(Any, None))
        self.daemon = Scripted(asked, self.store, FakeHost().kernel, self.status)
        self.daemon.clock = clock
        self.shared = self.daemon._shared

    def run(self, *ends: tuple[float, Exception]) -> list[float]:
        """Let runs end so; return the seconds from each end to the beginning of the next run."""
        self.daemon.ends = list(ends)
        self.daemon.begun.clear()

        async def until_the_last() -> None:
            running = asyncio.create_task(self.daemon.run())
            await until(lambda: len(self.daemon.begun) > len(ends) or running.done())
            running.cancel()
            await running

        with pytest.raises(asyncio.CancelledError):
            self.clock.run(until_the_last())
        begun = self.daemon.begun
        return [
            after - before - seconds
            for (before, after), (seconds, _) in zip(pairwise(begun), ends, strict=True)
        ]

    def saved(self) -> SavedState | None:
        return saved_state.read(self.directory / saved_state.FILE_NAME, SAVED.prefix)


@pytest.fixture
def made(clock: Clock, tmp_path: Path) -> Made:
    return Made(clock, tmp_path)


@pytest.mark.parametrize(
    "error", [KernelError("create VXLAN link", 12), NoFreeSubnet("cannot lease a subnet: all")]
)
def test_an_error_that_needs_an_operator_is_a_condition_and_tried_at_growing_pauses(
    made: Made, error: FlannelError, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = made.run(*[(0.1, error)] * 9)
    assert pauses[0] < 0.8
    assert 5 <= pauses[-1] <= 15.1
    assert made.status.conditions.text(Condition.RUN) == f"{error}; trying again"
    assert made.status.unready() == f"{error}; trying again"
    assert caplog.messages == [f"{error}; trying again"]
    assert made.saved() == SAVED


def test_another_flanneld_with_the_same_device_ends_the_first_run_and_the_process(
    made: Made,
) -> None:
    error = AlreadyRunning("cannot use flannel.1: another flanneld, process 7, uses it")
    made.daemon.ends = [(0.1, error)]
    with pytest.raises(AlreadyRunning, match="process 7"):
        made.clock.run(made.daemon.run())
    assert made.status.conditions.text(Condition.RUN) == ""


def test_another_flanneld_is_waited_for_once_a_lease_has_been_served(made: Made) -> None:
    error = AlreadyRunning("cannot use flannel.1: another flanneld, process 7, uses it")
    made.daemon._leased = fresh(made.store, CONFIG)
    made.run((0.1, error))
    assert made.status.conditions.text(Condition.RUN) == f"{error}; trying again"


def test_the_pauses_are_short_again_after_a_long_run(made: Made) -> None:
    error = KernelError("create VXLAN link", 12)
    assert made.run(*[(0.1, error)] * 8, (11.0, error))[-1] < 0.8


def test_a_store_that_does_not_answer_is_asked_again_soon_and_reported_once(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    made.shared.config.seen_since = 1.0
    reset = StoreUnavailable("cannot list leases: connection reset")
    denied = StoreDenied("cannot list leases: user name or password refused")
    pauses = made.run(*[(0.1, REFUSED)] * 9, (0.1, reset), (0.1, denied))
    assert max(pauses) <= 1.51
    assert caplog.messages == [f"{REFUSED}; trying again", f"{denied}; trying again"]
    assert made.shared.config.seen_since is None
    assert made.saved() == SAVED


def test_a_different_config_starts_the_network_over(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    (pause,) = made.run((60.0, ConfigChanged("the network config has changed: x")))
    assert pause < 0.2
    assert caplog.messages == ["the network config has changed: x; starting over"]
    assert made.status.conditions.document() == {}
    assert made.status.unready() == "the network config has changed: x"
    assert made.saved() == SAVED


def test_a_lost_lease_is_not_served_again_not_even_after_a_boot(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    node_id = made.daemon._node_id
    (pause,) = made.run((60.0, LeaseLost("cannot keep lease 10.5.1.0/24: 192.0.2.2 holds it")))
    assert pause < 0.2
    assert caplog.messages[-1].endswith("192.0.2.2 holds it; starting over")
    assert made.shared.state.current == made.saved() == replace(SAVED, lease=None)
    assert made.daemon._node_id == node_id


def test_a_copied_identity_is_replaced(made: Made) -> None:
    node_id = made.daemon._node_id
    made.run((60.0, IdentityTaken("cannot keep lease 10.5.1.0/24: a copy")))
    assert made.saved() == replace(SAVED, lease=None)
    assert made.daemon._node_id != node_id
    assert len(made.daemon._node_id) == len(node_id) == 32


def test_a_changed_underlay_is_followed_without_a_pause_on_new_connections(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    (pause,) = made.run((60.0, UnderlayChanged("the MTU of eth0 is 1400 now, it was 1500")))
    assert pause == pytest.approx(0)
    assert made.store.closed == 1
    assert caplog.messages == ["the MTU of eth0 is 1400 now, it was 1500; adapting to it"]
    assert made.saved() == SAVED


def test_the_error_that_ends_a_run_is_found_in_nested_groups(made: Made) -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [LeaseLost("cannot keep lease: x")])])
    made.run((60.0, group))
    assert made.status.ended == "cannot keep lease: x"


def test_a_bug_ends_the_daemon(made: Made) -> None:
    made.daemon.ends = [(0.1, ExceptionGroup("", [ConfigChanged("x"), ZeroDivisionError()]))]
    with pytest.raises(ExceptionGroup) as caught:
        made.clock.run(made.daemon.run())
    assert caught.value.subgroup(ZeroDivisionError) is not None


def test_the_lease_served_by_an_earlier_process_is_known_at_the_start(made: Made) -> None:
    assert made.shared.state.current == SAVED
    assert {*made.shared.leases.leases} == {net("10.5.2.0/24")}


class TestRelease:
    """With -release-on-exit."""

    @pytest.fixture
    def end(self, clock: Clock, tmp_path: Path) -> Callable[[FakeStore, str], None]:
        """Stop a daemon that has a lease."""

        def end(store: FakeStore, flag: str) -> None:
            asked = options(tmp_path, flag)
            saved_state.write(tmp_path / saved_state.FILE_NAME, SAVED)
            daemon = Scripted(asked, store, FakeHost().kernel, Status(asked, cast(Any, None)))
            daemon.clock, daemon.ends = clock, []
            daemon._leased = fresh(store, CONFIG)

            async def stop() -> None:
                assert daemon._leased is not None
                await daemon._leased.acquire(ME, OWN.subnet, seen_since=LONG_AGO)
                running = asyncio.create_task(daemon.run())
                await asyncio.sleep(1)
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running

            clock.run(stop())

        return end

    def test_the_lease_is_given_up_and_not_served_again(
        self, end: Callable[[FakeStore, str], None], tmp_path: Path
    ) -> None:
        store = FakeStore()
        end(store, "-release-on-exit")
        assert OWN.subnet not in store.leases
        assert not (tmp_path / saved_state.FILE_NAME).exists()

    def test_the_lease_stays_without_the_flag(
        self, end: Callable[[FakeStore, str], None], tmp_path: Path
    ) -> None:
        store = FakeStore()
        end(store, "-release-on-exit=false")
        assert OWN.subnet in store.leases
        assert (tmp_path / saved_state.FILE_NAME).exists()

    def test_a_store_that_refuses_or_hangs_does_not_delay_the_end(
        self,
        end: Callable[[FakeStore, str], None],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        class Refusing(FakeStore):
            async def release(self, lease: Lease) -> None:
                raise REFUSED

        class Hanging(FakeStore):
            async def release(self, lease: Lease) -> None:
                await asyncio.sleep(3600)

        end(Refusing(), "-release-on-exit")
        end(Hanging(), "-release-on-exit")
        assert [line.partition(f" {OWN}: ")[2] or line for line in caplog.messages] == [
            f"{REFUSED}",
            "no answer in time",
        ]
        assert (tmp_path / saved_state.FILE_NAME).exists()


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
def test_the_daemon_stops_at_once_when_a_run_ends_and_between_two_runs(
    tmp_path: Path, n_runs: int, seconds: float
) -> None:
    async def scenario() -> int:
        asked = options(tmp_path)
        kernel = FakeHost().kernel
        daemon = ShortRuns(asked, FakeStore(), kernel, Status(asked, cast(Any, None)))
        daemon.is_ending = asyncio.Event()
        running = asyncio.create_task(daemon.run())
        for _ in range(n_runs):
            async with asyncio.timeout(250):
                await daemon.is_ending.wait()
            daemon.is_ending.clear()
        await asyncio.sleep(seconds)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(250):
                await running
        return daemon.n_runs

    assert asyncio.run(scenario()) == n_runs
