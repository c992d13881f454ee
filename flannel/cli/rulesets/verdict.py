"""What a firewall does with a packet. Pure: rules in, verdict out.

`iptables_rules` and `nft_rules` make `Chain`s of what the host's tools print. Not all matches are
understood; a rule with one that is not *may* apply. A verdict is only as sure as the rules on the
way to it, and says so.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Literal

Outcome = Literal["accept", "drop", "masquerade", "return", "continue"]


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. ``port`` is the destination's, for udp and tcp."""

    source: IPv4Address
    destination: IPv4Address
    came_in: str = ""
    goes_out: str = ""
    protocol: str = "icmp"
    port: int = 0


Match = Callable[[Packet], bool | None]
"""Whether a packet fits; None: not understood."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``target`` is accept, drop, masquerade, return, continue, or ``jump X`` and ``goto X``."""

    matches: tuple[Match, ...]
    target: str
    text: str

    def fits(self, packet: Packet) -> bool | None:
        """Whether the rule applies; None: perhaps."""
        unsure = False
        for match in self.matches:
            fits = match(packet)
            if fits is False:
                return False
            unsure |= fits is None
        return None if unsure else True


@dataclass(slots=True)
class Chain:
    """Rules in order.

    :ivar table: with its family, or the tool's name, for messages.
    :ivar hook: where packets enter a base chain: input, forward, output or postrouting; else "".
    :ivar kind: filter or nat, of a base chain.
    """

    name: str
    table: str
    rules: list[Rule] = field(default_factory=list)
    hook: str = ""
    kind: str = "filter"
    policy: str = "accept"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens.

    :ivar by: the rule or policy that decided.
    :ivar sure: no rule on the way was beyond understanding.
    """

    outcome: Outcome
    by: str = ""
    sure: bool = True


Tables = Mapping[str, Mapping[str, Chain]]
"""Chains by name, by table."""


def judge(tables: Tables, hook: str, packet: Packet, kind: str = "filter") -> Verdict:
    """What all base chains of ``hook`` together do: to be dropped by one is to be dropped.

    For nat the first that translates decides.
    """
    bases = sorted(
        (
            chain
            for chains in tables.values()
            for chain in chains.values()
            if chain.hook == hook and chain.kind == kind
        ),
        key=lambda chain: chain.priority,
    )
    accepted = Verdict("accept")
    for base in bases:
        verdict = _walk(tables[base.table], base, packet, 0)
        if verdict.outcome in ("continue", "return"):
            policy: Outcome = "drop" if base.policy == "drop" else "accept"
            by = f"policy {base.policy} of {base.table} {base.name}"
            verdict = Verdict(policy, by, verdict.sure)
        if verdict.outcome in ("drop", "masquerade"):
            return Verdict(verdict.outcome, verdict.by, verdict.sure and accepted.sure)
        if kind == "nat" and verdict.by and not verdict.by.startswith("policy"):
            return verdict
        accepted = Verdict("accept", verdict.by or accepted.by, verdict.sure and accepted.sure)
    return accepted


_DEEPEST = 16
"""Jumps within jumps; both tools refuse loops, and nft more than this."""


def _walk(chains: Mapping[str, Chain], chain: Chain, packet: Packet, depth: int) -> Verdict:
    sure = True
    for rule in chain.rules:
        fits = rule.fits(packet)
        if fits is False or rule.target == "continue":
            continue
        verb, _, name = rule.target.partition(" ")
        if verb in ("jump", "goto"):
            if name not in chains or depth >= _DEEPEST:
                sure = False
                continue
            inner = _walk(chains, chains[name], packet, depth + 1)
            if inner.outcome in ("continue", "return"):
                sure &= inner.sure
                if verb == "goto" and fits:
                    return Verdict("return", sure=sure)
                continue
        else:
            inner = Verdict(_outcome(verb), f"{chain.table} {chain.name}: {rule.text}")
        if fits is None or not inner.sure:
            sure = False
            if fits is None:
                continue
        return Verdict(inner.outcome, inner.by, sure and inner.sure)
    return Verdict("continue", sure=sure)


def _outcome(verb: str) -> Outcome:
    match verb:
        case "accept" | "drop" | "masquerade" | "return":
            return verb
    return "continue"


def one_of(wanted: Iterable[str]) -> Callable[[str], bool]:
    """Names of links; a + or * at the end of one stands for anything."""
    patterns = tuple(wanted)

    def fits(name: str) -> bool:
        return any(
            name.startswith(each[:-1]) if each[-1:] in ("+", "*") else name == each
            for each in patterns
        )

    return fits


def unknown(_: Packet) -> bool | None:
    """A match that is not understood."""
    return None


def is_new(states: Sequence[str]) -> Match:
    """Connection tracking: the packet is the first of its connection."""
    fits = "new" in {state.lower() for state in states}
    return lambda _: fits
