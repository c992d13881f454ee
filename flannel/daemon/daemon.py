"""Daemon: one run of the network after another, until the process is ended.

    Daemon.run
      Preparation.wait     waits for interface, network config and backend
      Life.take_lease
      Life.serve           until an error
      reaction_to(error)   what is done before the next run, and how soon it starts

An error ends one run, not the process; only if another flanneld already serves the network, the
first run ends the process. While the store does not answer, the state served last is served again.
Entries in the kernel stay there between two runs, and when the process ends: packets flow on.
"""

import asyncio
import logging
import os
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from time import monotonic

from flannel.backoff import Backoff
from flannel.conditions import Condition
from flannel.daemon import identity
from flannel.daemon.config_follower import ConfigFollower
from flannel.daemon.lasting import first, reason, shortage_in
from flannel.daemon.life import Life, Shared
from flannel.daemon.preparation import Preparation
from flannel.daemon.reactions import After, Pause, Reaction, reaction_to
from flannel.daemon.state_file import StateFile
from flannel.daemon.underlay import Underlay
from flannel.errors import AlreadyRunning, FlannelError, KernelError, Shortage, StoreUnreachable
from flannel.handover.hand_over import HandOver
from flannel.handover.recipients import Recipient, Recipients
from flannel.health.status import Status
from flannel.kernel.claims import Claims
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface, InterfaceChoice
from flannel.kernel.interface_choice import Overlay
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import LeaseTable
from flannel.leases.adoption import Adoption
from flannel.leases.subnets import SubnetManager
from flannel.options.table import Options
from flannel.stores import Store
from flannel.systemd import FdStore

log = logging.getLogger(__name__)

_RELEASE = 0.7
"""Seconds that the store has to release our lease at the end."""
_GOOD_RUN = 10.0
"""Seconds; after a run that lasted longer, the pauses are short again."""


async def run(options: Options, store: Store, status: Status) -> None:
    """Serve until cancelled.

    :raises AlreadyRunning: another flanneld has the device of the network.
    """
    async with AsyncExitStack() as stack:
        netlink, tables = await _open(stack, status)
        mark = options.guard_mark if options.guard else 0
        claims = Claims()
        stack.callback(claims.close)
        kernel = Kernel(netlink, tables, status.repairs, FdStore(os.environ), mark, claims)
        await Daemon(options, store, kernel, status).run()


async def _open(stack: AsyncExitStack, status: Status) -> tuple[Netlink, RtNetlink]:
    """Open both sockets to the kernel, as soon as there are descriptors for them."""
    backoff = Backoff()
    while True:
        try:
            netlink = await stack.enter_async_context(Netlink())
            tables = stack.enter_context(RtNetlink())
        except (OSError, KernelError) as why:
            await stack.aclose()
            text = why.strerror if isinstance(why, OSError) else why
            status.conditions.report(Condition.KERNEL, f"cannot use netlink: {text}; trying again")
            await backoff.wait()
        else:
            status.conditions.clear(Condition.KERNEL)
            return netlink, tables


class Daemon:
    """One flanneld on one host."""

    def __init__(self, options: Options, store: Store, kernel: Kernel, status: Status) -> None:
        conditions = status.conditions
        choice = InterfaceChoice(
            names=options.iface,
            patterns=options.iface_regex,
            can_reach=options.iface_can_reach,
            public_ip=options.public_ip,
        )
        config = ConfigFollower(store, f"{options.etcd.prefix}/config", conditions)
        underlay = Underlay(kernel, choice, conditions)
        state = StateFile(options.state_dir, options.etcd.prefix, conditions)
        hand_over = HandOver(
            kernel.netlink,
            options.subnet_file,
            options.lease_hook,
            status,
            docker0=not options.hand_over,
        )
        self._shared = Shared(
            options=options,
            store=store,
            kernel=kernel,
            status=status,
            underlay=underlay,
            config=config,
            hand_over=hand_over,
            recipients=Recipients(_make_recipients(options), conditions),
            state=state,
            leases=LeaseTable(state.current.peers if state.current is not None else ()),
            adoption=Adoption(store, options.adopt_after.total_seconds()),
        )
        self._remember_interface()
        self._preparation = Preparation(kernel, underlay, config, conditions, self._published)
        self._node_id = identity.load(options.state_dir)
        self._pauses = {Pause.SHORT: Backoff(0.1, 1.0), Pause.LONG: Backoff(0.5, 10.0)}
        self._leased: SubnetManager | None = None
        """The leases of the last run that had one; None: no run had one yet."""

    def _remember_interface(self) -> None:
        """Give the underlay what is known of this host's lease before the store is asked."""
        shared, state = self._shared, self._shared.state.current
        lease = state.lease if state is not None else None
        subnets = [shared.hand_over.subnet, lease.subnet if lease is not None else None]
        shared.underlay.overlay = Overlay(None, [each for each in subnets if each is not None])
        if lease is not None and shared.options.public_ip is None:
            shared.underlay.prefer([lease.attrs.public_ip])

    async def _published(self, interface: ExternalInterface) -> Collection[IPv4Address]:
        """The interface's addresses that leases of this host have published.

        A lease without a NodeID is upstream's, perhaps of this host; a floating address may have
        been published by the host that it came from.
        """
        shared, own = self._shared, interface.networks
        if len(own) <= 1 or shared.options.public_ip is not None:
            return ()
        try:
            leases = (await shared.store.snapshot()).leases
        except StoreUnreachable:
            return ()
        floating = {each.ip for each in own if each.network.prefixlen == each.max_prefixlen}
        by_us = {each.attrs.public_ip for each in leases if each.attrs.node_id == self._node_id}
        by_some = {each.attrs.public_ip for each in leases if not each.attrs.node_id} - floating
        return [each.ip for each in own if each.ip in by_us | by_some]

    async def run(self) -> None:
        """Run the network again and again, until cancelled."""
        start = asyncio.create_task(self._shared.hand_over.limit_start())
        try:
            while True:
                await self._run_and_react()
        finally:
            start.cancel()
            if self._shared.options.release_on_exit and self._leased is not None:
                await self._release(self._leased)

    async def _run_and_react(self) -> None:
        this = asyncio.current_task()
        assert this is not None
        began = monotonic()
        error: FlannelError | None = None
        try:
            await asyncio.create_task(self._without_shortage())
        except* FlannelError as group:
            found = first(group)
            assert isinstance(found, FlannelError)
            error = found
        # Before Python 3.13 a `TaskGroup` that has an error itself loses a cancellation of its
        # task (CPython issue 116720). So a run has its own task, and this one sees whether it was
        # cancelled.
        if this.cancelling():
            raise asyncio.CancelledError
        if isinstance(error, AlreadyRunning) and self._leased is None:
            raise error
        if error is not None:
            reaction = reaction_to(error)
            self._report(error, reaction)
            await self._prepare_next(reaction.after)
            await self._pause(reaction.pause, lasted=monotonic() - began)

    async def _without_shortage(self) -> None:
        try:
            await self._run_once()
        except Exception as why:
            shortage = shortage_in(why)
            if shortage is None:
                raise
            raise Shortage(f"cannot serve the network: {reason(shortage)}") from why

    async def _run_once(self) -> None:
        plan = await self._preparation.wait(self._shared.state.current)
        life = Life(self._shared, plan, self._node_id)
        await life.take_lease()
        self._leased = life.subnets
        await life.serve()

    def _report(self, error: FlannelError, reaction: Reaction) -> None:
        status = self._shared.status
        status.end(str(error))
        text = reaction.text % error
        if reaction.is_condition:
            about = type(error) if reaction.is_about_class else None
            status.conditions.report(Condition.RUN, text, about=about)
        else:
            log.warning("%s", text)

    async def _prepare_next(self, after: After) -> None:
        """Do what the reaction wants before the next run."""
        shared, state = self._shared, self._shared.state
        if After.RENEW_IDENTITY in after:
            self._node_id = identity.renew(shared.options.state_dir)
        if After.CLOSE_CONNECTIONS in after:
            shared.store.close()
        if After.DISTRUST_STORE in after:
            shared.config.seen_since = None
        if After.GIVE_UP_LEASE in after and state.current is not None:
            # Saved now: this host may boot again before it has another subnet.
            await state.keep(replace(state.current, lease=None))

    async def _pause(self, pause: Pause, lasted: float) -> None:
        """Wait before the next run, after one that lasted ``lasted`` seconds."""
        if lasted > _GOOD_RUN:
            for each in self._pauses.values():
                each.reset()
        if pause is not Pause.NONE:
            await self._pauses[pause].wait()

    async def _release(self, subnets: SubnetManager) -> None:
        """Release the lease at the end; if the store does not answer, the lease expires later."""
        try:
            # Not asyncio.timeout(): this task is being cancelled, and before Python 3.11.3, as in
            # Debian 12, it raises that instead of TimeoutError (CPython issue 102780).
            await asyncio.wait_for(subnets.release(), _RELEASE)
            log.info("released lease %s", subnets.own)
            self._shared.state.remove()
        except (FlannelError, TimeoutError, OSError) as why:
            reason = str(why) or "no answer in time"
            log.warning("cannot release lease %s: %s", subnets.own, reason)


def _make_recipients(options: Options) -> list[Recipient]:
    """The recipients of -hand-over.

    :raises BadOption: docker is to be asked in a way that is not possible.
    """
    if not options.hand_over:
        return []
    # Imported here: few hosts have any.
    from flannel.handover.all_recipients import make_all

    return make_all(options.hand_over, options.subnet_file, os.environ)
