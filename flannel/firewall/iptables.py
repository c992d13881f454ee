"""IptablesRules: keeps our iptables chains, and a jump to each.

Docker sets the policy of iptables' FORWARD chain to drop, and only a rule in that chain can let
packets pass. There are two iptables, one in nf_tables and the older one beside it, and a host may
use both. The one with the name ``iptables`` always gets our rules, as docker may start later; the
other one gets them if its FORWARD chain can drop packets.

All changes use ``iptables-restore --noflush``, one transaction for each table, which touches only
our lines. `flannel.firewall.iptables_text` has the text of the chains.
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
    """The document ``text`` of iptables-restore without the part for ``table``."""
    return "".join(found[0] for found in _BLOCK.finditer(text) if found[1] != table)


class IptablesRules:
    """Keeps our chains in one of the two iptables of a host.

    :ivar tool: the program.
    :ivar name: its name.
    :ivar legacy: see `Iptables`.
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
        """Make our chains match ``rules``; write only the differences.

        :param alone: no nft does masquerade and guard, so iptables has to.
        :return: what somebody else had changed in our chains; None: nothing.
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
            return None  # without the module no rule of this kind can drop packets
        # When our chains are gone from the guard's tables, those tables need no further look.
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
            # iptables versions print the same rule differently: compare with this output later.
            saved = await self._save(tables)
        self._written, self._guards = True, bool(guard)
        self._settled, self._wanted = saved, wanted
        return amiss

    async def counters(self) -> Mapping[str, Counter]:
        """The packets that our chains have dropped, by reason.

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
        """Write the guard last: it needs kernel modules that may be missing."""
        blocks = {found[1]: found[0] for found in _BLOCK.finditer(text)}
        for tables in (blocks.keys() - _GUARD_TABLES, _GUARD_TABLES):
            part = "".join(block for table, block in blocks.items() if table in tables)
            if part:
                await self.tool.restore(part)

    async def _save(self, tables: Collection[str] | None) -> str:
        """Our tables, without the parts that always change: the time and the counters."""
        plain = [table for table in TABLES if table not in _GUARD_TABLES]
        text = await self.tool.save(plain if tables is None else tables)
        text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
        return re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1", text, flags=re.MULTILINE)
