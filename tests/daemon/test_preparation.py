"""Preparation: the plan of a run, from the store or, if that fails, from the saved state."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, cast

import pytest
from fake_host import ETH0, FakeHost
from fake_store import FakeStore
from managers import ME, OTHER, net
from virtual_time import Clock

from flannel.conditions import Condition, Conditions
from flannel.daemon import config_follower
from flannel.daemon import preparation as module
from flannel.daemon.config_follower import ConfigFollower
from flannel.daemon.preparation import Plan, Preparation
from flannel.daemon.saved_state import SavedState
from flannel.errors import NetworkInUse, NoInterface, StoreUnavailable
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.interface_choice import Overlay
from flannel.lease import Lease

HOST_GW = '{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}'
ALLOC = '{"Network": "10.5.0.0/16", "Backend": {"Type": "alloc"}}'
ELSEWHERE = '{"Network": "10.7.0.0/16", "Backend": {"Type": "alloc"}}'
UNKNOWN = '{"Network": "10.5.0.0/16", "Backend": {"Type": "pigeon"}}'
OWN = Lease(net("10.5.1.0/24"), ME, 600, 17)
SAVED = SavedState("/coreos.com/network", HOST_GW, OWN, (Lease(net("10.5.2.0/24"), OTHER),))
REFUSED = StoreUnavailable("cannot read /config: connection refused")


class FakeUnderlay:
    """An external interface that is there after some seconds.

    :ivar better: the one to use once the network is known; None: there is none.
    """

    def __init__(self) -> None:
        self.overlay = Overlay()
        self.interface, self.after = ETH0, 0.0
        self.better: ExternalInterface | None = ETH0
        self.preferred: list[IPv4Address] = []

    async def wait(self) -> ExternalInterface:
        assert self.overlay.config is None  # it may be a new one
        await asyncio.sleep(self.after)
        return self.interface

    def prefer(self, addresses: Iterable[IPv4Address]) -> None:
        self.preferred += addresses

    def is_settled(self, interface: ExternalInterface) -> bool:
        assert self.overlay.config is not None
        return self.better == ETH0

    async def find(self) -> ExternalInterface:
        if self.better is None:
            raise NoInterface("cannot use interface eth0: its addresses are the overlay's")
        return self.better


class Made:
    def __init__(self, clock: Clock) -> None:
        clock.rule(config_follower)
        self.clock = clock
        self.store = FakeStore()
        self.underlay = FakeUnderlay()
        self.conditions = Conditions(module.log)
        follower = ConfigFollower(self.store, "/config", self.conditions)
        kernel = FakeHost().kernel
        underlay = cast(Any, self.underlay)
        self.asked = 0
        self.preparation = Preparation(kernel, underlay, follower, self.conditions, self._published)

    async def _published(self, interface: ExternalInterface) -> list[IPv4Address]:
        self.asked += 1
        return [interface.address]

    def wait(self, saved: SavedState | None) -> tuple[Plan, float]:
        """The plan, and after how many seconds it was ready."""
        began = self.clock.now
        plan = self.clock.run(self.preparation.wait(saved))
        return plan, self.clock.now - began

    def resumed(self) -> str:
        return self.conditions.text(Condition.RESUMED)


@pytest.fixture
def made(clock: Clock) -> Made:
    return Made(clock)


def test_the_plan_has_the_config_of_the_store_and_the_interface_of_the_host(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made.store.configure(HOST_GW)
    plan, seconds = made.wait(None)
    assert (plan.text, plan.interface, plan.resume) == (HOST_GW, ETH0, None)
    assert (str(plan.config.network), plan.config.backend_type) == ("10.5.0.0/16", "host-gw")
    assert type(plan.backend).__name__ == "HostGwBackend"
    assert seconds == 0
    assert caplog.messages == [
        "external interface: eth0 with address 192.0.2.1, MTU 1500",
        "network 10.5.0.0/16, backend host-gw",
    ]


def test_an_unchanged_interface_or_network_is_logged_once(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made.store.configure(HOST_GW)
    made.wait(None)
    made.wait(None)
    made.underlay.interface = replace(ETH0, mtu=1400)
    made.wait(None)
    made.store.configure(ALLOC)
    made.wait(None)
    assert [line for line in caplog.messages if "external" in line] == [
        "external interface: eth0 with address 192.0.2.1, MTU 1500",
        "external interface: eth0 with address 192.0.2.1, MTU 1400",
    ]
    assert [line for line in caplog.messages if "backend" in line] == [
        "network 10.5.0.0/16, backend host-gw",
        "network 10.5.0.0/16, backend alloc",
    ]


def test_an_interface_that_is_late_is_waited_for(made: Made) -> None:
    made.store.configure(HOST_GW)
    made.underlay.after = 3600.0
    _, seconds = made.wait(None)
    assert seconds == pytest.approx(3600)


def test_a_config_that_this_host_cannot_run_is_waited_out(made: Made) -> None:
    made.store.configure(UNKNOWN)

    async def work() -> Plan:
        asyncio.get_running_loop().call_later(100, made.store.configure, ALLOC)
        return await made.preparation.wait(None)

    assert made.clock.run(work()).config.backend_type == "alloc"


def test_the_saved_state_is_served_while_the_store_does_not_answer(made: Made) -> None:
    made.store.refusal = REFUSED
    plan, seconds = made.wait(SAVED)
    assert (plan.resume, plan.text) == (OWN, HOST_GW)
    assert seconds == pytest.approx(0.5)
    assert made.resumed() == (
        f"the store does not answer: serving lease {OWN} and 1 peers as saved, until it does"
    )


def test_a_store_that_answers_in_time_is_preferred_to_the_saved_state(made: Made) -> None:
    made.store.configure(ALLOC)
    plan, _ = made.wait(SAVED)
    assert (plan.resume, plan.text) == (None, ALLOC)
    assert made.resumed() == ""


def test_the_saved_state_is_served_while_the_config_cannot_be_used(made: Made) -> None:
    made.store.configure(UNKNOWN)
    plan, _ = made.wait(SAVED)
    assert (plan.resume, plan.text) == (OWN, HOST_GW)
    assert made.resumed().startswith("the network config cannot be used: serving lease")


@pytest.mark.parametrize(
    ("saved", "reported"),
    [
        (None, ""),
        (replace(SAVED, lease=None), ""),  # it was lost
        (replace(SAVED, config=ELSEWHERE), ""),  # our lease is of an earlier config
        (replace(SAVED, config=UNKNOWN), "cannot serve the saved state meanwhile: cannot use"),
    ],
    ids=["nothing", "no lease", "a lease outside", "a config of no use"],
)
def test_without_a_usable_saved_state_it_waits_for_the_store(
    made: Made, saved: SavedState | None, reported: str
) -> None:
    made.store.refusal = REFUSED

    async def work() -> Plan:
        waiting = asyncio.create_task(made.preparation.wait(saved))
        await asyncio.sleep(3600)
        assert made.resumed().startswith(reported)
        assert bool(made.resumed()) == bool(reported)
        made.store.refusal = None
        made.store.configure(HOST_GW)
        return await waiting

    plan = made.clock.run(work())
    assert (plan.text, plan.resume) == (HOST_GW, None)


def test_an_address_of_an_earlier_lease_is_preferred_where_nothing_was_saved(made: Made) -> None:
    made.store.configure(HOST_GW)
    made.wait(None)
    assert made.underlay.preferred == [ETH0.address]
    made.wait(SAVED)  # which names the address by itself
    assert made.asked == 1


def test_an_interface_that_the_network_covers_is_replaced_by_a_better_one(made: Made) -> None:
    made.store.configure(HOST_GW)
    made.underlay.better = replace(ETH0, name="eth1", link=3)
    plan, _ = made.wait(None)
    assert plan.interface == made.underlay.better
    assert cast(Any, plan.backend)._interface == made.underlay.better


def test_without_a_better_one_the_network_is_refused_by_the_address_in_it(made: Made) -> None:
    made.store.configure('{"Network": "192.0.0.0/16", "Backend": {"Type": "host-gw"}}')
    made.underlay.better = None
    with pytest.raises(NetworkInUse, match=r"its own address 192\.0\.2\.1 is among those"):
        made.wait(None)
    made.store.configure(HOST_GW)
    with pytest.raises(NoInterface):
        made.wait(None)
