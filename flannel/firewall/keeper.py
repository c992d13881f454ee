"""Firewall: makes this host's firewall rules for the overlay, and keeps them.

    firewall = Firewall(rules, peers, 5.0, "flannel.1")
    tasks.create_task(firewall.keep())
    firewall.peers_changed(subnets)        # at the first look at the leases, and at every change

nftables does masquerade and guard (`nftables`). While there is no nft, or it fails, iptables does
both instead. Forwarding is accepted in iptables' FORWARD chain wherever there is iptables, because
no other table can overrule that chain (`iptables`).

If a program fails, it is run again at each look, and a condition holds until it succeeds: a table
that cannot be listed may still exist from an earlier run, and keep out hosts that join. Programs
may be installed or removed meanwhile.

Level, not edge: at each look, the rules found are compared with the rules wanted. Between looks, a
changed lease costs one lease, however many there are, and leases that change while nft runs are
written together. No rule is removed when the daemon ends, so packets flow on, and are guarded.
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
"""Seconds until a program that has failed is run again, unless a look comes sooner."""
_SHARE = 50
"""The programs get at most one part in this many of a CPU's time: 2 %, however many the peers."""
_GATHER_SHARE, _LONGEST_GATHER = 9, 1.0
"""After a call of nft for changed peers, further changes are gathered for this many times its
duration, and for at most this many seconds: nft takes no more than 10 % of a CPU while leases keep
changing."""


class Firewall:
    """Keeps ``rules`` in force for one run of the network.

    :ivar repairs: how often rules that others had changed were restored.
    :ivar failures: how often a program refused or could not be run.
    :ivar is_guarded: whether the whole guard of ``rules`` was in force at the last look.
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
        :param conditions: where failures are reported.
        """
        self._rules = rules
        self._leases = peers
        self._resync = resync
        self._device = device
        self._conditions = conditions or Conditions(log)
        self._logged = Once(log)
        self._looked_at: object = None
        """The chains in which drops were looked for: listing the rules of others takes time."""
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
        """The leases of these subnets have changed; after the first call all leases are known."""
        self._pending.update(changed)
        self._changed.set()

    async def keep(self, when_made: Callable[[], None] = lambda: None) -> None:
        """Make the rules, and keep them until cancelled.

        It begins when the peers are known; until then the rules of an earlier daemon stay.

        :param when_made: called after each attempt, successful or not.
        """
        await self._changed.wait()
        next_look = monotonic()
        while True:
            self._changed.clear()
            began = monotonic()
            gather = 0.0
            if began < next_look:
                # The table may differ from what we believe: look at all of it.
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
        """The packets that the guard has dropped, by reason; empty without a guard.

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
        """Find the programs that are installed now."""
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
        """Write the changed peers to an existing guard; return whether that succeeded."""
        if self._nft is None or not self._nft_works or not self.wants_guard:
            return True
        touched = self._addresses.update(self._leases(), self._pending)
        self._pending.clear()
        wanted = {each for each in touched if each in self._addresses}
        # The next look reads all of it: an nft that succeeds may still have done nothing.
        self._generation = None
        try:
            await self._nft.change(wanted, touched - wanted)
        except (CannotRun, FirewallError):
            return False
        return True

    async def _ensure(self) -> None:
        """Look at all rules and repair them; a failed repair is tried again at the next look."""
        failures = self.failures
        await self._find_programs()
        # Read before the rules: the next look sees changes made meanwhile.
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
            self._logged.warn(f"repaired {what}", f"repaired the firewall: {amiss}")
        return True

    def _fail(self, condition: Condition, why: Exception) -> None:
        self.failures += 1
        self._conditions.report(condition, f"{why}; trying again")

    def _report_gaps(self) -> None:
        """Report the rules that no program of this host can make."""
        guard, conditions = self._rules.guard, self._conditions
        if self._nft is not None or guard is None:
            conditions.clear(Condition.GUARD)
        elif guard.vni is not None:
            conditions.report(
                Condition.GUARD,
                f"cannot guard UDP port {guard.port}: there is no nft in $PATH; every host "
                f"that reaches the port can send to containers{_left_table()}",
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
        if self._looked_at != (chains, bool(self._iptables)):
            await self._look_for_drops(nft, chains)
            self._looked_at = (chains, bool(self._iptables))
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

    async def _look_for_drops(self, nft: Nftables, chains: Collection[Chain]) -> None:
        """Log the chains of others that drop forwarded packets of the overlay, beyond our reach.

        They do by policy, or by their last rule, as firewalld's.
        """
        forwarding = [
            chain
            for chain in chains
            if chain.hook == "forward" and chain.family in ("ip", "inet") and chain.table != TABLE
        ]
        for chain in forwarding if self._rules.forward else ():
            where = f"chain {chain.name} of table {chain.family} {chain.table}"
            is_iptables = bool(self._iptables) and (chain.table, chain.name) == (
                "filter",
                "FORWARD",
            )
            if is_iptables or not (chain.policy == "drop" or await nft.ends_in_drop(chain)):
                self._logged.forget(where)
                continue
            network = self._rules.network
            self._logged.warn(
                where,
                f"{where} drops what it does not know, and no other table can overrule that: "
                f"it must accept ip saddr {network} and ip daddr {network} itself",
            )


def _programs_time() -> float:
    """Seconds of CPU that the programs run so far have taken."""
    times = os.times()
    return times.children_user + times.children_system


def _left_table() -> str:
    """A warning about our table of an earlier run, which cannot be changed without nft; or ""."""
    try:
        if ("ip", TABLE) not in nfnetlink.list_tables():
            return ""
    except FirewallError:
        return ""
    return f"; table ip {TABLE} of an earlier run is in force, and drops packets of hosts that join"
