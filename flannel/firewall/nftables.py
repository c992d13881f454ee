"""Nftables: keeps our one nftables table, with the program ``nft``.

    nft = Nftables("nft")
    chains = await nft.list_chains()
    await nft.ensure(rules, elements, chains)      # the whole table, in one transaction
    await nft.change(wanted, gone)                 # some elements of its sets

`flannel.firewall.nft_table` has the text of the table. This module writes only this table, and
deletes upstream's (``flannel-ipv4``, ``flannel-ipv6``). It does not accept forwarded packets: in
nftables an accept ends only one chain, and a drop in any other chain is final. See
`flannel.firewall.iptables`.

The generation of the kernel's ruleset (`flannel.firewall.nfnetlink`) shows whether any rule has
changed, so that a look at 10,000 peers costs one system call instead of a listing.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flannel import programs
from flannel.errors import CannotRun, FirewallError
from flannel.firewall.nft_table import OURS, TABLE, Abilities, Counter, document, set_names
from flannel.firewall.peer_addresses import LEASES, PEERS, Element
from flannel.firewall.rules import Rules
from flannel.firewall.tools import TIMEOUT, legacy_tables

log = logging.getLogger(__name__)

OUR_TABLES = frozenset({("ip", TABLE)})
"""The tables that flanneld makes, by family and name."""
UPSTREAM_TABLES = frozenset({("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")})

_OWNER = "owner"
"""A flag of a table: while the process that made the table runs, only that one may change it."""


class Chain(NamedTuple):
    """Any chain. Its hook, policy and type are "" if it is not a base chain."""

    family: str
    table: str
    name: str
    hook: str
    policy: str
    type: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Our table as the kernel has it.

    :ivar content: the table without elements and counter values, for comparisons.
    :ivar elements: the elements of our sets.
    :ivar owned: another program owns the table.
    """

    content: str
    elements: frozenset[Element] = frozenset()
    counters: Mapping[str, Counter] = field(default_factory=dict)
    owned: bool = False


def parse(listing: bytes) -> Found:
    """Parse the output of ``nft -j list table ip flannel``.

    :raises FirewallError: it cannot be parsed.
    """
    content: list[Any] = []
    elements: set[Element] = set()
    counters: dict[str, Counter] = {}
    owned = False
    for kind, body in _objects(listing):
        try:
            if kind == "counter":
                counters[body["name"]] = Counter(int(body["packets"]), int(body["bytes"]))
                body = {"name": body["name"]}
            elif kind == "set" and body["name"] in (PEERS, LEASES):
                found, others = _elements(body["name"], body.pop("elem", []))
                elements |= found
                body["others"] = others
            owned |= kind == "table" and _OWNER in body.get("flags", ())
        except (KeyError, TypeError, ValueError) as why:
            raise FirewallError(f"cannot read what nft prints of {OURS}: {why!r}") from why
        content.append({kind: _stable(body)})
    return Found(json.dumps(content), frozenset(elements), counters, owned)


def _objects(listing: bytes) -> Iterable[tuple[str, dict[str, Any]]]:
    """The kind and content of each object in the output of ``nft -j``.

    :raises FirewallError: it cannot be parsed.
    """
    try:
        objects = [each for one in json.loads(listing)["nftables"] for each in one.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as why:
        text = listing[:60].decode(errors="replace")
        raise FirewallError(f"cannot read what nft prints: it begins with {text!r}") from why
    return [(kind, body) for kind, body in objects if isinstance(body, dict) and kind != "metainfo"]


def _elements(name: str, listed: Iterable[Any]) -> tuple[set[Element], list[Any]]:
    """The elements that we may have made; and all others, such as those with a timeout."""
    found, others = set(), []
    for each in listed:
        match each:
            case str():
                found.add(Element(name, each))
            case {"concat": [str(address), int(subnet)]}:
                found.add(Element(name, f"{address} . {subnet:#x}"))
            case _:
                others.append(each)
    return found, others


def _stable(value: Any) -> Any:
    """Remove the kernel's handles, which differ for each rule and each table that is made."""
    if isinstance(value, dict):
        return {name: _stable(each) for name, each in value.items() if name != "handle"}
    return [_stable(each) for each in value] if isinstance(value, list) else value


class Nftables:
    """Keeps our table with the program ``nft``."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._document = ""
        """The last written document, without the elements."""
        self._written: str | None = None
        """The content that nft listed after the last write; None: nothing was written yet."""
        self._elements: set[Element] = set()
        """The elements of our sets, by our last look or write."""
        self._sets: frozenset[str] = frozenset()
        self._pairs: bool | None = None
        """Whether this nft supports `Abilities.pairs`; None: not tried yet."""

    async def list_chains(self) -> list[Chain]:
        """Every chain of every table.

        :raises CannotRun: nft does not run.
        :raises FirewallError: nft refuses, or its output cannot be parsed.
        """
        try:
            return [
                Chain(body["family"], body["table"], body["name"],
                      body.get("hook", ""), body.get("policy", ""), body.get("type", ""))
                for kind, body in _objects(await self._run("list the chains", "list", "chains"))
                if kind == "chain"
            ]  # fmt: skip
        except KeyError as why:
            raise FirewallError(f"cannot read what nft prints of chains: {why!r}") from why

    async def ends_in_drop(self, chain: Chain) -> bool:
        """Whether a chain's last rule drops or rejects all that come to it; False: not known."""
        place = (chain.family, chain.table, chain.name)
        try:
            listing = await self._run("list a chain", "list", "chain", *place)
            rules = [body for kind, body in _objects(listing) if kind == "rule"]
        except (CannotRun, FirewallError):  # it may be gone since it was listed
            return False
        return bool(rules) and is_last_drop(rules[-1].get("expr"))

    async def ensure(
        self, rules: Rules, elements: Collection[Element], chains: Collection[Chain]
    ) -> str | None:
        """Make the table match ``rules``; write only the differences.

        :param elements: the elements of all leases; elements of absent sets are left out.
        :param chains: the result of a `list_chains` just before.
        :return: what somebody else had changed in the table; None: nothing.
        :raises CannotRun: nft does not run.
        :raises FirewallError: nft refuses, or the table belongs to another program.
        """
        tables = {(chain.family, chain.table) for chain in chains}
        found = await self.read() if ("ip", TABLE) in tables else None
        upstream = tables & UPSTREAM_TABLES
        if found is None and not upstream and not rules.masquerade and rules.guard is None:
            return None
        if found is not None and found.owned:
            raise FirewallError(f"cannot write {OURS}: another program owns it (flags owner)")
        abilities = Abilities(self._pairs is not False, rules.masquerade or _has_nat(chains))
        wanted = frozenset(each for each in elements if each.set in set_names(rules, abilities))
        if (
            found is not None
            and found.content == self._written
            and document(rules, abilities=abilities) == self._document
            and not upstream
        ):
            return await self._ensure_elements(found.elements, wanted)
        amiss = None
        if self._written is not None and (found is None or found.content != self._written):
            amiss = f"{OURS} was {'gone' if found is None else 'changed'}"
        await self._replace(rules, elements, found, upstream, abilities)
        return amiss

    async def _ensure_elements(
        self, found: frozenset[Element], wanted: frozenset[Element]
    ) -> str | None:
        if found == wanted:
            return None
        amiss = f"the peers of {OURS} were changed" if found != self._elements else None
        self._elements = set(found)
        await self.change(wanted, found - wanted)
        return amiss

    async def _replace(
        self,
        rules: Rules,
        elements: Collection[Element],
        found: Found | None,
        upstream: Collection[tuple[str, str]],
        abilities: Abilities,
    ) -> None:
        counters = found.counters if found is not None else {}
        sets = set_names(rules, abilities)
        wanted = {each for each in elements if each.set in sets}
        try:
            await self._write(document(rules, wanted, counters, upstream, abilities))
        except _BadSyntax:
            if self._pairs is not None or LEASES not in sets:
                raise
            await self._replace(rules, elements, found, upstream, abilities._replace(pairs=False))
            self._pairs = False
            log.warning(
                "this nft has no sets of raw payload: the source in a peer's VXLAN packets is "
                "compared with the network only, not with that peer's lease"
            )
            return
        if LEASES in sets:
            self._pairs = True
        written = await self.read()
        self._written = written.content if written is not None else ""
        self._document = document(rules, abilities=abilities)
        self._elements = wanted
        self._sets = sets

    async def change(self, wanted: Collection[Element], gone: Collection[Element]) -> None:
        """Add the ``wanted`` elements and delete the ``gone`` ones, without listing the table.

        :raises CannotRun: nft does not run.
        :raises FirewallError: nft refuses, perhaps because the table was changed since `ensure`.
        """
        add = {each for each in wanted if each.set in self._sets} - self._elements
        delete = self._elements.intersection(gone)
        lines = [
            f"{verb} element ip {TABLE} {name} {{ {', '.join(sorted(texts))} }}\n"
            for verb, those in (("add", add), ("delete", delete))
            for name in sorted(self._sets)
            if (texts := [each.text for each in those if each.set == name])
        ]
        if lines:
            await self._write("".join(lines))
        self._elements |= add
        self._elements -= delete

    async def read(self) -> Found | None:
        """Our table; None if there is none.

        :raises CannotRun: nft does not run.
        :raises FirewallError: nft refuses, or its output cannot be parsed.
        """
        done = await programs.run(
            [self._program, "-j", "list", "table", "ip", TABLE], timeout=TIMEOUT
        )
        if done.status != 0 and b"No such file" in done.stderr:
            return None
        if done.status != 0:
            raise FirewallError(f"cannot list {OURS}: {done.complaint}")
        return parse(done.stdout)

    async def counters(self) -> Mapping[str, Counter]:
        """The values of our counters; empty if there is no table.

        :raises CannotRun: nft does not run.
        :raises FirewallError: nft refuses, or its output cannot be parsed.
        """
        words = ("list", "counters", "table", "ip", TABLE)
        done = await programs.run([self._program, "-j", *words], timeout=TIMEOUT)
        if done.status != 0 and b"No such file" in done.stderr:
            return {}
        if done.status != 0:
            raise FirewallError(f"cannot list the counters of {OURS}: {done.complaint}")
        return parse(done.stdout).counters

    async def _write(self, text: str) -> None:
        done = await programs.run([self._program, "-f", "-"], stdin=text.encode(), timeout=TIMEOUT)
        if done.status != 0:
            why = f"cannot write {OURS}: {_first_line(done.stderr)}"
            raise _BadSyntax(why) if _is_syntax(done.stderr) else FirewallError(why)

    async def _run(self, doing: str, *words: str) -> bytes:
        done = await programs.run([self._program, "-j", *words], timeout=TIMEOUT)
        if done.status != 0:
            raise FirewallError(f"cannot {doing} with nft: {_first_line(done.stderr)}")
        return done.stdout


def is_last_drop(expressions: object) -> bool:
    """Whether a rule, by its ``expr``, drops or rejects every IPv4 packet."""
    statements = expressions if isinstance(expressions, list) else []
    if not all(isinstance(each, dict) and len(each) == 1 for each in statements):
        return False
    names = [next(iter(each)) for each in statements]
    if not names or names[-1] not in ("drop", "reject") or set(names[:-1]) - {"counter", "log"}:
        return False
    how = statements[-1].get("reject")
    return not (isinstance(how, dict) and how.get("type") in ("icmpv6", "tcp reset"))


class _BadSyntax(FirewallError):
    """nft cannot parse the document, and has sent nothing to the kernel."""


def _is_syntax(stderr: bytes) -> bool:
    return b": Error: " in stderr and b"Could not process rule" not in stderr


def _has_nat(chains: Iterable[Chain]) -> bool:
    """Whether this host translates addresses."""
    if any(chain.type == "nat" and chain.family in ("ip", "inet") for chain in chains):
        return True
    try:
        return "nat" in (legacy_tables() or ())
    except FirewallError:
        return True  # unknown; to ask conntrack is never wrong, only slower


def _first_line(stderr: bytes) -> str:
    """nft's complaint; the further lines only show the place in the text."""
    return stderr.decode(errors="replace").strip().partition("\n")[0][:200] or "no reason given"
