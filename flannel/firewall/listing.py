"""All rules of this host that apply to IPv4 packets, as nft and iptables-save print them.

    listing = await read_rules()
    listing.iptables      # [Saved("iptables", legacy=False, text="*filter...")]
    listing.nft           # the output of `nft -j list ruleset`
    listing.unread        # what could not be read, and why

For `flannel explain` and `check`; `flannel.firewall.removal` lists only our own rules.
"""

import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from flannel import programs
from flannel.errors import CannotRun, FirewallError
from flannel.firewall import nfnetlink
from flannel.firewall.tools import TIMEOUT, Iptables, find_iptables, unlisted_legacy_tables

_IPTABLES_TABLES = frozenset({"filter", "nat", "mangle", "raw", "security"})
"""The tables of family ip that iptables-nft uses."""

_FAMILIES = frozenset({"ip", "inet", "netdev"})
"""The families of tables that apply to forwarded IPv4 packets."""


class Saved(NamedTuple):
    """The output of one ``iptables-save``, with the name of its iptables."""

    program: str
    legacy: bool
    text: str


@dataclass
class Listing:
    """The output of the programs.

    :ivar iptables: one for each kind of iptables on the host.
    :ivar nft: the output of ``nft -j list ruleset``; "" if it could not be read.
    :ivar unread: one line for each part that could not be read, with the reason.
    """

    iptables: list[Saved] = field(default_factory=list)
    nft: str = ""
    unread: list[str] = field(default_factory=list)

    @property
    def doubled(self) -> set[str]:
        """The tables of family ip that are in both ``nft`` and ``iptables``."""
        nft_kind = [each.text for each in self.iptables if not each.legacy]
        return {name for text in nft_kind for name in re.findall(r"(?m)^\*(\S+)", text)}


async def read_rules() -> Listing:
    """Read all rules; those that cannot be read are named in `Listing.unread`."""
    listing = Listing()
    tools = await _find_iptables(listing)
    for tool in tools:
        try:
            text = (await tool.save()).encode(errors="surrogateescape").decode(errors="replace")
            listing.iptables.append(Saved(tool.name, tool.legacy, text))
        except (CannotRun, FirewallError) as why:
            listing.unread.append(str(why))
    listing.unread += unlisted_legacy_tables(tools)
    if shutil.which("nft") is None:
        _look_for_other_tables(listing, tools)
        return listing
    try:
        done = await programs.run(("nft", "-j", "list", "ruleset"), timeout=TIMEOUT)
        if done.status == 0:
            listing.nft = done.stdout.decode(errors="replace")
        else:
            listing.unread.append(f"cannot list the rules with nft: {done.complaint}")
    except CannotRun as why:
        listing.unread.append(str(why))
    return listing


async def _find_iptables(listing: Listing) -> list[Iptables]:
    try:
        return await find_iptables()
    except CannotRun as why:
        listing.unread.append(str(why))
        return []


def _look_for_other_tables(listing: Listing, tools: Collection[Iptables]) -> None:
    """Without nft, name in `Listing.unread` the tables that only nft can list."""
    try:
        tables = nfnetlink.list_tables()
    except FirewallError as why:
        listing.unread.append(str(why))
        return
    tables = {(family, name) for family, name in tables if family in _FAMILIES}
    if any(not tool.legacy for tool in tools):
        tables -= {("ip", name) for name in _IPTABLES_TABLES}
    if tables:
        names = ", ".join(sorted(f"{family} {name}" for family, name in tables))
        listing.unread.append(f"nf_tables has rules in {names}, and there is no nft to list them")
