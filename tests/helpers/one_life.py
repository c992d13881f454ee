"""A host on which one run of the network serves a lease, in memory but for its files."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, NoReturn, Self, cast

import pytest
from fake_host import ETH0, FakeHost
from fake_programs import FakePrograms
from fake_store import FakeStore
from managers import ME, OTHER, net
from virtual_time import Clock
from waiting import running

from flannel.daemon import config_follower, lease_keeper, saved_state, upkeep
from flannel.daemon.config_follower import ConfigFollower
from flannel.daemon.life import Life, Shared
from flannel.daemon.preparation import Plan
from flannel.daemon.saved_state import SavedState
from flannel.daemon.state_file import StateFile
from flannel.errors import (
    KernelError,
    StoreUnavailable,
    UnderlayChanged,
)
from flannel.firewall import keeper as firewall_keeper
from flannel.firewall.rules import Guard
from flannel.handover.hand_over import HandOver
from flannel.handover.recipients import Recipients
from flannel.health import status as status_module
from flannel.health.status import Status
from flannel.kernel.interface import ExternalInterface
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


class OneLife:
    """A host, and a run of the network on it."""

    def __init__(
        self,
        clock: Clock,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        saved: SavedState | None = None,
    ) -> None:
        clock.rule(config_follower, lease_keeper, upkeep)
        clock.rule(firewall_keeper, status_module, subnets_module)
        monkeypatch.setattr(upkeep, "Monitor", lambda port: SilentMonitor())
        FakePrograms(directory / "bin", monkeypatch)
        self.clock, self.directory, self._monkeypatch = clock, directory, monkeypatch
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
            recipients=Recipients([], self.status.conditions),
            state=state,
            leases=LeaseTable(state.current.peers if state.current is not None else ()),
            adoption=Adoption(self.store, 0, lambda: clock.now),
        )
        self.shared.config.seen_since = 0.0  # a store that is new would be waited for

    def again(self, saved: SavedState) -> "OneLife":
        """The host as it starts with what an earlier process has saved."""
        return OneLife(self.clock, self.directory, self._monkeypatch, saved)

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
            async with running(life.serve()):
                await asyncio.sleep(0.01)
                await work(life)

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
