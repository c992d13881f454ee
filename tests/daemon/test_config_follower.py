"""ConfigFollower: the first config that can be used is waited for, then every change is offered."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from fake_store import FakeStore
from virtual_time import Clock
from waiting import running

from flannel.conditions import Condition, Conditions
from flannel.daemon import config_follower as module
from flannel.daemon.config_follower import ConfigFollower
from flannel.errors import (
    BadNetworkConfig,
    ConfigChanged,
    NetworkInUse,
    StoreDenied,
    StoreUnavailable,
)

T = TypeVar("T")
REFUSED = StoreUnavailable("cannot read /config: connection refused")


def read(text: str) -> str:
    """Two kinds of documents cannot be used; of any other it makes capitals."""
    if "bad" in text:
        raise BadNetworkConfig(f"cannot use the network config: it is {text.split()[0]}")
    return text.upper()


class Made:
    def __init__(self, clock: Clock) -> None:
        clock.rule(module)
        self.clock = clock
        self.store = FakeStore()
        self.conditions = Conditions(module.log)
        self.follower = ConfigFollower(self.store, "/config", self.conditions)
        self.offered: list[str] = []
        self.verdict: Exception | None = None

    def text(self, condition: Condition) -> str:
        return self.conditions.text(condition)

    async def changed(self, text: str) -> None:
        self.offered.append(text)
        if self.verdict is not None:
            raise self.verdict

    def later(self, seconds: float, *calls: Any) -> None:
        """Call a function, with its arguments, after so many seconds."""
        function, *arguments = calls
        asyncio.get_running_loop().call_later(seconds, function, *arguments)

    def watch(self, served: str, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the watch."""

        async def both() -> None:
            async with running(self.follower.watch(served, self.changed)):
                await asyncio.sleep(0.01)
                await work

        self.clock.run(both())


@pytest.fixture
def made(clock: Clock) -> Made:
    return Made(clock)


def test_a_usable_config_is_returned_at_once(made: Made) -> None:
    async def work() -> None:
        made.store.configure("good")
        began = made.clock.now
        assert await made.follower.wait(read) == "GOOD"
        assert made.clock.now == began
        assert made.follower.seen_since == began

    made.clock.run(work())


def test_a_missing_config_is_waited_for(made: Made) -> None:
    async def work() -> None:
        waiting = asyncio.create_task(made.follower.wait(read))
        await asyncio.sleep(3600)
        assert made.text(Condition.CONFIG) == (
            "there is no network config at /config; waiting for it"
        )
        made.store.configure("good")
        assert await waiting == "GOOD"
        assert made.text(Condition.CONFIG) == ""

    made.clock.run(work())


def test_a_config_that_cannot_be_used_is_reported_once_and_another_waited_for(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        made.store.configure("bad one")
        waiting = asyncio.create_task(made.follower.wait(read))
        await asyncio.sleep(3600)
        made.store.configure("bad one")
        await asyncio.sleep(1)
        made.store.configure("bad two")  # the same mistake in a different document
        await asyncio.sleep(1)
        assert "it is bad (/config); waiting for another" in made.text(Condition.CONFIG)
        made.store.configure("good")
        assert await waiting == "GOOD"

    made.clock.run(work())
    assert len(caplog.messages) == 2


def test_a_store_that_does_not_answer_is_asked_until_it_does(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def work() -> None:
        made.store.refusal = REFUSED
        waiting = asyncio.create_task(made.follower.wait(read))
        await asyncio.sleep(600)
        assert made.text(Condition.STORE) == f"{REFUSED}; trying again"
        assert made.follower.seen_since is None
        made.store.refusal = StoreUnavailable("cannot read /config: connection reset")
        await asyncio.sleep(600)
        made.store.refusal = StoreDenied("cannot read /config: password refused")
        await asyncio.sleep(600)
        made.store.refusal = None
        made.store.configure("good")
        began = made.clock.now
        assert await waiting == "GOOD"
        assert made.clock.now - began <= 1.5
        assert made.follower.seen_since == made.clock.now
        assert made.text(Condition.STORE) == ""

    made.clock.run(work())
    assert [line.partition("config: ")[2] for line in caplog.messages[:2]] == [
        "connection refused; trying again",
        "password refused; trying again",
    ]
    assert caplog.messages[2:] == ["the store answers again"]


def test_the_wait_ends_with_its_patience_where_the_store_does_not_answer(made: Made) -> None:
    async def work() -> None:
        made.store.refusal = REFUSED
        began = made.clock.now
        assert await made.follower.wait(read, 0.5) is None
        assert made.clock.now - began == pytest.approx(0.5)
        assert made.follower.seen_since is None

    made.clock.run(work())


def test_the_wait_ends_with_its_patience_where_the_config_cannot_be_used(made: Made) -> None:
    async def work() -> None:
        made.store.configure("bad one")
        assert await made.follower.wait(read, 0.5) is None
        assert made.follower.seen_since is not None

    made.clock.run(work())


def test_the_wait_has_no_limit_once_the_store_has_no_config(made: Made) -> None:
    """An empty store may be a new cluster: what was served before is of no use there."""

    async def work() -> None:
        made.later(3600, made.store.configure, "good")
        assert await made.follower.wait(read, 0.5) == "GOOD"

    made.clock.run(work())


def test_the_time_since_which_the_store_answers_is_kept_over_several_waits(made: Made) -> None:
    async def work() -> None:
        made.store.configure("good")
        await made.follower.wait(read)
        began = made.follower.seen_since
        await asyncio.sleep(10)
        await made.follower.wait(read)
        assert made.follower.seen_since == began
        made.store.refusal = REFUSED
        assert await made.follower.wait(read, 0.5) is None
        assert made.follower.seen_since is None

    made.clock.run(work())


def test_each_new_text_is_offered(made: Made) -> None:
    made.store.configure("one")

    async def work() -> None:
        assert made.offered == []
        for text in ("two", "two", "three"):
            made.store.configure(text)
            await asyncio.sleep(0.1)
        assert made.offered == ["two", "three"]

    made.watch("one", work())


def test_a_text_that_was_written_before_the_watch_is_offered(made: Made) -> None:
    made.store.configure("two")

    async def work() -> None:
        assert made.offered == ["two"]

    made.watch("one", work())


def test_a_config_that_is_removed_is_reported_and_served_on(made: Made) -> None:
    made.store.configure("one")

    async def work() -> None:
        made.store.configure(None)
        await asyncio.sleep(0.1)
        assert made.text(Condition.CONFIG).startswith(
            "there is no network config at /config any more"
        )
        assert made.offered == []
        made.store.configure("one")
        await asyncio.sleep(0.1)
        assert made.offered == ["one"]
        assert made.text(Condition.CONFIG) == ""

    made.watch("one", work())


@pytest.mark.parametrize(
    "verdict",
    [BadNetworkConfig("cannot use the network config: x"), NetworkInUse("cannot use network x")],
)
def test_a_config_that_cannot_be_used_is_reported_until_there_is_a_usable_one(
    made: Made, verdict: Exception
) -> None:
    made.store.configure("one")

    async def work() -> None:
        made.verdict = verdict
        made.store.configure("two")
        await asyncio.sleep(0.1)
        assert made.text(Condition.CONFIG).startswith(f"{verdict} (/config); still serving")
        made.verdict = None
        made.store.configure("three")
        await asyncio.sleep(0.1)
        assert made.text(Condition.CONFIG) == ""
        assert made.offered == ["two", "three"]

    made.watch("one", work())


def test_a_config_of_a_different_network_ends_the_watch(made: Made) -> None:
    async def work() -> None:
        made.store.configure("one")
        made.verdict = ConfigChanged("the network config has changed: x")
        made.later(1, made.store.configure, "two")
        with pytest.raises(ConfigChanged):
            await made.follower.watch("one", made.changed)

    made.clock.run(work())


def test_the_watch_outlives_the_store_and_catches_up(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    made.store.configure("one")

    async def work() -> None:
        made.store.go_down(REFUSED)
        await asyncio.sleep(600)
        assert made.follower.seen_since is None
        made.store.configure("two")
        made.store.refusal = None
        await asyncio.sleep(1.6)
        assert made.offered == ["two"]
        assert made.follower.seen_since is not None

    made.watch("one", work())
    assert caplog.messages == []  # the task that follows the leases reports it
