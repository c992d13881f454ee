"""What a firewall does with a packet. Pure: rules in, verdict out.

    verdict = judge(chains, FORWARDED, packet)
    verdict.outcome    # "accept" or "drop"; "masquerade" of rules for nat
    verdict.sure       # False: a rule on the way could not be understood

`iptables` and `nft` make `Chain`s from the output of the host's programs. A rule with a match or
target that they do not understand *may* apply. `Verdict.sure` is True only if all rules on the way
were understood.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Literal

Outcome = Literal["accept", "drop", "masquerade", "return", "continue"]

FORWARDED = "ingress", "prerouting", "forward", "postrouting", "egress"
RECEIVED = "ingress", "prerouting", "input"
SENT = "output", "postrouting", "egress"
TRANSLATED = ("postrouting",)
"""The hooks that a packet passes, in order; the last one for chains of kind nat."""

_DECIDING = {"forward", "input", "output"}
"""The hooks whose rules decide who may send; rules at others are for special packets."""


OTHER_PORT = 9
"""The port of the discard service (RFC 863): stands for services that no rule names."""


EPHEMERAL = 32768, 60999
"""The source ports of connections: Linux' net.ipv4.ip_local_port_range, VXLAN's as well."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection.

    :ivar came_in: the link; "" if this host sends the packet.
    :ivar goes_out: the link; "" if the packet is for this host.
    :ivar protocol: by its name in /etc/protocols.
    :ivar port: the destination port of udp and tcp.
    :ivar mark: the mark of packet and connection; None: a rule on the way may have set one.
    :ivar tracked: whether conntrack sees the packet; None: a rule on the way may have prevented it.
    :ivar source_ports: the first and the last of those that it may have.
    """

    source: IPv4Address
    destination: IPv4Address
    came_in: str = ""
    goes_out: str = ""
    protocol: str = "icmp"
    port: int = OTHER_PORT
    mark: int | None = 0
    tracked: bool | None = True
    source_ports: tuple[int, int] = EPHEMERAL


@dataclass(frozen=True, slots=True)
class Sight:
    """A packet as a hook sees it.

    :ivar link_in: the link by which it came in.
    :ivar link_out: the link by which it leaves; for both, None: the hook does not have it.
    """

    packet: Packet
    link_in: str | None
    link_out: str | None


Match = Callable[[Sight], bool | None]
"""Whether a packet fits; None: perhaps."""

Change = Literal["mark", "tracked"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    :ivar target: accept, drop, masquerade, return, continue, ``jump X``, ``goto X``; or unknown,
        which may be any of them.
    :ivar text: for messages.
    :ivar changes: the members of the packet that the rule sets.
    """

    matches: tuple[Match, ...]
    target: str
    text: str
    changes: frozenset[Change] = frozenset()

    def fits(self, sight: Sight) -> bool | None:
        """Whether the rule applies; None: perhaps."""
        unsure = False
        for match in self.matches:
            fits = match(sight)
            if fits is False:
                return False
            unsure |= fits is None
        return None if unsure else True


@dataclass(slots=True)
class Chain:
    """Rules in order.

    :ivar table: with its family, or the program's name, for messages.
    :ivar hook: where packets enter a base chain, as in `FORWARDED`; "" for other chains.
    :ivar kind: filter or nat, of a base chain.
    :ivar links: of a base chain at ingress or egress, which sees these links only.
    """

    name: str
    table: str
    rules: list[Rule] = field(default_factory=list)
    hook: str = ""
    kind: str = "filter"
    policy: str = "accept"
    priority: int = 0
    links: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fate of a packet.

    :ivar by: the rule or policy that decided; "" if there is none.
    :ivar sure: every rule on the way was understood.
    """

    outcome: Outcome
    by: str = ""
    sure: bool = True


Chains = Mapping[str, Mapping[str, Chain]]
"""By name, by table."""


def judge(chains: Chains, hooks: tuple[str, ...], packet: Packet, kind: str = "filter") -> Verdict:
    """What all base chains at ``hooks`` do together: the packet is dropped if one of them drops it.

    Among nat chains the first one that translates decides.
    """
    walk = _Walk(packet)
    accepted, weight = Verdict("accept"), 0
    for base in bases_on_the_way(chains, hooks, kind, packet):
        verdict = walk.through(chains[base.table], base)
        is_by_rule = verdict.outcome not in ("continue", "return")
        if not is_by_rule:
            policy: Outcome = "drop" if base.policy == "drop" else "accept"
            by = f"policy {base.policy} of {base.table} {base.name}"
            verdict = Verdict(policy, by, verdict.sure)
        if base.hook in ("ingress", "egress") and not base.links:  # nft 1.0 does not name them
            accepted = replace(accepted, sure=accepted.sure and verdict.outcome == "accept")
        elif verdict.outcome in ("drop", "masquerade"):
            return Verdict(verdict.outcome, verdict.by, verdict.sure and accepted.sure)
        elif kind == "nat" and is_by_rule:
            return verdict
        else:
            sure, own_weight = verdict.sure and accepted.sure, _weight(base, is_by_rule)
            accepted = replace(verdict if own_weight >= weight else accepted, sure=sure)
            weight = max(weight, own_weight)
    return accepted


def _weight(base: Chain, is_by_rule: bool) -> int:
    """How much a base chain explains that a packet was accepted."""
    return 2 * (base.hook in _DECIDING) + is_by_rule


def bases_on_the_way(
    chains: Chains, hooks: tuple[str, ...], kind: str, packet: Packet
) -> Iterator[Chain]:
    """The base chains that see the packet, in order."""
    every = [chain for table in chains.values() for chain in table.values()]
    for hook in hooks:
        sight = sight_at(hook, packet)
        link = sight.link_in if hook == "ingress" else sight.link_out
        found = [
            chain
            for chain in every
            if (chain.hook, chain.kind) == (hook, kind) and (not chain.links or link in chain.links)
        ]
        yield from sorted(found, key=lambda chain: chain.priority)


def sight_at(hook: str, packet: Packet) -> Sight:
    """The packet as a hook sees it."""
    return Sight(
        packet,
        None if hook in ("output", "egress") else packet.came_in or None,
        None if hook in ("ingress", "prerouting", "input") else packet.goes_out or None,
    )


DEEPEST = 16
"""The most nested jumps; nft refuses more, and both refuse loops."""

MOST_RULES = 200_000
"""The most rules evaluated for one verdict: rules that may apply and jump multiply the ways."""


class _Walk:
    """Takes one packet, which rules may change, through chains."""

    def __init__(self, packet: Packet) -> None:
        self._packet = packet
        self._n_rules = 0

    def through(self, chains: Mapping[str, Chain], base: Chain) -> Verdict:
        """The result of a base chain without its policy."""
        return self._chain(chains, base, base.hook, 0)

    def _chain(self, chains: Mapping[str, Chain], chain: Chain, hook: str, depth: int) -> Verdict:
        sure = True
        for rule in chain.rules:
            self._n_rules += 1
            if self._n_rules > MOST_RULES:
                return Verdict("continue", sure=False)
            fits = rule.fits(sight_at(hook, self._packet))
            if fits is False:
                continue
            self._packet = changed(self._packet, rule)
            verb, _, name = rule.target.partition(" ")
            if verb == "continue":
                continue
            if verb not in ("jump", "goto"):
                outcome = _outcome(verb)
                if fits and outcome is not None:
                    return Verdict(outcome, f"{chain.table} {chain.name}: {rule.text}", sure)
                sure = False
                continue
            if name not in chains or depth >= DEEPEST:
                sure = False
                continue
            inner = self._chain(chains, chains[name], hook, depth + 1)
            ends = inner.outcome not in ("continue", "return")
            if fits and ends:
                return Verdict(inner.outcome, inner.by, sure and inner.sure)
            sure &= inner.sure
            if fits and verb == "goto":
                return Verdict("return", sure=sure)
            if fits is None and (ends or verb == "goto"):
                sure = False
        return Verdict("continue", sure=sure)


def changed(packet: Packet, rule: Rule) -> Packet:
    """The packet after a rule that applies, or may apply."""
    if "mark" in rule.changes:
        packet = replace(packet, mark=None)
    if "tracked" in rule.changes:
        packet = replace(packet, tracked=None)
    return packet


def _outcome(verb: str) -> Outcome | None:
    match verb:
        case "accept" | "drop" | "masquerade" | "return":
            return verb
    return None
