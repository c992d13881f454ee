"""Upkeep: one life of a network in the kernel: peers programmed, damage repaired.

All that may call for work ends in one place. A lease that has changed, a hint from the kernel
(`flannel.kernel.monitor`) and the clock each say only that it is time to look:

    pending.add(subnets)      leases have changed: these peers' entries are brought up to date
    pending.disturb()         something else may have: everything is read and compared
    every `_RESYNC` seconds   the same, should a hint never have come

Comparisons cost time proportional to the number of peers, so they take a bounded share of a CPU
however often somebody calls for them.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network
from time import monotonic

from flannel.backends import Network
from flannel.conditions import Condition
from flannel.daemon.underlay import Underlay
from flannel.errors import KernelError
from flannel.health.status import Status
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.monitor import Hint, Monitor, Watched
from flannel.lease import Peers

_RESYNC = 10.0
"""Seconds between two full comparisons with the kernel, as upstream's host-gw has it..."""
_RESYNC_SHARE = 50
"""...but at least this many times what the last one took: no more than 2 % of a CPU."""
_HINT_SHARE = 9
"""For comparisons that hints call for: no more than 10 % in the long run..."""
_BURST = 10.0
"""...of which so many seconds' share may be taken at once: damage seldom comes alone."""
_RETRY = 1.0


class Pending:
    """What the kernel has not been told of, or may have forgotten."""

    def __init__(self) -> None:
        self.is_everything = True
        self._subnets: set[IPv4Network] = set()
        self._some = asyncio.Event()
        self._peers_known = asyncio.Event()

    def add(self, subnets: set[IPv4Network]) -> None:
        """The leases of these subnets have changed; the first call says that all are known."""
        self._subnets |= subnets
        self._some.set()
        self._peers_known.set()

    def disturb(self) -> None:
        """Anything in the kernel may have changed."""
        self.is_everything = True
        self._some.set()

    def take(self, *, everything: bool) -> set[IPv4Network]:
        """The subnets to bring up to date."""
        taken, self._subnets = self._subnets, set()
        if everything:
            self.is_everything = False
        self._some.clear()
        return taken

    async def wait_for_peers(self) -> None:
        """Wait for the first `add`: until then nothing is known of what the kernel should hold."""
        await self._peers_known.wait()

    async def wait(self, seconds: float) -> None:
        """Wait until something is added, at most ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._some.wait()


class Upkeep:
    """Keeps the kernel as ``network`` wants it.

    :param underlay: watches ``interface``.
    :param peers: the peers as they are now.
    :param on_ready: called after each comparison that has succeeded.
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

    async def run(self, range_: IPv4Network) -> None:
        """Work until cancelled.

        :param range_: the overlay network.
        :raises UnderlayChanged: the network has to be served in another way from now on.
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
        pending, repairs = self.pending, self._kernel.repairs
        earliest = resync = 0.0  # when the next full comparison may be, and has to be
        paid = 0.0  # until when their share of the CPU is spent
        is_first = True
        await pending.wait_for_peers()
        while True:
            self._status.beat("peers")
            began = monotonic()
            is_full = began >= (earliest if pending.is_everything else resync)
            changed = pending.take(everything=is_full)
            try:
                if is_full or changed:
                    await self._network.apply(self._peers(), None if is_full else changed)
            except KernelError as why:
                self._conditions.report(
                    Condition.KERNEL, f"cannot program the kernel: {why}; trying again"
                )
                repairs.discard()
                pending.disturb()
                earliest = monotonic() + _RETRY
            else:
                if is_full:
                    if is_first:
                        repairs.discard()
                    else:
                        repairs.commit(self._name, monitor.last_port, began)
                    is_first = False
                    ended = monotonic()
                    pause = repairs.pause
                    paid = max(paid, ended) + _HINT_SHARE * (ended - began)
                    earliest = max(paid - _BURST, ended + pause)
                    resync = ended + max(_RESYNC, _RESYNC_SHARE * (ended - began), pause)
                    resync = min(resync, max(repairs.due, earliest))
                    self._conditions.clear(Condition.KERNEL)
                    self._on_ready()
            due = earliest if pending.is_everything else resync
            await pending.wait(max(0.0, due - monotonic()))
