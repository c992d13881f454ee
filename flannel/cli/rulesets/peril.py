"""Whether a packet may be dropped that is not surely accepted, and what it depends on. Pure.

    verdict = judge(chains, FORWARDED, packet)
    peril = None if verdict.sure else find_peril(chains, FORWARDED, packet)

A rule that is not understood is followed both ways: as if it applied, and as if it did not. Many of
them change nothing, as those that would accept what is accepted anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from flannel.cli.rulesets.verdict import (
    DEEPEST,
    MOST_RULES,
    Chain,
    Chains,
    Packet,
    Rule,
    bases_on_the_way,
    changed,
    sight_at,
)


class Peril(NamedTuple):
    """A drop that may happen.

    :ivar by: the rule or policy that may drop the packet.
    :ivar depends_on: the rule with the condition that is not understood; it may be the same.
    """

    by: str
    depends_on: str

    def __str__(self) -> str:
        if self.by == self.depends_on:
            return f"{self.by}, which has a condition that flannel does not understand"
        return f"{self.by}, which depends on a condition of {self.depends_on}"


def find_peril(chains: Chains, hooks: tuple[str, ...], packet: Packet) -> Peril | None:
    """The first drop that may happen at these hooks; None: whatever applies, none happens."""
    for base in bases_on_the_way(chains, hooks, "filter", packet):
        if base.hook in ("ingress", "egress") and not base.links:
            continue  # nft 1.0 does not name its link, which is seldom one on this way
        walk = _Walk(packet, base.hook)
        ends = walk.through(chains[base.table], base, 0)
        if ends.drop is not None:
            return ends.drop
        if ends.falls and base.policy == "drop":
            by = f"policy drop of {base.table} {base.name}"
            return Peril(by, walk.doubt or by)
        packet = walk.packet
    return None


@dataclass(slots=True)
class _Ends:
    """How a chain may end: with a drop, or by its last rule or a return."""

    drop: Peril | None = None
    falls: bool = False


class _Walk:
    """Takes a packet through one base chain by all ways that it may take.

    :ivar doubt: the first rule that may decide and that is not understood.
    """

    def __init__(self, packet: Packet, hook: str) -> None:
        self.packet = packet
        self.doubt = ""
        self._hook = hook
        self._n_rules = 0

    def through(self, table: Mapping[str, Chain], chain: Chain, depth: int) -> _Ends:
        ends = _Ends()
        for rule in chain.rules:
            self._n_rules += 1
            if self._n_rules > MOST_RULES:
                text = f"{chain.table} {chain.name}, which has too many ways to follow"
                return _Ends(ends.drop or Peril(text, text), falls=True)
            fits = rule.fits(sight_at(self._hook, self.packet))
            if fits is False:
                continue
            self.packet = changed(self.packet, rule)
            verb = rule.target.partition(" ")[0]
            if verb == "continue":
                continue
            text = f"{chain.table} {chain.name}: {rule.text}"
            if fits is None and not self.doubt:
                self.doubt = text
            inner = self._of_target(table, rule, text, depth, doubtful=fits is None)
            ends.drop = ends.drop or inner.drop
            if verb in ("return", "goto"):
                ends.falls |= inner.falls
            if fits and (verb in ("goto", "return") or not inner.falls):
                return ends
        ends.falls = True
        return ends

    def _of_target(
        self, table: Mapping[str, Chain], rule: Rule, text: str, depth: int, *, doubtful: bool
    ) -> _Ends:
        verb, _, name = rule.target.partition(" ")
        if verb in ("accept", "masquerade"):
            return _Ends()
        if verb == "return":
            return _Ends(falls=True)
        if verb == "drop":
            return _Ends(Peril(text, text if doubtful else self.doubt or text))
        if verb in ("jump", "goto") and name in table and depth < DEEPEST:
            return self.through(table, table[name], depth + 1)
        self.doubt = self.doubt or text
        return _Ends(Peril(text, text), falls=True)
