"""Upkeep: programs the peers into the kernel and repairs damage, during one run of the network.

Three causes lead to the same work: a changed lease, a hint from the kernel
(`flannel.kernel.monitor`), and the clock.

    pending.add(subnets)      leases have changed: update these peers' entries
    pending.disturb()         anything may have changed: read and compare all entries
    every `RESYNC` seconds    the same, in case a hint was lost

Comparisons cost time proportional to the number of peers: `flannel.daemon.schedule` says when the
next one is due.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network
from time import monotonic, thread_time

from flannel.backends import Network
from flannel.conditions import Condition
from flannel.daemon.schedule import Schedule
from flannel.daemon.underlay import Underlay
from flannel.errors import KernelError
from flannel.health.status import Status
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.monitor import Hint, Monitor, Watched
from flannel.lease import Peers

_BEAT = 30.0
"""The most seconds between two signs of life while there is nothing to do."""


class Pending:
    """Changes that are not yet in the kernel, and entries that may have been lost there."""

    def __init__(self) -> None:
        self.is_everything = True
        self._subnets: set[IPv4Network] = set()
        self._some = asyncio.Event()
        self._peers_known = asyncio.Event()

    def add(self, subnets: set[IPv4Network]) -> None:
        """The leases of these subnets have changed; after the first call all leases are known."""
        self._subnets |= subnets
        self._some.set()
        self._peers_known.set()

    def disturb(self) -> None:
        """Anything in the kernel may have changed."""
        self.is_everything = True
        self._some.set()

    def take(self, *, everything: bool) -> set[IPv4Network]:
        """Return the subnets to update, and forget them."""
        taken, self._subnets = self._subnets, set()
        if everything:
            self.is_everything = False
        self._some.clear()
        return taken

    async def wait_for_peers(self) -> None:
        """Wait for the first `add`: until then the wanted entries are unknown."""
        await self._peers_known.wait()

    async def wait(self, seconds: float) -> None:
        """Wait until something is added, at most ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._some.wait()


class Upkeep:
    """Keeps the kernel's entries as ``network`` wants them.

    :param underlay: watches ``interface``.
    :param peers: the peers as they are now.
    :param on_ready: called after each successful comparison.
    """

    def __init__(
        self,
        kernel: Kernel,
        network: Network,
        interface: ExternalInterface,
        underlay: Underlay,
        status: Status,
        peers: Callable[[], Peers],
        on_ready: Callable[[], None],
    ) -> None:
        self.pending = Pending()
        self._kernel = kernel
        self._network = network
        self._interface = interface
        self._underlay = underlay
        self._peers = peers
        self._on_ready = on_ready
        self._status = status
        self._conditions = status.conditions
        self._name = network.device or interface.name
        self._schedule = Schedule()
        self._has_compared = False

    async def run(self, range_: IPv4Network) -> None:
        """Work until cancelled.

        :param range_: the overlay network.
        :raises UnderlayChanged: the network must be served over a different interface or address.
        """
        with Monitor(self._kernel.tables.port) as monitor:
            watched = Watched(
                range_, self._network.device, self._interface.name, self._network.holds
            )
            monitor.watch(watched, self._on_hint)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_entries(monitor))
                tasks.create_task(self._underlay.watch(self._interface, self.pending.disturb))

    def _on_hint(self, hint: Hint) -> None:
        if Hint.OVERLAY in hint:
            self.pending.disturb()
        if Hint.UNDERLAY in hint:
            self._underlay.look()

    async def _keep_entries(self, monitor: Monitor) -> None:
        pending, schedule = self.pending, self._schedule
        await pending.wait_for_peers()
        while True:
            self._status.beat("peers")
            is_full = monotonic() >= schedule.due(is_disturbed=pending.is_everything)
            changed = pending.take(everything=is_full)
            if is_full:
                await self._compare(monitor)
            elif changed:
                await self._apply(changed)
            due = schedule.due(is_disturbed=pending.is_everything)
            await pending.wait(min(max(0.0, due - monotonic()), _BEAT))

    async def _compare(self, monitor: Monitor) -> None:
        """Compare all entries in the kernel with the wanted ones, and repair them."""
        repairs, began, used = self._kernel.repairs, monotonic(), thread_time()
        if not await self._apply(None):
            return
        if self._has_compared:
            repairs.commit(self._name, monitor.last_port, began)
        else:
            repairs.discard()  # differences at the start are not repairs
        self._has_compared = True
        cost = thread_time() - used
        self._schedule.succeeded(monotonic(), cost, pause=repairs.pause, look_at=repairs.due)
        self._conditions.clear(Condition.KERNEL)
        self._on_ready()

    async def _apply(self, changed: set[IPv4Network] | None) -> bool:
        """Apply the peers' changes; return whether that succeeded. If not, all is compared next."""
        used = thread_time()
        try:
            await self._network.apply(self._peers(), changed)
        except KernelError as why:
            self._conditions.report(
                Condition.KERNEL, f"cannot program the kernel: {why}; trying again"
            )
            self._kernel.repairs.discard()
            self.pending.disturb()
            self._schedule.failed(monotonic(), thread_time() - used)
            return False
        return True
