"""Life: one run of the network: a lease is taken, its tasks serve it, an error ends it."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, cast

import pytest
from fake_host import ETH0
from managers import ME, OTHER, net
from one_life import OWN, PEER, PREFIX, REFUSED, SAVED, TEXT, OneLife
from virtual_time import Clock

from flannel.conditions import Condition
from flannel.daemon import life as life_module
from flannel.daemon import saved_state
from flannel.daemon.life import Life
from flannel.errors import (
    KernelError,
    LeaseLost,
    UnderlayChanged,
)
from flannel.firewall.keeper import Firewall
from flannel.firewall.rules import Guard, Rules
from flannel.lease import Lease
from flannel.leases.adoption import Adoption


@pytest.fixture
def made(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OneLife:
    return OneLife(clock, tmp_path, monkeypatch)


def test_a_lease_is_taken_served_and_handed_over(made: OneLife) -> None:
    async def work(life: Life) -> None:
        lease = life.subnets.own
        assert made.store.leases[lease.subnet].attrs == ME
        first = lease.subnet.network_address + 1
        assert f"FLANNEL_SUBNET={first}/24\n" in (made.directory / "subnet.env").read_text()
        assert made.backend.network.is_running
        assert made.backend.network.applied == [set()]
        status = made.status.document()
        assert (status["lease"]["subnet"], status["mtu"]) == (str(lease.subnet), 1450)
        assert made.status.network is cast(Any, made.backend.network)

    made.serve(work)
    assert not made.backend.network.is_running


@pytest.mark.parametrize(
    ("ttl", "text"), [(3600, "of 192.0.2.1 for 3600 s"), (None, "of 192.0.2.1, a reservation")]
)
def test_the_lease_is_logged_with_how_long_it_lasts(
    made: OneLife, caplog: pytest.LogCaptureFixture, ttl: int | None, text: str
) -> None:
    caplog.set_level("INFO")
    made.store.put(net("10.5.7.0/24"), ME, ttl)
    made.clock.run(made.life().take_lease())
    assert caplog.messages[-1] == f"lease 10.5.7.0/24 {text}"


@pytest.mark.parametrize(("public_ip", "is_asked"), [("192.0.2.1", True), ("198.51.100.1", False)])
def test_the_holder_of_our_address_is_asked_unless_we_are_behind_nat(
    made: OneLife, monkeypatch: pytest.MonkeyPatch, public_ip: str, is_asked: bool
) -> None:
    asked = []

    async def acquire(*arguments: object, adoption: Adoption | None, **options: object) -> Lease:
        asked.append(adoption)
        return OWN

    interface = replace(ETH0, public_ip=IPv4Address(public_ip))
    life = made.life(interface=interface)
    monkeypatch.setattr(life.subnets, "acquire", acquire)
    made.clock.run(life.take_lease())
    assert asked == [made.shared.adoption if is_asked else None]


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_run_has_the_guard_of_its_network_unless_the_operator_wants_none(
    made: OneLife, monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    rules: list[Rules] = []

    class Recording(Firewall):
        def __init__(self, given: Rules, *rest: Any) -> None:
            rules.append(given)
            super().__init__(given, *rest)

    monkeypatch.setattr(life_module, "Firewall", Recording)
    made.backend.network.guard = Guard("flannel.1", "eth0", port=8472, vni=1)
    object.__setattr__(made.shared.options, "guard", is_wanted)
    made.serve(lambda life: asyncio.sleep(0.1))
    assert [each.guard for each in rules] == [made.backend.network.guard if is_wanted else None]


def test_a_run_reports_that_each_part_is_done(made: OneLife) -> None:
    made.backend.network.device = "lo"  # which every host has

    async def work(life: Life) -> None:
        await asyncio.sleep(1)
        assert made.status.unready() == ""

    made.serve(work)


def test_a_new_peer_reaches_the_network_and_the_state_file(made: OneLife) -> None:
    async def work(life: Life) -> None:
        made.store.put(PEER, OTHER, 600)
        await asyncio.sleep(2)
        assert made.backend.network.applied[:2] == [set(), ("only", {PEER})]

    made.serve(work)
    saved = saved_state.read(made.directory / saved_state.FILE_NAME, PREFIX)
    assert saved is not None
    assert saved.peers == (Lease(PEER, OTHER),)
    assert saved.config == TEXT
    assert saved.lease is not None


def test_the_lease_lasts_and_is_renewed_as_the_flags_say(made: OneLife) -> None:
    async def work(life: Life) -> None:
        assert made.store.leases[life.subnets.own.subnet].ttl == 3600
        await asyncio.sleep(3600 - 600)
        assert made.store.renewals == 1

    made.serve(work)


def test_a_run_that_begins_ends_the_condition_that_there_is_none(made: OneLife) -> None:
    conditions = made.status.conditions
    conditions.report(Condition.RUN, "cannot create VXLAN link: no memory; trying again")
    conditions.report(Condition.RESUMED, "the store does not answer: serving lease ...")

    async def work(life: Life) -> None:
        assert conditions.document() == {}

    made.serve(work)


def test_a_run_that_cannot_begin_does_not_end_the_condition(made: OneLife) -> None:
    conditions = made.status.conditions
    conditions.report(Condition.RUN, "cannot create VXLAN link: no memory; trying again")
    made.backend.refusal = KernelError("create VXLAN link", 12)

    async def begin() -> None:
        life = made.life()
        await life.take_lease()
        await life.serve()

    with pytest.raises(KernelError):
        made.clock.run(begin())
    assert conditions.text(Condition.RUN)


def test_a_saved_state_is_served_while_the_store_does_not_answer(made: OneLife) -> None:
    resumed = made.again(SAVED)
    resumed.store.refusal = REFUSED

    async def work(life: Life) -> None:
        await asyncio.sleep(60)
        assert life.subnets.own.subnet == OWN.subnet
        assert resumed.backend.network.applied[0] == {PEER}
        assert resumed.store.leases == {}
        resumed.store.refusal = None
        await asyncio.sleep(10)
        assert resumed.store.leases[OWN.subnet].attrs == ME

    resumed.serve(work, resume=OWN)


def test_a_run_asks_for_the_previous_lease(made: OneLife) -> None:
    async def first(life: Life) -> None:
        subnets.append(life.subnets.own.subnet)
        await asyncio.sleep(1)

    subnets: list[IPv4Network] = []
    made.serve(first)
    made.store.remove(subnets[0])
    made.serve(first)
    assert subnets[1] == subnets[0]


def test_a_subnet_that_another_host_takes_ends_the_run(made: OneLife) -> None:
    def take() -> None:
        ((subnet, _),) = made.store.leases.items()
        made.store.put(subnet, OTHER, 600)

    assert made.ended_by(take).subgroup(LeaseLost)


def test_an_underlay_that_changes_ends_the_run(made: OneLife) -> None:
    assert made.ended_by(lambda: made.underlay.changed.set()).subgroup(UnderlayChanged)
