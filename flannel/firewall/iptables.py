"""iptables: two chains of our own with upstream's names, and a jump to each.

    filter   FORWARD     -> FLANNEL-FWD       packets from and to the overlay are accepted
    nat      POSTROUTING -> FLANNEL-POSTRTG   masquerade, where there is no nft

FORWARD is iptables' matter wherever docker runs: it sets the policy to drop, and only a rule in
that chain gets packets past it. There are two iptables, one in nf_tables and the older one beside
it, and a host may use both. The one called ``iptables`` always gets our rules, so that docker may
come later; the other one gets them if it has an opinion of its own on what is forwarded.

What earlier flannels left is removed: chains of these names, upstream's rules of before it had
chains, and those of v0.5. Everything goes through ``iptables-restore --noflush``, a transaction
for each table, which touches no line but ours.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from flannel.errors import FirewallError
from flannel.firewall.rules import KUBE_MARK, MULTICAST, Rules
from flannel.firewall.tools import Iptables, legacy_tables


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one of our chains hangs."""

    table: str
    builtin: str
    chain: str
    comment: str
    v05_chain: str = ""

    @property
    def jump(self) -> str:
        return f'-m comment --comment "{self.comment}" -j {self.chain}'


_FORWARD = _Place("filter", "FORWARD", "FLANNEL-FWD", "flanneld forward")
_POSTROUTING = _Place("nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq", "FLANNEL")
_PLACES = _FORWARD, _POSTROUTING
TABLES = tuple(place.table for place in _PLACES)
"""Where our chains are."""


def forward_rules(rules: Rules) -> list[str]:
    """The rules of FLANNEL-FWD, as ``iptables-save`` words them."""
    tail = f'-m comment --comment "{_FORWARD.comment}" -j ACCEPT'
    return [f"-s {rules.network} {tail}", f"-d {rules.network} {tail}"]


def masquerade_rules(rules: Rules, *, random_fully: bool) -> list[str]:
    """The rules of FLANNEL-POSTRTG, as ``iptables-save`` words them; see `nftables` for the why."""
    network, subnet = rules.network, rules.subnet
    comment = f'-m comment --comment "{_POSTROUTING.comment}" '
    leave = f"{comment}-j RETURN"
    masquerade = f"{comment}-j MASQUERADE{' --random-fully' if random_fully else ''}"
    return [
        f"-m mark --mark {KUBE_MARK:#x}/{KUBE_MARK:#x} {leave}",
        f"-s {network} -d {network} {leave}",
        f"-d {subnet} {leave}",
        *(f"-s {network} -d {each} {leave}" for each in rules.no_masquerade),
        f"-s {network} ! -d {MULTICAST} {masquerade}",
        f"! -s {network} -d {network} {masquerade}",
    ]


def changes(
    saved: str,
    *,
    network: IPv4Network,
    forward: Sequence[str],
    masquerade: Sequence[str],
    sweep: bool,
) -> str:
    """What ``iptables-restore --noflush`` reads to put a table right; "" if it is.

    :param saved: what ``iptables-save`` prints.
    :param forward: the rules that FLANNEL-FWD should have; none: the chain should not be.
    :param masquerade: the same of FLANNEL-POSTRTG.
    :param sweep: remove upstream's rules of before it had chains as well, of this network.
    """
    text = ""
    for place, rules in ((_FORWARD, forward), (_POSTROUTING, masquerade)):
        lines = _change(place, _table(saved, place.table), rules)
        if sweep:
            lines = [*_old_rules(place, _table(saved, place.table), network, rules), *lines]
        text += _document(place.table, lines)
    return text


def removal(saved: str) -> str:
    """What ``iptables-restore --noflush`` reads to take our chains away; "" if there are none.

    :param saved: what ``iptables-save`` prints.
    """
    return "".join(
        _document(place.table, _removal(place, _table(saved, place.table))) for place in _PLACES
    )


def _document(table: str, lines: Sequence[str]) -> str:
    return "\n".join((f"*{table}", *lines, "COMMIT", "")) if lines else ""


def forwards_all(saved: str) -> bool:
    """Whether nothing but our own rules could keep a packet from being forwarded."""
    lines = _table(saved, _FORWARD.table)
    if any(re.match(r":FORWARD (?!ACCEPT)", line) for line in lines):
        return False
    return all(_jumps_to(line, (_FORWARD.chain,)) for line in _rules_of(lines, _FORWARD.builtin))


def _table(saved: str, table: str) -> list[str]:
    """The lines of one table."""
    found = re.search(rf"^\*{table}\n(.*?)^COMMIT$", saved, re.MULTILINE | re.DOTALL)
    return found[1].splitlines() if found else []


def _rules_of(lines: Iterable[str], chain: str) -> list[str]:
    """The rules of a chain, without ``-A CHAIN``."""
    head = f"-A {chain} "
    return [line.removeprefix(head) for line in lines if line.startswith(head)]


def _jumps_to(rule: str, chains: Sequence[str]) -> bool:
    return any(rule.endswith((f"-j {chain}", f"-g {chain}")) for chain in chains)


def _change(place: _Place, lines: list[str], wanted: Sequence[str]) -> list[str]:
    if not wanted:
        return _removal(place, lines)
    rules = _rules_of(lines, place.builtin)
    ours = [rule for rule in rules if _jumps_to(rule, (place.chain,))]
    result = _removal_of(place.v05_chain, lines)
    right = ours == [place.jump] and _is_reached(place, rules)
    if not right or _rules_of(lines, place.chain) != list(wanted):
        # To declare a chain is to empty it.
        result = [f":{place.chain} - [0:0]", *result]
        result += [f"-A {place.chain} {rule}" for rule in wanted]
    if not right:
        result += [f"-D {place.builtin} {rule}" for rule in ours]
        result.append(_insertion(place, [rule for rule in rules if rule not in ours]))
    return result


def _removal(place: _Place, lines: list[str]) -> list[str]:
    return _removal_of(place.v05_chain, lines) + _removal_of(place.chain, lines)


def _removal_of(chain: str, lines: list[str]) -> list[str]:
    """Lines that delete a chain and all rules that lead into it; [] if there is no such chain."""
    if not any(line.startswith(f":{chain} ") for line in lines):
        return []
    jumps = [line for line in lines if line.startswith("-A ") and _jumps_to(line, (chain,))]
    return [
        *(f"-D {line.removeprefix('-A ')}" for line in jumps if line.split(" ")[1] != chain),
        f"-F {chain}",
        f"-X {chain}",
    ]


def _is_reached(place: _Place, rules: list[str]) -> bool:
    """Whether no rule before our jump drops all that comes: an administrator's last line."""
    if place is not _FORWARD:
        return True
    before = rules[: rules.index(place.jump)]
    return not any(
        re.fullmatch(
            r'(-m comment --comment (".*"|\S+) )?-j (DROP|REJECT)( --reject-with \S+)?', rule
        )
        for rule in before
    )


def _insertion(place: _Place, others: list[str]) -> str:
    if place is not _FORWARD:
        return f"-A {place.builtin} {place.jump}"
    # Docker keeps the first place for what its operator wants to forbid; that counts for us too.
    position = 2 if others[:1] == ["-j DOCKER-USER"] else 1
    return f"-I {place.builtin} {position} {place.jump}"


def _old_rules(
    place: _Place, lines: list[str], network: IPv4Network, wanted: Sequence[str]
) -> list[str]:
    """Deletions of what upstream up to v0.20 put into the built-in chain itself."""
    found = []
    for rule in _rules_of(lines, place.builtin):
        plain = rule.replace(f'-m comment --comment "{place.comment}" ', "")
        plain = plain.removesuffix(" --random-fully")
        if plain != rule.removesuffix(" --random-fully") and not _jumps_to(rule, (place.chain,)):
            found.append(rule)  # it says itself whose it is
        elif place is _POSTROUTING and _is_old_masquerade(plain, network):
            found.append(rule)
    if place is _FORWARD and wanted:
        # An operator may have made the same two; ours do their work from now on.
        pair = [f"-s {network} -j ACCEPT", f"-d {network} -j ACCEPT"]
        rules = _rules_of(lines, place.builtin)
        found += [rule for rule in rules if rule in pair] if set(pair) <= set(rules) else []
    return [f"-D {place.builtin} {rule}" for rule in found]


def _is_old_masquerade(rule: str, network: IPv4Network) -> bool:
    if rule in (
        f"-s {network} -d {network} -j RETURN",
        f"-s {network} ! -d {MULTICAST} -j MASQUERADE",
        f"! -s {network} -d {network} -j MASQUERADE",
    ):
        return True
    local = re.fullmatch(rf"! -s {re.escape(str(network))} -d (\d[\d.]+/\d+) -j RETURN", rule)
    return local is not None and IPv4Network(local[1]).subnet_of(network)


class IptablesRules:
    """Our chains in one of the two iptables of a host.

    :ivar tool: the program; :ivar name: its name; :ivar legacy: see `Iptables`.
    """

    def __init__(self, tool: Iptables) -> None:
        self.tool = tool
        self.name = tool.name
        self.legacy = tool.legacy
        self._random_fully = tool.version >= (1, 6, 2)
        self._written = False
        self._settled: str | None = None

    async def ensure(self, rules: Rules, *, masquerade: bool) -> str | None:
        """Make our chains match ``rules``; only what differs is written.

        :param masquerade: do it here; another does otherwise.
        :return: what differed though it had been written before; None if nothing did.
        :raises FirewallError: iptables refuses.
        """
        preferred = self.tool.preferred
        if self.legacy and legacy_tables() is None:
            if masquerade and rules.masquerade and preferred:
                raise FirewallError(
                    f"cannot masquerade with {self.name}: the kernel module ip_tables is not "
                    "loaded, and flanneld may not load it"
                )
            return None  # nothing that could be dropped there; who uses it later loads it
        saved = await self._save()
        if saved == self._settled:
            return None
        here = rules.forward and (preferred or not forwards_all(saved))
        random_fully = rules.random_ports and self._random_fully
        text = changes(
            saved,
            network=rules.network,
            forward=forward_rules(rules) if here else (),
            masquerade=masquerade_rules(rules, random_fully=random_fully)
            if masquerade and rules.masquerade and preferred
            else (),
            sweep=not self._written,
        )
        amiss = f"chains of {self.name} were changed" if text and self._written else None
        if text:
            await self.tool.restore(text)
            # A version may word our rules in another way: what it says of them now is right.
            saved = await self._save()
        self._written = True
        self._settled = saved
        return amiss

    async def _save(self) -> str:
        """Both tables, without what changes by itself: the time and the counters."""
        text = await self.tool.save((_FORWARD.table, _POSTROUTING.table))
        text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
        return re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1", text, flags=re.MULTILINE)
