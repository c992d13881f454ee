"""Finds and deletes our firewall rules, for `flannel cleanup`.

    found = await find_ours()
    for each in found.parts:
        print(each.what)
        await each.remove()

flanneld uses the same names and programs: `nftables.OUR_TABLES`, `iptables_text`,
`tools.find_iptables`.
"""

import shutil
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from flannel import programs
from flannel.errors import CannotRun, FirewallError
from flannel.firewall import iptables, nfnetlink, nftables
from flannel.firewall.tools import TIMEOUT, Iptables, find_iptables, unlisted_legacy_tables


@dataclass(frozen=True, slots=True)
class Part:
    """Our table, or our chains in one iptables.

    :ivar what: its name, for people.
    :ivar remove: deletes it; raises `CannotRun` or `FirewallError`.
    """

    what: str
    remove: Callable[[], Coroutine[Any, Any, None]]


@dataclass
class Ours:
    """All our rules.

    :ivar parts: the parts that can be deleted.
    :ivar unread: one line for each part of the firewall that could not be read, with the reason.
    :ivar foreign: one line for the tables that no program of this host can list. They hold no rules
        of a flanneld that ran with these programs.
    """

    parts: list[Part] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


async def find_ours(*, keep_forward: bool = False) -> Ours:
    """Find our rules in nf_tables and in both iptables.

    :param keep_forward: leave out the chain that accepts the overlay's packets in FORWARD.
    """
    ours = Ours()
    try:
        tables = nfnetlink.list_tables()
    except FirewallError as why:
        ours.unread.append(str(why))
        tables = set()
    ours.parts += [_table(*each) for each in sorted(tables & nftables.OUR_TABLES)]
    try:
        tools = await find_iptables()
    except CannotRun as why:
        ours.unread.append(str(why))
        return ours
    ours.foreign += unlisted_legacy_tables(tools)
    for tool in tools:
        try:
            text = iptables.removal(await tool.save(iptables.TABLES))
            if keep_forward:
                text = iptables.without(text, "filter")
        except (CannotRun, FirewallError) as why:
            ours.unread.append(str(why))
            continue
        if text:
            ours.parts.append(_chains(tool, text))
    return ours


def _table(family: str, name: str) -> Part:
    async def remove() -> None:
        what = f"cannot remove nftables table {family} {name}"
        if shutil.which("nft") is None:
            raise FirewallError(f"{what}: there is no nft")
        done = await programs.run(("nft", "delete", "table", family, name), timeout=TIMEOUT)
        if done.status != 0:
            raise FirewallError(f"{what}: {done.complaint}")

    return Part(f"nftables table {family} {name}", remove)


def _chains(tool: Iptables, text: str) -> Part:
    chains = ", ".join(sorted({line.split()[1] for line in text.splitlines() if line[:2] == "-X"}))
    return Part(f"{tool.name} chains {chains}", lambda: tool.restore(text))
