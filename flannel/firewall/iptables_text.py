"""The text of our iptables chains. Pure: the output of ``iptables-save`` in, changes out.

    filter  FORWARD      -> FLANNEL-FWD       accepts packets from and to the overlay
    nat     POSTROUTING  -> FLANNEL-POSTRTG   masquerades, if nft does not
    mangle, raw                               the guard, if nft does not (`iptables_guard`)

The first two have upstream's names. Rules of earlier flannels are deleted: chains with these names,
the rules of upstream versions without chains, and the chains of v0.5.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network

from flannel.firewall.iptables_guard import PLACES as GUARD_PLACES
from flannel.firewall.iptables_guard import Place
from flannel.firewall.rules import KUBE_MARK, MULTICAST, Rules

_FORWARD = Place("filter", "FORWARD", "FLANNEL-FWD", "flanneld forward")
_POSTROUTING = Place("nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq", "FLANNEL")
_PLACES = (_FORWARD, _POSTROUTING, *GUARD_PLACES)
TABLES = tuple(dict.fromkeys(place.table for place in _PLACES))
"""The tables that our chains are in."""


def forward_rules(rules: Rules) -> list[str]:
    """The rules of FLANNEL-FWD, as ``iptables-save`` prints them."""
    tail = f'-m comment --comment "{_FORWARD.comment}" -j ACCEPT'
    return [f"-s {rules.network} {tail}", f"-d {rules.network} {tail}"]


def masquerade_rules(rules: Rules, *, random_fully: bool) -> list[str]:
    """The rules of FLANNEL-POSTRTG, as ``iptables-save`` prints them; `nft_table` says why."""
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
    guard: Mapping[Place, Sequence[str]] | None = None,
    sweep: bool,
) -> str:
    """The input of ``iptables-restore --noflush`` that corrects our chains; "" if they are right.

    :param saved: the output of ``iptables-save``.
    :param forward: the rules that FLANNEL-FWD should have; empty: the chain should not exist.
    :param masquerade: the same for FLANNEL-POSTRTG.
    :param guard: the same for the guard's chains.
    :param sweep: also delete this network's rules of upstream versions without chains.
    """
    wanted = {_FORWARD: forward, _POSTROUTING: masquerade, **(guard or {})}
    # The chain that marks the tunnel's packets is made before those that drop unmarked packets, and
    # deleted after them.
    places = _PLACES if guard else _PLACES[::-1]
    lines: dict[str, list[str]] = {place.table: [] for place in places}
    for place in places:
        table, rules = _table(saved, place.table), wanted.get(place, ())
        if sweep:
            lines[place.table] += _old_rules(place, table, network, rules)
        lines[place.table] += _change(place, table, rules)
    return "".join(_document(table, each) for table, each in lines.items())


def removal(saved: str) -> str:
    """The input of ``iptables-restore --noflush`` that deletes our chains; "" if there are none.

    :param saved: the output of ``iptables-save``.
    """
    lines: dict[str, list[str]] = {place.table: [] for place in _PLACES[::-1]}
    for place in _PLACES[::-1]:
        lines[place.table] += _removal(place, _table(saved, place.table))
    return "".join(_document(table, each) for table, each in lines.items())


def _document(table: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    declared = [line for line in lines if line.startswith(":")]
    others = [line for line in lines if not line.startswith(":")]
    return "\n".join((f"*{table}", *declared, *others, "COMMIT", ""))


def forwards_all(saved: str) -> bool:
    """True if FORWARD accepts by default and contains no rules but our own."""
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


def _change(place: Place, lines: list[str], wanted: Sequence[str]) -> list[str]:
    if not wanted:
        return _removal(place, lines)
    rules = _rules_of(lines, place.builtin)
    ours = [rule for rule in rules if _jumps_to(rule, (place.chain,))]
    result = _removal_of(place.v05_chain, lines)
    right = ours == [place.jump] and _is_reached(place, rules)
    if not right or _rules_of(lines, place.chain) != list(wanted):
        # The declaration of a chain empties it.
        result = [f":{place.chain} - [0:0]", *result]
        result += [f"-A {place.chain} {rule}" for rule in wanted]
    if not right:
        result += [f"-D {place.builtin} {rule}" for rule in ours]
        result.append(_insertion(place, [rule for rule in rules if rule not in ours]))
    return result


def _removal(place: Place, lines: list[str]) -> list[str]:
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


def _is_reached(place: Place, rules: list[str]) -> bool:
    """True unless a rule before our jump drops all packets, as an administrator's last rule may."""
    if place is not _FORWARD:
        return True
    before = rules[: rules.index(place.jump)]
    return not any(
        re.fullmatch(
            r'(-m comment --comment (".*"|\S+) )?-j (DROP|REJECT)( --reject-with \S+)?', rule
        )
        for rule in before
    )


def _insertion(place: Place, others: list[str]) -> str:
    if place is not _FORWARD:
        where = f"-I {place.builtin} 1" if place.first else f"-A {place.builtin}"
        return f"{where} {place.jump}"
    # DOCKER-USER, docker's first rule, is for what the operator forbids; our packets obey it too.
    position = 2 if others[:1] == ["-j DOCKER-USER"] else 1
    return f"-I {place.builtin} {position} {place.jump}"


def _old_rules(
    place: Place, lines: list[str], network: IPv4Network, wanted: Sequence[str]
) -> list[str]:
    """Lines that delete the rules which upstream up to v0.20 put into the built-in chain."""
    if place not in (_FORWARD, _POSTROUTING):
        return []
    found = []
    for rule in _rules_of(lines, place.builtin):
        plain = rule.replace(f'-m comment --comment "{place.comment}" ', "")
        plain = plain.removesuffix(" --random-fully")
        if plain != rule.removesuffix(" --random-fully") and not _jumps_to(rule, (place.chain,)):
            found.append(rule)  # its comment is flannel's
        elif place is _POSTROUTING and _is_old_masquerade(plain, network):
            found.append(rule)
    if place is _FORWARD and wanted:
        # An operator may have made the same two rules; ours replace them.
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
