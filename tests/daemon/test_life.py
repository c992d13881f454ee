"""Life: one run of the network: a lease is taken, its tasks serve it, an error ends it."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import pytest
from fake_host import ETH0, FakeHost
from fake_programs import FakePrograms
from fake_store import FakeStore
from managers import ME, OTHER, net
from virtual_time import Clock

from flannel.conditions import Condition
from flannel.daemon import config_follower, lease_keeper, saved_state, upkeep
from flannel.daemon import life as life_module
from flannel.daemon.config_follower import ConfigFollower
from flannel.daemon.life import Life, Shared
from flannel.daemon.preparation import Plan
from flannel.daemon.saved_state import SavedState
from flannel.daemon.state_file import StateFile
from flannel.errors import (
    ConfigChanged,
    KernelError,
    LeaseLost,
    NetworkInUse,
    StoreUnavailable,
    UnderlayChanged,
)
from flannel.firewall import keeper as firewall_keeper
from flannel.firewall.keeper import Firewall
from flannel.firewall.rules import Guard, Rules
from flannel.handover.hand_over import HandOver
from flannel.health import status as status_module
from flannel.health.status import Status
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Address, Link
from flannel.kernel.rtmessages import FoundRoute
from flannel.lease import Lease, LeaseAttrs, LeaseTable, Peers
from flannel.leases import subnets as subnets_module
from flannel.leases.adoption import Adoption
from flannel.network_config import NetworkConfig
from flannel.options.table import parse
from flannel.stores import StoreHealth

PREFIX = "/coreos.com/network"
TEXT = '{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}'
PEER = net("10.5.9.0/24")
OWN = Lease(net("10.5.1.0/24"), ME, 600, 17)
SAVED = SavedState(PREFIX, TEXT, OWN, (Lease(PEER, OTHER),))
REFUSED = StoreUnavailable("cannot list leases: connection refused")


class FakeNetwork:
    """Records what was applied, and runs until it is cancelled."""

    device, mtu, holds = "flannel.1", 1450, None
    guard: Guard | None = None

    def __init__(self) -> None:
        self.applied: list[object] = []
        self.is_running = False

    async def apply(self, peers: Peers, changed: Collection[IPv4Network] | None = None) -> None:
        self.applied.append(set(peers) if changed is None else ("only", set(changed)))

    async def run(self) -> None:
        self.is_running = True
        try:
            await asyncio.sleep(80_000)
        finally:
            self.is_running = False

    def counters(self) -> dict[str, int]:
        return {}

    def trouble(self) -> str:
        return ""


class FakeBackend:
    """Publishes the attributes of this host; its network is the one above."""

    def __init__(self) -> None:
        self.network = FakeNetwork()
        self.refusal: KernelError | None = None

    async def lease_attrs(self, node_id: str) -> LeaseAttrs:
        return LeaseAttrs(ME.public_ip, "host-gw", node_id=node_id)

    async def start(self, lease: Lease) -> FakeNetwork:
        if self.refusal is not None:
            raise self.refusal
        return self.network


class FakeUnderlay:
    """Watches until `changed` is set."""

    changed: asyncio.Event

    async def watch(self, used: object, on_return: Callable[[], None]) -> NoReturn:
        self.changed = asyncio.Event()
        await self.changed.wait()
        raise UnderlayChanged("the MTU of eth0 is 1400 now, it was 1500")


class SilentMonitor:
    """Never gives a hint."""

    last_port = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def watch(self, *watched: object) -> None:
        pass


class Made:
    """A host, and a run of the network on it."""

    def __init__(self, clock: Clock, directory: Path, saved: SavedState | None = None) -> None:
        self.clock, self.directory = clock, directory
        if saved is not None:
            saved_state.write(directory / saved_state.FILE_NAME, saved)
        options = parse(
            [f"-state-dir={directory}", f"-subnet-file={directory}/subnet.env", "-probe-port=0",
             "-subnet-lease-ttl=1h", "-subnet-lease-renew-margin=10"],
            {},
        )  # fmt: skip
        self.store = FakeStore()
        self.store.configure(TEXT)
        self.host = FakeHost()
        self.backend, self.underlay = FakeBackend(), FakeUnderlay()
        self.status = Status(options, lambda: StoreHealth("", None, clock.now, 0))
        conditions = self.status.conditions
        state = StateFile(directory, PREFIX, conditions)
        self.shared = Shared(
            options=options,
            store=self.store,
            kernel=self.host.kernel,
            status=self.status,
            underlay=cast(Any, self.underlay),
            config=ConfigFollower(self.store, "/config", conditions),
            hand_over=HandOver(self.host.netlink, options.subnet_file, None, self.status),
            state=state,
            leases=LeaseTable(state.current.peers if state.current is not None else ()),
            adoption=Adoption(self.store, 0, lambda: clock.now),
        )
        self.shared.config.seen_since = 0.0  # a store that is new would be waited for

    def life(self, resume: Lease | None = None, interface: ExternalInterface = ETH0) -> Life:
        config = NetworkConfig.from_json(TEXT)
        plan = Plan(TEXT, config, cast(Any, self.backend), interface, resume)
        return Life(self.shared, plan, str(ME.node_id))

    def serve(
        self, work: Callable[[Life], Coroutine[Any, Any, None]], resume: Lease | None = None
    ) -> None:
        """Run ``work`` while a lease is served."""

        async def both() -> None:
            life = self.life(resume)
            await life.take_lease()
            serving = asyncio.create_task(life.serve())
            await asyncio.sleep(0.01)
            try:
                await work(life)
            finally:
                serving.cancel()
                with suppress(asyncio.CancelledError):
                    await serving

        self.clock.run(both())

    def ended_by(self, *calls: Callable[[], object]) -> BaseExceptionGroup[Exception]:
        """Serve a lease, let ``calls`` happen; return what has ended the run."""

        async def serving() -> BaseExceptionGroup[Exception]:
            life = self.life()
            await life.take_lease()
            loop = asyncio.get_running_loop()
            for call in calls:
                loop.call_later(1, call)
            with pytest.raises(ExceptionGroup) as caught:
                await life.serve()
            return caught.value

        return self.clock.run(serving())


@pytest.fixture
def made(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    clock.rule(config_follower, lease_keeper, upkeep)
    clock.rule(firewall_keeper, status_module, subnets_module)
    monkeypatch.setattr(upkeep, "Monitor", lambda port: SilentMonitor())
    FakePrograms(tmp_path / "bin", monkeypatch)
    return Made(clock, tmp_path)


def test_a_lease_is_taken_served_and_handed_over(made: Made) -> None:
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
    made: Made, caplog: pytest.LogCaptureFixture, ttl: int | None, text: str
) -> None:
    caplog.set_level("INFO")
    made.store.put(net("10.5.7.0/24"), ME, ttl)
    made.clock.run(made.life().take_lease())
    assert caplog.messages[-1] == f"lease 10.5.7.0/24 {text}"


@pytest.mark.parametrize(("public_ip", "is_asked"), [("192.0.2.1", True), ("198.51.100.1", False)])
def test_the_holder_of_our_address_is_asked_unless_nat_stands_between(
    made: Made, monkeypatch: pytest.MonkeyPatch, public_ip: str, is_asked: bool
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
def test_the_guard_is_the_networks_unless_the_operator_wants_none(
    made: Made, monkeypatch: pytest.MonkeyPatch, is_wanted: bool
) -> None:
    rules: list[Rules] = []

    class Recording(Firewall):
        def __init__(self, given: Rules, *rest: Any) -> None:
            rules.append(given)
            super().__init__(given, *rest)

    monkeypatch.setattr(life_module, "Firewall", Recording)
    made.backend.network.guard = Guard("flannel.1", 8472, 1)
    object.__setattr__(made.shared.options, "guard", is_wanted)
    made.serve(lambda life: asyncio.sleep(0.1))
    assert [each.guard for each in rules] == [made.backend.network.guard if is_wanted else None]


def test_all_parts_are_reported_to_be_done(made: Made) -> None:
    made.backend.network.device = "lo"  # which every host has

    async def work(life: Life) -> None:
        await asyncio.sleep(1)
        assert made.status.unready() == ""

    made.serve(work)


def test_a_new_peer_reaches_the_network_and_the_state_file(made: Made) -> None:
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


def test_the_lease_lasts_and_is_renewed_as_the_flags_say(made: Made) -> None:
    async def work(life: Life) -> None:
        assert made.store.leases[life.subnets.own.subnet].ttl == 3600
        await asyncio.sleep(3600 - 600)
        assert made.store.renewals == 1

    made.serve(work)


def test_a_run_that_begins_ends_the_condition_that_there_is_none(made: Made) -> None:
    conditions = made.status.conditions
    conditions.report(Condition.RUN, "cannot create VXLAN link: no memory; trying again")
    conditions.report(Condition.RESUMED, "the store does not answer: serving lease ...")

    async def work(life: Life) -> None:
        assert conditions.document() == {}

    made.serve(work)


def test_a_run_that_cannot_begin_does_not_end_it(made: Made) -> None:
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


def test_what_was_saved_is_served_while_the_store_does_not_answer(
    made: Made, clock: Clock, tmp_path: Path
) -> None:
    resumed = Made(clock, tmp_path, SAVED)
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


def test_the_lease_of_before_is_asked_for_again(made: Made) -> None:
    async def first(life: Life) -> None:
        subnets.append(life.subnets.own.subnet)
        await asyncio.sleep(1)

    subnets: list[IPv4Network] = []
    made.serve(first)
    made.store.remove(subnets[0])
    made.serve(first)
    assert subnets[1] == subnets[0]


def test_a_subnet_that_another_host_takes_ends_it(made: Made) -> None:
    def take() -> None:
        ((subnet, _),) = made.store.leases.items()
        made.store.put(subnet, OTHER, 600)

    assert made.ended_by(take).subgroup(LeaseLost)


def test_an_underlay_that_changes_ends_it(made: Made) -> None:
    assert made.ended_by(lambda: made.underlay.changed.set()).subgroup(UnderlayChanged)


@pytest.mark.parametrize(
    "text",
    [
        '{"Network": "10.5.0.0/16", "Backend": {"Type": "alloc"}}',
        '{"Network": "10.7.0.0/16", "Backend": {"Type": "host-gw"}}',
        '{"Network": "10.5.0.0/16", "SubnetLen": 26, "Backend": {"Type": "host-gw"}}',
    ],
)
def test_a_different_network_config_ends_it(made: Made, text: str) -> None:
    group = made.ended_by(lambda: made.store.configure(text))
    (why,) = group.subgroup(ConfigChanged).exceptions  # type: ignore[union-attr] # then it fails
    assert str(why).startswith("the network config has changed: ")


def test_a_config_that_moves_our_subnet_out_ends_it(made: Made) -> None:
    def narrow() -> None:
        ((subnet, _),) = made.store.leases.items()
        third = subnet.network_address.packed[2]
        made.store.configure(
            TEXT[:-1] + f', "SubnetMin": "10.5.{third + 1}.0", "SubnetMax": "10.5.255.0"}}'
        )

    assert made.ended_by(narrow).subgroup(ConfigChanged)


def test_a_config_with_the_same_meaning_or_more_room_does_not(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def work(life: Life) -> None:
        made.store.configure(TEXT.replace(" ", ""))
        await asyncio.sleep(1)
        assert not [line for line in caplog.messages if "has changed" in line]
        third = life.subnets.own.subnet.network_address.packed[2]
        made.store.configure(TEXT[:-1] + f', "SubnetMin": "10.5.{third}.0"}}')
        await asyncio.sleep(1)
        assert [line for line in caplog.messages if "the network config has changed" in line]
        assert life.subnets.config.subnet_min == IPv4Address(f"10.5.{third}.0")
        assert made.backend.network.is_running

    made.serve(work)


@pytest.mark.parametrize("text", ["{", '{"Network": "10.5.0.0/16", "Backend": {"Type": "x"}}'])
def test_a_config_that_cannot_be_used_does_not_end_it(made: Made, text: str) -> None:
    async def work(life: Life) -> None:
        made.store.configure(text)
        await asyncio.sleep(1)
        assert made.status.conditions.text(Condition.CONFIG).endswith(
            "; serving on with the one that was"
        )
        assert made.backend.network.is_running

    made.serve(work)


def test_a_config_whose_range_is_in_use_here_does_not_end_it(made: Made) -> None:
    made.host.netlink.addresses.append(Address(2, IPv4Interface("10.7.7.1/24"), 0))

    async def work(life: Life) -> None:
        made.store.configure('{"Network": "10.7.0.0/16", "Backend": {"Type": "host-gw"}}')
        await asyncio.sleep(1)
        assert "it has address 10.7.7.1/24 of eth0" in made.status.conditions.text(Condition.CONFIG)

    made.serve(work)


class TestOverlap:
    """A network that is in use on this host is refused before a lease is taken."""

    def refusal(self, made: Made) -> str:
        with pytest.raises(NetworkInUse) as caught:
            made.clock.run(made.life().take_lease())
        assert made.store.leases.keys() <= {PEER}
        return str(caught.value)

    def test_an_address_is_named(self, made: Made) -> None:
        made.host.netlink.addresses.append(Address(2, IPv4Interface("10.5.7.1/24"), 0))
        assert self.refusal(made).endswith("this host: it has address 10.5.7.1/24 of eth0")

    def test_a_route_is_named(self, made: Made) -> None:
        made.host.tables.foreign.append(FoundRoute(PEER, IPv4Address("192.0.2.99"), 2, 0))
        assert self.refusal(made).endswith("it has route 10.5.9.0/24 via 192.0.2.99 dev eth0")

    def test_a_route_to_a_holder_of_a_lease_is_that_of_an_earlier_daemon(self, made: Made) -> None:
        made.store.put(PEER, OTHER, 600)
        made.host.tables.foreign.append(FoundRoute(PEER, OTHER.public_ip, 2, 0))
        made.clock.run(made.life().take_lease())

    def test_the_bridge_of_our_own_lease_is_no_other_network(self, made: Made) -> None:
        made.store.put(net("10.5.7.0/24"), ME, 600)
        made.host.netlink.add(Link(7, "docker0", "bridge", 1450, True, ""))
        made.host.netlink.addresses.append(Address(7, IPv4Interface("10.5.7.1/24"), 0))
        made.clock.run(made.life().take_lease())

    def test_while_the_store_does_not_answer_the_leases_of_before_count(
        self, made: Made, clock: Clock, tmp_path: Path
    ) -> None:
        made.host.tables.foreign.append(FoundRoute(PEER, OTHER.public_ip, 2, 0))
        made.store.refusal = REFUSED
        with pytest.raises(StoreUnavailable):
            clock.run(made.life(resume=OWN).take_lease())
        resumed = Made(clock, tmp_path, SAVED)
        resumed.host.tables.foreign = made.host.tables.foreign
        resumed.store.refusal = REFUSED
        clock.run(resumed.life(resume=OWN).take_lease())
