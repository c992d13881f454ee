"""The firewall of this host as far as it concerns the overlay, made and kept.

    firewall = Firewall(rules, peers, 5.0, "flannel.1")
    tasks.create_task(firewall.keep())
    firewall.peers_changed(subnets)        # at the first look at the leases, and at every change

Masquerade and guard are nftables' (`nftables`). While there is no nft, or it does not work,
iptables stands in for it. Forwarding is accepted in iptables' FORWARD chain wherever there is
iptables, for no other table can overrule that (`iptables`).

What a program refuses is tried again at each look, and is a condition until then: a table that
cannot be listed may well be there, as an earlier run has left it, and lock out hosts that join.
Programs may be installed or removed meanwhile.

Level, not edge: at each round what is there is compared with what is wanted. In between, a lease
that changes costs that one lease, however many there are, and those that change while nft runs
are written together. Nothing is taken away when the daemon ends, so that packets flow on, and
guarded.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from ipaddress import IPv4Network
from time import monotonic

from flannel.conditions import Condition, Conditions
from flannel.errors import CannotRun, FirewallError, KernelError
from flannel.firewall import nfnetlink
from flannel.firewall.iptables import IptablesRules
from flannel.firewall.nft_table import TABLE, Counter
from flannel.firewall.nftables import Chain, Nftables
from flannel.firewall.peer_addresses import PeerAddresses
from flannel.firewall.rules import Guard, Rules
from flannel.firewall.tools import SEARCH, find_iptables
from flannel.kernel import sysctls
from flannel.lease import Lease
from flannel.once import Once

__all__ = ["Counter", "Firewall", "Guard", "Rules"]

log = logging.getLogger(__name__)

_RETRY = 5.0
"""Seconds until a program that has failed is tried again, if it is not looked at sooner."""
_SHARE = 50
"""The programs get at most this part of a CPU's time: 2 %, however many the peers."""
_GATHER_SHARE, _LONGEST_GATHER = 9, 1.0
"""After nft was told of peers, those that change in so many times what that took wait for each
other: no more than 10 % of a CPU while leases change all the time. In seconds, at most."""


class Firewall:
    """Keeps ``rules`` in force for one run of the network.

    :ivar repairs: how often something had been changed by others and was repaired.
    :ivar failures: how often a program refused or could not be run.
    :ivar is_guarded: the whole guard that ``rules`` want was in force when it was last seen.
    """

    def __init__(
        self,
        rules: Rules,
        peers: Callable[[], Mapping[IPv4Network, Lease]],
        resync: float,
        device: str = "",
        conditions: Conditions | None = None,
    ) -> None:
        """Prepare.

        :param peers: returns the leases of all other hosts, by subnet.
        :param resync: seconds between two looks at the rules.
        :param device: the overlay's link, for its sysctls; "" if there is none.
        :param conditions: where to report what cannot be done.
        """
        self._rules = rules
        self._leases = peers
        self._resync = resync
        self._device = device
        self._conditions = conditions or Conditions(log)
        self._said = Once(log)
        self._addresses = PeerAddresses()
        self._pending: set[IPv4Network] = set()
        self._changed = asyncio.Event()
        self._nft: Nftables | None = None
        self._nft_works = False
        self._installed: tuple[str, ...] | None = None
        """Names of iptables in $PATH, as of the last search; None: there was none, or it failed."""
        self._iptables: list[IptablesRules] = []
        self._generation: bytes | None = None
        self._sysctls_set = False
        self.repairs = self.failures = 0
        self.is_guarded = False

    @property
    def wants_guard(self) -> bool:
        """Whether ``rules`` have a guard."""
        return self._rules.guard is not None

    def peers_changed(self, changed: Collection[IPv4Network]) -> None:
        """Have the guard follow the leases of these subnets; at the first call, all of them."""
        self._pending.update(changed)
        self._changed.set()

    async def keep(self, when_made: Callable[[], None] = lambda: None) -> None:
        """Make everything so, and keep it so until cancelled.

        Begins when the peers are known: until then those that an earlier daemon knew are let in.

        :param when_made: called after the first attempt, whether or not all could be done.
        """
        await self._changed.wait()
        next_look = monotonic()
        while True:
            self._changed.clear()
            began = monotonic()
            gather = 0.0
            if began < next_look:
                # The table may not be what we thought: look at all of it.
                next_look = next_look if await self._follow_peers() else began
                gather = min(_GATHER_SHARE * (monotonic() - began), _LONGEST_GATHER)
            else:
                used, failures = _programs_time(), self.failures
                await self._ensure()
                pause = self._resync if self.failures == failures else min(self._resync, _RETRY)
                next_look = began + max(pause, _SHARE * (_programs_time() - used))
            when_made()
            with suppress(TimeoutError):
                async with asyncio.timeout(next_look - monotonic()):
                    await asyncio.sleep(gather)
                    await self._changed.wait()

    async def counters(self) -> Mapping[str, Counter]:
        """What the guard has dropped, by reason; empty where there is no guard.

        :raises CannotRun: nft or iptables does not run.
        :raises FirewallError: it refuses.
        """
        if self._rules.guard is None:
            return {}
        if self._nft is not None and self._nft_works:
            return await self._nft.counters()
        found: dict[str, Counter] = {}
        for iptables in self._iptables:
            found |= await iptables.counters()  # one of them at most has a guard
        return found

    async def _find_programs(self) -> None:
        """Look which of them there are now."""
        if shutil.which("nft") is None:
            self._nft, self._nft_works = None, False
        elif self._nft is None:
            self._nft = Nftables("nft")
        installed = tuple(name for name in SEARCH if shutil.which(name) is not None)
        if installed == self._installed:
            return
        try:
            found = await find_iptables()
        except CannotRun as why:
            self._fail(Condition.IPTABLES, why)
            return
        known = {each.name: each for each in self._iptables}
        self._iptables = [known.get(tool.name) or IptablesRules(tool) for tool in found]
        self._installed = installed

    async def _follow_peers(self) -> bool:
        """Bring the new peers to a guard that is there; whether that went well."""
        if self._nft is None or not self._nft_works or not self.wants_guard:
            return True
        touched = self._addresses.update(self._leases(), self._pending)
        self._pending.clear()
        wanted = {each for each in touched if each in self._addresses}
        try:
            await self._nft.change(wanted, touched - wanted)
        except (CannotRun, FirewallError):
            self._generation = None
            return False
        return True

    async def _ensure(self) -> None:
        """Look at everything and repair it; what cannot be repaired is tried at the next look."""
        failures = self.failures
        await self._find_programs()
        # Read before the rules are: what changes meanwhile is seen at the next look.
        generation = nfnetlink.generation() if self._nft is not None else None
        unchanged = generation is not None and generation == self._generation and not self._pending
        if self._nft is None:
            self._conditions.clear(Condition.NFT)
        elif not unchanged:
            self._nft_works = await self._try(Condition.NFT, self._ensure_nft(self._nft))
        alone = not self._nft_works
        for iptables in self._iptables:
            if iptables.legacy or not unchanged:
                ensuring = iptables.ensure(self._rules, alone=alone)
                await self._try(Condition.IPTABLES, ensuring, iptables.name)
        if self._installed is not None and failures == self.failures:
            self._conditions.clear(Condition.IPTABLES)
        if self._device:
            await self._try(Condition.SYSCTLS, self._ensure_sysctls())
        self._report_gaps()
        self._generation = generation if failures == self.failures else None

    async def _try(
        self, condition: Condition, ensuring: Awaitable[str | None], name: str = ""
    ) -> bool:
        what = name or condition.value
        try:
            amiss = await ensuring
        except (CannotRun, FirewallError, KernelError) as why:
            self._fail(condition, why)
            return False
        if not name:
            self._conditions.clear(condition)
        if amiss is not None:
            self.repairs += 1
            self._said.warn(f"repaired {what}", f"repaired the firewall: {amiss}")
        return True

    def _fail(self, condition: Condition, why: Exception) -> None:
        self.failures += 1
        self._conditions.report(condition, f"{why}; trying again")

    def _report_gaps(self) -> None:
        """Report what no program of this host can do."""
        guard, conditions = self._rules.guard, self._conditions
        if self._nft is not None or guard is None:
            conditions.clear(Condition.GUARD)
        elif guard.vni is not None:
            conditions.report(
                Condition.GUARD,
                f"cannot guard UDP port {guard.port}: there is no nft in $PATH; whoever reaches "
                f"the port can send to containers{_left_table()}",
            )
        elif not self._iptables:
            conditions.report(
                Condition.GUARD,
                "cannot guard what leaves for other hosts: there is neither nft nor iptables in "
                f"$PATH{_left_table()}",
            )
        else:
            conditions.clear(Condition.GUARD)
            self.is_guarded = True
        if conditions.text(Condition.GUARD):
            self.is_guarded = False
        if self._nft is None and not self._iptables and self._rules.masquerade:
            conditions.report(
                Condition.MASQUERADE,
                "cannot masquerade: there is neither nft nor iptables in $PATH",
            )
        else:
            conditions.clear(Condition.MASQUERADE)

    async def _ensure_nft(self, nft: Nftables) -> str | None:
        chains = await nft.list_chains()
        self._look_for_drops(chains)
        self._addresses.refresh(self._leases())
        self._pending.clear()
        amiss = await nft.ensure(self._rules, self._addresses.all, chains)
        self.is_guarded = self._rules.guard is not None
        return amiss

    async def _ensure_sysctls(self) -> str | None:
        changed = sysctls.ensure(self._device)
        amiss = f"{', '.join(changed)} of {self._device} was changed" if changed else None
        first, self._sysctls_set = not self._sysctls_set, True
        return None if first else amiss

    def _look_for_drops(self, chains: Collection[Chain]) -> None:
        """Say who keeps packets of the overlay from being forwarded where we cannot help it."""
        for chain in chains if self._rules.forward else ():
            where = f"chain {chain.name} of table {chain.family} {chain.table}"
            if (chain.hook, chain.policy) != ("forward", "drop"):
                self._said.forget(where)
            elif not (self._iptables and (chain.table, chain.name) == ("filter", "FORWARD")):
                network = self._rules.network
                self._said.warn(
                    where,
                    f"{where} drops what it does not know, and no other table can overrule that: "
                    f"it must accept ip saddr {network} and ip daddr {network} itself",
                )


def _programs_time() -> float:
    """Seconds of CPU that the programs run so far have taken."""
    times = os.times()
    return times.children_user + times.children_system


def _left_table() -> str:
    """What to know of a table that nobody can change while there is no nft."""
    try:
        if ("ip", TABLE) not in nfnetlink.list_tables():
            return ""
    except FirewallError:
        return ""
    return f"; table ip {TABLE} of an earlier run is in force, and drops packets of hosts that join"
