"""The daemon's story: interface, config, backend, lease, subnet.env; then follow the peers.

    Daemon.run             one life after another
      Preparation.wait     interface, network config, backend; what is not there yet is waited for
      _serve               one life of the network, ended by an error:
        ├── HandOver.keep          subnet.env for docker
        ├── LeaseKeeper.run        our lease is kept; store -> SubnetManager.peers
        ├── Upkeep.run             SubnetManager.peers -> kernel, at each change and whenever others
        │                          may have changed it; watches the external interface
        ├── Firewall.keep          masquerade, forwarding, who may send
        ├── network.run            for a backend that carries packets itself
        ├── blackhole.keep         for packets to addresses that nobody has
        └── ConfigFollower.watch   another network config

Here alone it is decided what an error means. Nothing that can mend ends the process: a store
that is away is waited for, and what was served last is served meanwhile; any other `FlannelError`
starts another life. What is in the kernel stays there, also when the process ends: packets flow on.
"""

import asyncio
import logging
import os
import threading
from dataclasses import replace
from ipaddress import IPv4Network
from time import monotonic

from flannel.backends import Network, load
from flannel.backoff import Backoff
from flannel.conditions import Condition
from flannel.daemon import identity, saved_state
from flannel.daemon.config_follower import ConfigFollower
from flannel.daemon.lease_keeper import LeaseKeeper
from flannel.daemon.preparation import Plan, Preparation
from flannel.daemon.saved_state import SavedState
from flannel.daemon.underlay import Underlay
from flannel.daemon.upkeep import Upkeep
from flannel.errors import (
    CannotWrite,
    ConfigChanged,
    FlannelError,
    IdentityTaken,
    LeaseLost,
    NetworkInUse,
    StoreUnreachable,
    UnderlayChanged,
)
from flannel.firewall.keeper import Firewall, Rules
from flannel.handover.hand_over import HandOver
from flannel.health.peer_probe import answer_peers
from flannel.health.status import Status
from flannel.kernel import blackhole
from flannel.kernel.doors import Kernel
from flannel.kernel.host import find_overlap, remove_stale_links
from flannel.kernel.interface import ExternalInterface, InterfaceChoice
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import Lease, LeaseTable
from flannel.leases.subnets import SubnetManager
from flannel.logs import fields
from flannel.network_config import NetworkConfig
from flannel.options.table import Options
from flannel.stores import Store
from flannel.systemd import FdStore

log = logging.getLogger(__name__)

_RELEASE = 0.7
"""Seconds for the store to take our lease back at the end."""


async def run(options: Options, store: Store, status: Status) -> None:
    """Serve until cancelled."""
    async with Netlink() as netlink:
        with RtNetlink() as tables:
            kernel = Kernel(netlink, tables, status.repairs, FdStore(os.environ))
            await Daemon(options, store, kernel, status).run()


class Daemon:
    """One flanneld on one host."""

    def __init__(self, options: Options, store: Store, kernel: Kernel, status: Status) -> None:
        self._options = options
        self._store = store
        self._kernel = kernel
        self._status = status
        self._conditions = status.conditions
        self._config = ConfigFollower(store, f"{options.etcd.prefix}/config", self._conditions)
        choice = InterfaceChoice(
            names=options.iface,
            patterns=options.iface_regex,
            can_reach=options.iface_can_reach,
            public_ip=options.public_ip,
        )
        self._underlay = Underlay(kernel, choice, self._conditions)
        self._preparation = Preparation(kernel, self._underlay, self._config, self._conditions)
        self._hand_over = HandOver(kernel.netlink, options.subnet_file, options.lease_hook, status)
        self._node_id = identity.load(options.state_dir)
        self._state_file = options.state_dir / saved_state.FILE_NAME
        self._state = saved_state.read(self._state_file, options.etcd.prefix)
        """What was served last, by this run or the one before."""
        self._writing = threading.Lock()
        self._leases = LeaseTable(self._state.peers if self._state is not None else ())
        self._subnets: SubnetManager | None = None

    async def run(self) -> None:
        """Live one life after another until cancelled."""
        try:
            await self._live()
        finally:
            if self._options.release_on_exit and self._subnets is not None:
                await self._release(self._subnets)

    async def _live(self) -> None:
        this = asyncio.current_task()
        assert this is not None
        troubled, away = Backoff(), Backoff(0.1, 1.0)
        while True:
            began = monotonic()
            backoff: Backoff | None = troubled
            lost: SavedState | None = None
            try:
                await asyncio.create_task(self._life())
            except* FlannelError as group:
                why = _first(group)
                self._status.end(str(why))
                if isinstance(why, ConfigChanged | LeaseLost):
                    log.warning("%s; starting over", why)
                    if isinstance(why, LeaseLost) and self._state is not None:
                        lost = replace(self._state, lease=None)
                    if isinstance(why, IdentityTaken):
                        self._node_id = identity.renew(self._options.state_dir)
                    backoff = away
                elif isinstance(why, UnderlayChanged):
                    log.warning("%s; adapting to it", why)
                    self._store.close()  # connections from an address that is gone hang
                    backoff = None  # packets may be lost until that is done
                elif isinstance(why, StoreUnreachable):
                    # It says so in many ways: refused, reset, no answer.
                    self._conditions.report(Condition.RUN, f"{why}; trying again", about=type(why))
                    self._config.seen_since = None
                    backoff = away
                else:
                    self._conditions.report(Condition.RUN, f"{why}; trying again")
            # Before Python 3.13 a `TaskGroup` with an error of its own forgets that its task was
            # cancelled meanwhile, and miscounts it as well (CPython issue 116720). So a life has a
            # task of its own, and whether this one was cancelled can be told.
            if this.cancelling():
                raise asyncio.CancelledError
            if lost is not None:  # there may be no other subnet before this host boots again
                await self._keep_state(lost)
            if monotonic() - began > troubled.longest:  # it had been a good life
                troubled.reset()
                away.reset()
                self._conditions.clear(Condition.RUN)
            if backoff is not None:
                await backoff.wait()

    async def _life(self) -> None:
        await self._serve(await self._preparation.wait(self._state))

    async def _serve(self, plan: Plan) -> None:
        options, config = self._options, plan.config
        state = self._state
        subnets = SubnetManager(
            self._store,
            config,
            ttl=int(options.subnet_lease_ttl.total_seconds()),
            grace=options.lease_grace.total_seconds(),
            table=self._leases,
        )
        await self._check_overlap(config, plan.interface)
        attrs = replace(await plan.backend.lease_attrs(), node_id=self._node_id)
        if plan.resume is not None:
            lease = subnets.resume(attrs, plan.resume)
        else:
            lease = await subnets.acquire(
                attrs,
                self._hand_over.subnet,
                before=state.lease if state is not None else None,
                seen_since=self._config.seen_since,
            )
            self._conditions.clear(Condition.RESUMED)
        self._subnets = subnets
        log.info(
            "lease %s%s",
            lease,
            f" for {lease.ttl} s" if lease.ttl is not None else ", a reservation",
            extra=fields(subnet=lease.subnet, public_ip=lease.attrs.public_ip, ttl=lease.ttl),
        )
        network = await plan.backend.start(lease)
        await remove_stale_links(self._kernel.netlink, config.network, network.device)
        self._kernel.descriptors.drop_others(network.device)
        self._conditions.clear(Condition.RUN)
        upkeep = Upkeep(
            self._kernel,
            network,
            plan.interface,
            self._underlay,
            self._status,
            peers=lambda: subnets.peers,
            on_ready=lambda: self._hand_over.has("peers", subnets.own),
        )
        firewall = self._firewall(config, network, subnets)

        def tell(changed: set[IPv4Network]) -> None:
            upkeep.pending.add(changed)
            firewall.peers_changed(changed)

        if plan.resume is not None:
            tell(set())  # the peers are known: those of before
        keeper = LeaseKeeper(
            subnets,
            self._status,
            tell=tell,
            save=lambda: self._save(plan.text, subnets),
            margin=options.subnet_lease_renew_margin.total_seconds(),
        )
        self._status.serve(config, plan.interface, subnets, network, firewall)
        async with asyncio.TaskGroup() as tasks:
            # Whoever masquerades is told here: if we do, docker must not.
            tasks.create_task(
                self._hand_over.keep(config.network, lease, network.mtu, options.ip_masq)
            )
            tasks.create_task(keeper.run())
            tasks.create_task(upkeep.run(config.network))
            tasks.create_task(firewall.keep(lambda: self._hand_over.has("firewall", subnets.own)))
            tasks.create_task(network.run())
            dropped = lease.subnet if options.ip_blackhole_route else None
            tasks.create_task(blackhole.keep(self._kernel, dropped, self._conditions))
            probes = answer_peers(lease, options.probe_port, self._status.unready)
            tasks.create_task(probes)
            tasks.create_task(
                self._config.watch(plan.text, lambda text: self._change(text, plan, subnets))
            )

    def _firewall(
        self, config: NetworkConfig, network: Network, subnets: SubnetManager
    ) -> Firewall:
        options = self._options
        rules = Rules(
            config.network,
            subnets.own.subnet,
            masquerade=options.ip_masq,
            random_ports=not options.ip_masq_fully_random_disable,
            no_masquerade=options.ip_masq_except,
            forward=options.iptables_forward_rules,
            guard=network.guard if options.guard else None,
        )
        resync = max(options.iptables_resync.total_seconds(), 1.0)
        return Firewall(rules, lambda: subnets.peers, resync, network.device)

    async def _change(self, text: str, plan: Plan, subnets: SubnetManager) -> None:
        """Another network config: start over if it is another network.

        :raises BadNetworkConfig: it cannot be used.
        :raises NetworkInUse: likewise.
        :raises ConfigChanged: in all other cases but two: it says the same, or what may be leased
            is more or less and our subnet among it.
        """
        config = NetworkConfig.from_json(text)
        load(config, plan.interface, self._kernel)
        difference = subnets.config.difference(config)
        if not difference:
            return
        same = replace(subnets.config, subnet_min=config.subnet_min, subnet_max=config.subnet_max)
        if same == config and config.fits(subnets.own.subnet):
            log.info("the network config has changed: %s", difference)
            subnets.config = config
            return
        if not config.network.subnet_of(subnets.config.network):
            await self._check_overlap(config, plan.interface)
        raise ConfigChanged(f"the network config has changed: {difference}")

    async def _save(self, text: str, subnets: SubnetManager) -> None:
        peers = tuple(subnets.peers.values())
        await self._keep_state(SavedState(self._options.etcd.prefix, text, subnets.own, peers))

    async def _keep_state(self, state: SavedState) -> None:
        self._state = state
        try:
            await asyncio.to_thread(self._write_state)
            self._conditions.clear(Condition.STATE)
        except CannotWrite as why:
            self._conditions.report(
                Condition.STATE, f"{why}; without it, no start while etcd is away"
            )

    def _write_state(self) -> None:
        # A life that is over may be writing still: what it has to say must not come last.
        with self._writing:
            if self._state is not None:
                saved_state.write(self._state_file, self._state)

    async def _release(self, subnets: SubnetManager) -> None:
        """Give the lease up at the end; a store that does not answer lets it expire later."""
        try:
            # Not by asyncio.timeout(): this task is being cancelled, and before Python 3.11.3, such
            # as in Debian 12, it lets that out instead of a TimeoutError (CPython issue 102780).
            await asyncio.wait_for(subnets.release(), _RELEASE)
            log.info("released lease %s", subnets.own)
            self._state_file.unlink(missing_ok=True)
        except (FlannelError, TimeoutError, OSError) as why:
            reason = str(why) or "no answer in time"
            log.warning("cannot release lease %s: %s", subnets.own, reason)

    async def _check_overlap(self, config: NetworkConfig, interface: ExternalInterface) -> None:
        """Refuse a network that is in use on this host, before anything is touched.

        :raises NetworkInUse: naming the address or route.
        """
        netlink, tables, network = self._kernel.netlink, self._kernel.tables, config.network
        own = {self._hand_over.subnet} if self._hand_over.subnet is not None else set()
        if not await find_overlap(netlink, tables, network, own):
            return
        # Not everybody's: it may be our own, with subnet.env lost, or upstream's routes to peers.
        leases = await self._known_leases()
        own |= {each.subnet for each in leases if each.attrs.public_ip == interface.public_ip}
        gateways = {each.attrs.public_ip for each in leases}
        overlap = await find_overlap(netlink, tables, network, own, gateways)
        if overlap:
            raise NetworkInUse(f"cannot use network {network} on this host: it has {overlap}")

    async def _known_leases(self) -> tuple[Lease, ...]:
        """What the store holds; while it does not answer, what it held."""
        try:
            return (await self._store.snapshot()).leases
        except StoreUnreachable:
            if self._state is None or self._state.lease is None:
                raise
            return (self._state.lease, *self._state.peers)


def _first(group: BaseExceptionGroup[FlannelError]) -> FlannelError:
    """The first error of a group, which may hold groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FlannelError)
    return error
