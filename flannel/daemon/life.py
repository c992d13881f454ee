"""Life: one run of the network, from a lease to the error that ends it.

    life = Life(shared, plan, node_id)
    await life.take_lease()        # SubnetManager: our lease of before, or a new one
    await life.serve()
      ├── HandOver.keep          writes subnet.env for docker, runs the hook, notifies systemd
      ├── Recipients.keep        keeps the networks of -hand-over
      ├── LeaseKeeper.run        keeps our lease; store -> SubnetManager.peers
      ├── Upkeep.run             SubnetManager.peers -> kernel, at each change and when others may
      │                          have changed entries; watches the external interface
      ├── Firewall.keep          masquerade, forwarding, which hosts may send
      ├── network.run            carries packets, in a backend that does so itself
      ├── blackhole.keep         drops packets to unused addresses of our subnet
      ├── answer_peers           answers other hosts that ask whether this flanneld is ready
      └── ConfigFollower.watch   watches the network config; a different one ends the run

`flannel.daemon.daemon` starts one run after another; `flannel.daemon.reactions` has what follows an
error.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from flannel.backends import Network, make_backend
from flannel.conditions import Condition
from flannel.daemon.config_follower import ConfigFollower
from flannel.daemon.lasting import Lasting
from flannel.daemon.lease_keeper import LeaseKeeper
from flannel.daemon.preparation import Plan
from flannel.daemon.range_check import check_range
from flannel.daemon.saved_state import SavedState
from flannel.daemon.state_file import StateFile
from flannel.daemon.underlay import Underlay
from flannel.daemon.upkeep import Upkeep
from flannel.errors import ConfigChanged, StoreUnreachable
from flannel.firewall.keeper import Firewall, Rules
from flannel.handover.hand_over import HandOver
from flannel.handover.recipients import Recipients
from flannel.handover.subnet_env import first_address
from flannel.health.peer_probe import answer_peers
from flannel.health.status import Status
from flannel.kernel import blackhole
from flannel.kernel.doors import Kernel
from flannel.kernel.interface_choice import Overlay
from flannel.kernel.leftovers import Keep, remove_leftovers
from flannel.lease import UNKNOWN_TTL, Lease, LeaseTable
from flannel.leases.adoption import Adoption
from flannel.leases.subnets import SubnetManager
from flannel.logs import fields
from flannel.network_config import NetworkConfig
from flannel.options.table import Options
from flannel.stores import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shared:
    """The parts that all runs of the network share."""

    options: Options
    store: Store
    kernel: Kernel
    status: Status
    underlay: Underlay
    config: ConfigFollower
    hand_over: HandOver
    recipients: Recipients
    state: StateFile
    leases: LeaseTable
    adoption: Adoption


class Life:
    """One run of the network.

    :ivar subnets: our lease, after `take_lease`, and the peers' leases.
    """

    def __init__(self, shared: Shared, plan: Plan, node_id: str) -> None:
        options = shared.options
        self._shared = shared
        self._plan = plan
        self._node_id = node_id
        self.subnets = SubnetManager(
            shared.store,
            plan.config,
            ttl=int(options.subnet_lease_ttl.total_seconds()),
            grace=options.lease_grace.total_seconds(),
            table=shared.leases,
        )

    async def take_lease(self) -> None:
        """Get the lease to serve.

        :raises FlannelError: there is none, or this host cannot serve the network.
        """
        shared, plan, subnets = self._shared, self._plan, self.subnets
        await self._check_range(plan.config)
        attrs = await plan.backend.lease_attrs(self._node_id)
        if plan.resume is not None:
            lease = subnets.resume(attrs, plan.resume)
        else:
            state, interface = shared.state.current, plan.interface
            lease = await subnets.acquire(
                attrs,
                shared.hand_over.subnet,
                before=state.lease if state is not None else None,
                seen_since=shared.config.seen_since,
                # Behind NAT, packets to the public address may go to the other host.
                adoption=shared.adoption if interface.public_ip == interface.address else None,
            )
            shared.status.conditions.clear(Condition.RESUMED)
        shared.underlay.overlay = Overlay(plan.config, {lease.subnet})
        log.info(
            "lease %s%s",
            lease,
            _lifetime(lease),
            extra=fields(subnet=lease.subnet, public_ip=lease.attrs.public_ip, ttl=lease.ttl),
        )

    async def serve(self) -> None:
        """Serve the lease until cancelled.

        :raises FlannelError: in an exception group; it ended the run.
        """
        shared, plan, lease = self._shared, self._plan, self.subnets.own
        kernel, status = shared.kernel, shared.status
        network = await plan.backend.start(lease)
        await remove_leftovers(kernel, Keep(plan.config.network, lease.subnet, network.device))
        kernel.descriptors.drop_others(network.device)
        status.conditions.clear(Condition.RUN)
        upkeep, firewall = self._upkeep(network), self._firewall(network)
        keeper = self._lease_keeper(upkeep, firewall)
        status.serve(plan.config, plan.interface, self.subnets, network, firewall)
        lasting = Lasting(status.conditions)
        async with asyncio.TaskGroup() as tasks:
            for name, work in (
                ("hand the lease over", lambda: self._hand_over(network)),
                ("keep the networks of -hand-over", lambda: self._keep_recipients(network)),
                ("keep the leases", keeper.run),
                ("keep the kernel's tables", lambda: upkeep.run(plan.config.network)),
                ("keep the firewall", lambda: firewall.keep(lambda: self._has("firewall"))),
                ("carry packets", network.run),
                ("keep the blackhole route", self._blackhole),
                ("answer probes", lambda: self._answer(lease)),
                ("watch the network config", lambda: shared.config.watch(plan.text, self._change)),
            ):
                tasks.create_task(lasting.run(name, work))

    def _upkeep(self, network: Network) -> Upkeep:
        shared = self._shared
        return Upkeep(
            shared.kernel,
            network,
            self._plan.interface,
            shared.underlay,
            shared.status,
            peers=lambda: self.subnets.peers,
            on_ready=lambda: self._has("peers"),
        )

    def _firewall(self, network: Network) -> Firewall:
        options, subnets = self._shared.options, self.subnets
        rules = Rules(
            self._plan.config.network,
            subnets.own.subnet,
            masquerade=options.ip_masq,
            random_ports=not options.ip_masq_fully_random_disable,
            no_masquerade=options.ip_masq_except,
            forward=options.iptables_forward_rules,
            guard=network.guard if options.guard else None,
            mark=options.guard_mark,
        )
        resync = max(options.iptables_resync.total_seconds(), 1.0)
        conditions = self._shared.status.conditions
        return Firewall(rules, lambda: subnets.peers, resync, network.device, conditions)

    def _lease_keeper(self, upkeep: Upkeep, firewall: Firewall) -> LeaseKeeper:
        def peers_changed(changed: set[IPv4Network]) -> None:
            upkeep.pending.add(changed)
            firewall.peers_changed(changed)

        if self._plan.resume is not None:
            peers_changed(set())  # the peers of the saved state count as known
        return LeaseKeeper(
            self.subnets,
            self._shared.status,
            peers_changed=peers_changed,
            save=self._save,
            margin=self._shared.options.subnet_lease_renew_margin.total_seconds(),
        )

    async def _hand_over(self, network: Network) -> None:
        # Docker must not masquerade if we do.
        masquerade = self._shared.options.ip_masq
        await self._shared.hand_over.keep(
            self._plan.config.network, self.subnets.own, network.mtu, masquerade
        )

    async def _keep_recipients(self, network: Network) -> None:
        gateway = first_address(self.subnets.own.subnet)
        await self._shared.recipients.keep(gateway, network.mtu)

    async def _answer(self, lease: Lease) -> None:
        await answer_peers(lease, self._shared.options.probe_port, self._shared.status.unready)

    async def _blackhole(self) -> None:
        shared = self._shared
        subnet = self.subnets.own.subnet if shared.options.ip_blackhole_route else None
        await blackhole.keep(shared.kernel, subnet, shared.status.conditions)

    def _has(self, part: str) -> None:
        self._shared.hand_over.has(part, self.subnets.own)

    async def _save(self) -> bool:
        peers = tuple(self.subnets.peers.values())
        prefix = self._shared.options.etcd.prefix
        seconds = self._shared.status.lease_seconds()
        ends = int(time.time() + seconds[0]) if seconds is not None else 0
        return await self._shared.state.keep(
            SavedState(prefix, self._plan.text, self.subnets.own, peers, ends)
        )

    async def _change(self, text: str) -> None:
        """Adopt a different network config, or raise.

        :raises BadNetworkConfig: it cannot be used.
        :raises NetworkInUse: likewise.
        :raises ConfigChanged: it makes a different network. Two kinds of texts do not: those with
            the same meaning, and those that change only which subnets may be leased, ours being
            among them.
        """
        subnets, interface = self.subnets, self._plan.interface
        config = NetworkConfig.from_json(text)
        make_backend(config, interface, self._shared.kernel)
        difference = subnets.config.difference(config)
        if not difference:
            return
        await self._check_range(config)
        same = replace(subnets.config, subnet_min=config.subnet_min, subnet_max=config.subnet_max)
        if same == config and config.fits(subnets.own.subnet):
            log.info("the network config has changed: %s", difference)
            subnets.config = config
            return
        raise ConfigChanged(f"the network config has changed: {difference}")

    async def _check_range(self, config: NetworkConfig) -> None:
        shared = self._shared
        previous = shared.hand_over.subnet
        own = {previous} if previous is not None else set()
        await check_range(shared.kernel, config, self._plan.interface, own, self._known_leases)

    async def _known_leases(self) -> tuple[Lease, ...]:
        """The leases in the store; while it does not answer, those that it held."""
        try:
            return (await self._shared.store.snapshot()).leases
        except StoreUnreachable:
            state = self._shared.state.current
            if state is None or state.lease is None:
                raise
            return (state.lease, *state.peers)


def _lifetime(lease: Lease) -> str:
    if lease.ttl is None:
        return ", a reservation"
    return f" for {lease.ttl} s" if lease.ttl != UNKNOWN_TTL else ""
