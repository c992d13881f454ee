"""iptables: chains of our own, and a jump to each, kept through its programs.

FORWARD is iptables' matter wherever docker runs: it sets the policy to drop, and only a rule in
that chain gets packets past it. There are two iptables, one in nf_tables and the older one beside
it, and a host may use both. The one called ``iptables`` always gets our rules, so that docker may
come later; the other one gets them if it has an opinion of its own on what is forwarded.

Everything goes through ``iptables-restore --noflush``, a transaction for each table, which touches
no line but ours. The chains are in `flannel.firewall.iptables_text`.
"""

import re
from collections.abc import Collection, Mapping

from flannel.errors import FirewallError
from flannel.firewall.iptables_guard import guard_rules
from flannel.firewall.iptables_text import (
    TABLES,
    changes,
    forward_rules,
    forwards_all,
    masquerade_rules,
    removal,
)
from flannel.firewall.nft_table import Counter
from flannel.firewall.rules import Rules
from flannel.firewall.tools import Iptables, legacy_tables

__all__ = ["TABLES", "IptablesRules", "removal", "without"]

_GUARD_TABLES = ("mangle", "raw")
_BLOCK = re.compile(r"^\*(\w+)\n.*?^COMMIT\n", re.MULTILINE | re.DOTALL)
_COUNTED = re.compile(
    r'^\[(\d+):(\d+)\] -A FLANNEL-\S+ .*--comment "flanneld drop (\w+)"', re.MULTILINE
)


def without(text: str, table: str) -> str:
    """What iptables-restore is to do, but for one table."""
    return "".join(found[0] for found in _BLOCK.finditer(text) if found[1] != table)


class IptablesRules:
    """Our chains in one of the two iptables of a host.

    :ivar tool: the program; :ivar name: its name; :ivar legacy: see `Iptables`.
    """

    def __init__(self, tool: Iptables) -> None:
        self.tool = tool
        self.name = tool.name
        self.legacy = tool.legacy
        self._random_fully = tool.version >= (1, 6, 2)
        self._written = self._guards = False
        self._wanted: tuple[Rules, bool] | None = None
        self._settled: str | None = None

    async def ensure(self, rules: Rules, *, alone: bool) -> str | None:
        """Make our chains match ``rules``; only what differs is written.

        :param alone: there is no nft that masquerades and guards.
        :return: what differed though it had been written before; None if nothing did.
        :raises CannotRun: the program does not run.
        :raises FirewallError: iptables refuses.
        """
        preferred = self.tool.preferred
        alone &= preferred
        guard = guard_rules(rules) if alone else {}
        if self.legacy and legacy_tables() is None:
            if alone and (rules.masquerade or guard):
                what = "masquerade" if rules.masquerade else "guard"
                raise FirewallError(
                    f"cannot {what} with {self.name}: the kernel module ip_tables is not "
                    "loaded, and flanneld may not load it"
                )
            return None  # nothing that could be dropped there; who uses it later loads it
        # Once none of our chains is in the guard's tables, only we could put one there.
        tables = TABLES if guard or self._guards or not self._written else None
        saved = await self._save(tables)
        wanted = rules, alone
        if saved == self._settled and wanted == self._wanted:
            return None
        here = rules.forward and (preferred or not forwards_all(saved))
        random_fully = rules.random_ports and self._random_fully
        text = changes(
            saved,
            network=rules.network,
            forward=forward_rules(rules) if here else (),
            masquerade=masquerade_rules(rules, random_fully=random_fully)
            if alone and rules.masquerade
            else (),
            guard=guard,
            sweep=not self._written,
        )
        amiss = None
        if text and wanted == self._wanted:
            amiss = f"chains of {self.name} were changed"
        if text:
            await self._restore(text)
            # A version may word our rules in another way: what it says of them now is right.
            saved = await self._save(tables)
        self._written, self._guards = True, bool(guard)
        self._settled, self._wanted = saved, wanted
        return amiss

    async def counters(self) -> Mapping[str, Counter]:
        """What our chains have dropped, by reason.

        :raises CannotRun: the program does not run.
        :raises FirewallError: iptables refuses.
        """
        found: dict[str, Counter] = {}
        if not self._guards:
            return found
        saved = await self.tool.save(_GUARD_TABLES, counters=True)
        for packets, size, name in _COUNTED.findall(saved):
            before = found.get(name, Counter(0, 0))
            found[name] = Counter(before.packets + int(packets), before.bytes + int(size))
        return found

    async def _restore(self, text: str) -> None:
        """First what a kernel surely has; the guard needs more of its modules."""
        blocks = {found[1]: found[0] for found in _BLOCK.finditer(text)}
        for tables in (blocks.keys() - _GUARD_TABLES, _GUARD_TABLES):
            part = "".join(block for table, block in blocks.items() if table in tables)
            if part:
                await self.tool.restore(part)

    async def _save(self, tables: Collection[str] | None) -> str:
        """Our tables, without what changes by itself: the time and the counters."""
        plain = [table for table in TABLES if table not in _GUARD_TABLES]
        text = await self.tool.save(plain if tables is None else tables)
        text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
        return re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1", text, flags=re.MULTILINE)
