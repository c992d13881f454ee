"""nftables: one table of our own, replaced as a whole in one transaction.

    table ip flannel
      chain postrouting   masquerade
      chain input         VXLAN packets of strangers are dropped: whose source is not in @peers
      chain overlay       what peers send is dropped if it does not belong here
      set peers           the public addresses of all leases; grows and shrinks by elements

Only this table is written, and upstream's (``flannel-ipv4``, ``flannel-ipv6``) removed. Accepting
forwarded packets is not done here: in nftables an accept ends a chain, not the journey, and a drop
in anybody's chain is final. See `flannel.firewall.iptables`.

Whether anything has changed at all the kernel tells by the number of its ruleset's generation
(`flannel.firewall.nfnetlink`), so that a look at 10,000 peers costs a system call, not a listing.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flannel import programs
from flannel.errors import FirewallError
from flannel.firewall.rules import KUBE_MARK, MULTICAST, Guard, Rules
from flannel.firewall.tools import TIMEOUT

TABLE = "flannel"
OUR_TABLES = frozenset({("ip", TABLE)})
"""By family and name: all that flanneld makes."""
UPSTREAM_TABLES = frozenset({("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")})

COUNTERS = ("unknown_peer", "wrong_interface", "spoofed", "not_mine")
"""What `Guard` drops, by reason; where the udp backend has the same reason, by the same name."""

_OURS = f"table ip {TABLE}"


class Counter(NamedTuple):
    """Of packets that were dropped."""

    packets: int
    bytes: int


class Chain(NamedTuple):
    """A chain of anybody's; ``hook`` and ``policy`` are "" for those that only others jump to."""

    family: str
    table: str
    name: str
    hook: str
    policy: str


@dataclass(frozen=True, slots=True)
class Found:
    """Our table as the kernel has it.

    :ivar content: all but the peers and the counters' values, to be compared with another's.
    :ivar peers: the elements of @peers.
    """

    content: str
    peers: frozenset[str] = frozenset()
    counters: Mapping[str, Counter] = field(default_factory=dict)


def document(
    rules: Rules,
    peers: Collection[str],
    counters: Mapping[str, Counter],
    upstream: Collection[tuple[str, str]] = (),
) -> str:
    """What ``nft -f -`` reads to make the table so, whatever there was; one transaction.

    :param counters: values to begin with, so that those of a table that is replaced go on.
    :param upstream: the tables of `UPSTREAM_TABLES` that are there.
    """
    lines = [f"add table ip {TABLE}", f"delete table ip {TABLE}"]
    lines += [f"delete table {family} {name}" for family, name in sorted(upstream)]
    chains = []
    if rules.masquerade:
        chains += _masquerade(rules)
    if rules.guard is not None:
        chains += _guard(rules, rules.guard, peers, counters)
    if chains:
        lines += [f"table ip {TABLE} {{", *chains, "}"]
    return "\n".join(lines) + "\n"


def _masquerade(rules: Rules) -> list[str]:
    network, subnet = rules.network, rules.subnet
    how = "masquerade fully-random" if rules.random_ports else "masquerade"
    exempt = ", ".join(map(str, rules.no_masquerade))
    return [
        "chain postrouting {",
        "type nat hook postrouting priority srcnat; policy accept;",
        f"meta mark & {KUBE_MARK:#x} == {KUBE_MARK:#x} return",
        f"ip saddr {network} ip daddr {network} return",
        # From elsewhere to a container here: it sees who sends, and the answer comes by here.
        f"ip daddr {subnet} return",
        *([f"ip saddr {network} ip daddr {{ {exempt} }} return"] if exempt else []),
        f"ip saddr {network} ip daddr != {MULTICAST} {how}",
        f"ip saddr != {network} ip daddr {network} {how}",
        "}",
    ]


def _guard(
    rules: Rules, guard: Guard, peers: Collection[str], counters: Mapping[str, Counter]
) -> list[str]:
    # The VNI: RFC 7348, 5; 8 bytes of UDP header and 4 of VXLAN's are before it.
    ours = f"udp dport {guard.port} @th,96,24 {guard.vni}"
    lines = []
    for name in COUNTERS:
        packets, size = counters.get(name, Counter(0, 0))
        lines.append(f"counter {name} {{ packets {packets} bytes {size} }}")
    elements = f"elements = {{ {', '.join(sorted(peers))} }}" if peers else ""
    return [
        *lines,
        f"set peers {{ type ipv4_addr; {elements} }}",
        # On every interface: the socket of a VXLAN link hears them all. Reassembled by here.
        "chain input {",
        "type filter hook input priority filter - 10; policy accept;",
        f"{ours} ip saddr != @peers counter name unknown_peer drop",
        # A container may forge a peer's address, but not the way by which that is reached.
        f"{ours} fib saddr . iif oif missing counter name wrong_interface drop",
        "}",
        # Before conntrack, which a flood would fill.
        "chain overlay {",
        "type filter hook prerouting priority raw; policy accept;",
        f'iifname != "{guard.device}" accept',
        f"ip saddr != {rules.network} counter name spoofed drop",
        f"ip saddr {rules.subnet} counter name spoofed drop",
        f"ip daddr != {rules.subnet} counter name not_mine drop",
        "}",
    ]


def parse(listing: bytes) -> Found:
    """Read what ``nft -j list table ip flannel`` prints."""
    content: list[Any] = []
    peers: set[str] = set()
    counters: dict[str, Counter] = {}
    for each in _objects(listing):
        ((kind, body),) = each.items()
        body.pop("handle", None)
        if kind == "counter":
            counters[body["name"]] = Counter(body.pop("packets"), body.pop("bytes"))
        elif kind == "set" and body["name"] == "peers":
            elements = body.pop("elem", [])
            peers.update(element for element in elements if isinstance(element, str))
            # With a time limit or a comment: not by us.
            body["others"] = [element for element in elements if not isinstance(element, str)]
        content.append(each)
    return Found(json.dumps(content), frozenset(peers), counters)


def _objects(listing: bytes) -> list[dict[str, dict[str, Any]]]:
    return [each for each in json.loads(listing)["nftables"] if "metainfo" not in each]


class Nftables:
    """Our table, kept through the program ``nft``."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._written: str | None = None
        self._peers: set[str] = set()
        """The elements of @peers, as we left them."""

    async def list_chains(self) -> list[Chain]:
        """Every chain of every table.

        :raises FirewallError: nft is of no use on this kernel.
        """
        return [
            Chain(body["family"], body["table"], body["name"],
                  body.get("hook", ""), body.get("policy", ""))
            for each in _objects(await self._run("list the chains", "list", "chains"))
            if (body := each.get("chain")) is not None
        ]  # fmt: skip

    async def ensure(
        self, rules: Rules, peers: frozenset[str], chains: Collection[Chain]
    ) -> str | None:
        """Make the table so; only what differs is written.

        :param chains: what `list_chains` has just said.
        :return: what was amiss though it had been written before; None if nothing was.
        :raises FirewallError: nft refuses.
        """
        if rules.guard is None:
            peers = frozenset()  # there is no set for them
        tables = {(chain.family, chain.table) for chain in chains}
        found = await self.read() if ("ip", TABLE) in tables else None
        upstream = tables & UPSTREAM_TABLES
        amiss = None
        if found is None and not upstream and not rules.masquerade and rules.guard is None:
            return None
        if found is not None and found.content == self._written and not upstream:
            if found.peers != peers:
                amiss = f"the peers of {_OURS} were changed" if found.peers != self._peers else None
                self._peers = set(found.peers)
                await self.change_peers(peers, found.peers - peers)
            return amiss
        if self._written is not None:
            amiss = f"{_OURS} was {'gone' if found is None else 'changed'}"
        counters = found.counters if found is not None else {}
        await self._write(document(rules, peers, counters, upstream))
        written = await self.read()
        self._written = written.content if written is not None else ""
        self._peers = set(peers)
        return amiss

    async def change_peers(self, wanted: Collection[str], gone: Collection[str]) -> None:
        """Have these among the peers, and those not; on the word of the last `ensure`: quick.

        :raises FirewallError: nft refuses, perhaps because the table is not what it was.
        """
        add = [each for each in wanted if each not in self._peers]
        delete = [each for each in gone if each in self._peers]
        lines = [
            f"{verb} element ip {TABLE} peers {{ {', '.join(sorted(elements))} }}\n"
            for verb, elements in (("add", add), ("delete", delete))
            if elements
        ]
        if lines:
            await self._write("".join(lines))
        self._peers.update(add)
        self._peers.difference_update(delete)

    async def read(self) -> Found | None:
        """Our table; None if there is none.

        :raises FirewallError: nft refuses.
        """
        done = await programs.run(
            [self._program, "-j", "list", "table", "ip", TABLE], timeout=TIMEOUT
        )
        if done.status != 0 and b"No such file" in done.stderr:
            return None
        if done.status != 0:
            raise FirewallError(f"cannot list {_OURS}: {done.complaint}")
        return parse(done.stdout)

    async def _write(self, text: str) -> None:
        done = await programs.run([self._program, "-f", "-"], stdin=text.encode(), timeout=TIMEOUT)
        if done.status != 0:
            raise FirewallError(f"cannot write {_OURS}: {_first_line(done.stderr)}")

    async def _run(self, doing: str, *words: str) -> bytes:
        done = await programs.run([self._program, "-j", *words], timeout=TIMEOUT)
        if done.status != 0:
            raise FirewallError(f"cannot {doing} with nft: {_first_line(done.stderr)}")
        return done.stdout


def _first_line(stderr: bytes) -> str:
    """What nft complains of; below it is only where in the text that was."""
    return stderr.decode(errors="replace").strip().partition("\n")[0][:200] or "no reason given"
