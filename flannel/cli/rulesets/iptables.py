"""Parses the output of iptables-save into chains for `verdict`.

A line that is not understood becomes a rule that may apply; no line is an error.
"""

import shlex
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from typing import Literal

from flannel.cli.rulesets import matches
from flannel.cli.rulesets.verdict import Chain, Change, Match, Rule, Sight

_HOOKS = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
_TARGETS = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "drop",
    "RETURN": "return",
    "MASQUERADE": "masquerade",
    "SNAT": "masquerade",
}
_CONTINUING = {
    "AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "ECN", "HL", "LED",
    "LOG", "MARK", "NFLOG", "NOTRACK", "RATEEST", "SECMARK", "SET", "TCPMSS", "TCPOPTSTRIP", "TEE",
    "TOS", "TRACE", "TTL", "ULOG",
}  # fmt: skip
"""Targets after which the next rule follows (iptables-extensions(8))."""
_CHANGES: dict[str, frozenset[Change]] = {
    "MARK": frozenset({"mark"}),
    "CONNMARK": frozenset({"mark"}),
    "CT": frozenset({"tracked"}),
    "NOTRACK": frozenset({"tracked"}),
}
_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50, "nat": 100}
"""The order of the tables at one hook (linux/netfilter_ipv4.h)."""


def parse(text: str, program: str) -> dict[str, dict[str, Chain]]:
    """The chains in ``text`` by name, by ``<program> <table>``."""
    tables: dict[str, dict[str, Chain]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
            tables.setdefault(f"{program} {table}", {})
        elif line.startswith(":") and table:
            chain = _chain(line[1:], f"{program} {table}", table)
            tables[chain.table][chain.name] = chain
        elif line.startswith("-A ") and table:
            name, _, rest = line[3:].partition(" ")
            if name in tables[f"{program} {table}"]:
                tables[f"{program} {table}"][name].rules.append(_rule(rest, line))
    return tables


def _chain(text: str, where: str, table: str) -> Chain:
    """A line like ``FORWARD DROP [0:0]``; a policy of ``-`` is that of a chain without a hook."""
    name, _, rest = text.partition(" ")
    policy = rest.partition(" ")[0]
    is_base = policy not in ("-", "") and name in _HOOKS
    return Chain(
        name,
        where,
        hook=name.lower() if is_base else "",
        kind="nat" if table == "nat" else "filter",
        policy=policy.lower() if is_base else "accept",
        priority=_PRIORITIES.get(table, 0),
    )


def _rule(text: str, line: str) -> Rule:
    try:
        words = _Words(shlex.split(text))
    except ValueError:  # an open quotation
        return Rule((matches.unknown,), "unknown", line)
    found: list[Match] = []
    negated = False
    while (word := words.next()) is not None:
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):  # the words after its name are the target's options
            name = words.next() or ""
            target = _target(name, "goto" if word == "-g" else "jump")
            return Rule(tuple(found), target, line, _CHANGES.get(name, frozenset()))
        if word == "-m":
            # Others may restrict a rule without an option, such as socket.
            module = words.next() or ""
            if module not in _MODULES:
                found.append(_BY_MODULE.get(module, matches.unknown))
            continue
        if word == "--invert" and found and found[-1] is _rpfilter:
            found[-1] = matches.never
            continue
        match = _read(word, words)
        if match is not None:
            found.append(matches.inverted(match) if negated else match)
        negated = False
    return Rule(tuple(found), "continue", line)


class _Words:
    """The words of a rule, from left to right."""

    def __init__(self, words: list[str]) -> None:
        self._rest = iter(words)

    def next(self) -> str | None:
        """The next word; None at the end."""
        return next(self._rest, None)


def _target(name: str, verb: str) -> str:
    if verb == "goto":
        return f"goto {name}"
    return _TARGETS.get(name) or ("continue" if name in _CONTINUING else f"jump {name}")


def _read(option: str, words: _Words) -> Match | None:
    """The match of an option and its value; None: it restricts nothing."""
    if option == "--comment":
        words.next()
        return None
    if option in _WITHOUT_VALUE:
        return _WITHOUT_VALUE[option]
    if option == "--tcp-flags":
        return _tcp_flags(words.next() or "", words.next() or "")
    reader = _OPTIONS.get(option)
    if reader is None:
        return matches.unknown
    value = words.next()
    try:
        return reader(value) if value is not None else matches.unknown
    except ValueError:
        return matches.unknown


def _address(side: Literal["source", "destination"], value: str) -> Match:
    """``10.1.0.0/16``; the mask may be written as an address, with bits in any order."""
    address, _, mask = value.partition("/")
    if not mask or mask.isdecimal():
        length = int(mask or 32)
        if length > 32:
            raise ValueError(value)
        bits = matches.ALL_BITS << (32 - length) & matches.ALL_BITS
    else:
        bits = int(IPv4Address(mask))
    return matches.address(side, int(IPv4Address(address)), bits)


def _range(side: Literal["source", "destination"], value: str) -> Match:
    low, _, high = value.partition("-")
    ends = int(IPv4Address(low)), int(IPv4Address(high or low))

    def fits(sight: Sight) -> bool | None:
        found: IPv4Address = getattr(sight.packet, side)
        return ends[0] <= int(found) <= ends[1]

    return fits


def _link(side: Literal["link_in", "link_out"], value: str) -> Match:
    is_one = matches.links([value])
    return lambda sight: is_one(getattr(sight, side) or "")


def _protocol(value: str) -> Match:
    return (lambda _: True) if value in ("all", "0") else matches.protocol(value)


def _ranges(value: str) -> list[tuple[int, int]]:
    """``80``, ``80:90``, or several with commas between them."""
    ranges = []
    for part in value.split(","):
        low, _, high = part.partition(":")
        ranges.append((int(low), int(high or low)))
    return ranges


def _ports(value: str) -> Match:
    ranges = _ranges(value)
    return lambda sight: any(low <= sight.packet.port <= high for low, high in ranges)


def _source_ports(value: str) -> Match:
    return matches.source_port(_ranges(value))


def _tcp_flags(mask: str, wanted: str) -> Match:
    """``FIN,SYN,RST,ACK SYN``."""
    flags = [
        ([] if text == "NONE" else _ALL_FLAGS if text == "ALL" else text.split(","))
        for text in (mask, wanted)
    ]
    if not all(name in _ALL_FLAGS for names in flags for name in names):
        return matches.unknown
    return matches.tcp_flags(*flags)


def _status(value: str) -> Match:
    """The first packet of a connection: nothing is translated, no answer was seen."""

    def fits(sight: Sight) -> bool | None:
        if not sight.packet.tracked:
            return None if sight.packet.tracked is None else False
        return "NONE" in value.upper().split(",")

    return fits


def _mark(value: str) -> Match:
    wanted, _, mask = value.partition("/")
    return matches.mark(int(wanted, 0), int(mask, 0) if mask else matches.ALL_BITS)


def _address_type(side: Literal["source", "destination"], value: str) -> Match:
    wanted = value.lower().split(",")
    return lambda sight: matches.address_type(sight.packet, side) in wanted


def _icmp_type(value: str) -> Match:
    """The first packet of a connection is an echo request."""
    return lambda _: value in ("8", "8/0", "any", "255")


_ALL_FLAGS = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"]


def _rpfilter(_: Sight) -> bool | None:
    """A packet with its true source comes in by the link that leads to that source."""
    return True


_WITHOUT_VALUE: dict[str, Match | None] = {
    "--loose": None,  # of rpfilter, as the next two
    "--validmark": None,
    "--accept-local": None,
    "--syn": matches.tcp_flags([*_ALL_FLAGS[:3], "ACK"], ["SYN"]),
    "-f": matches.never,  # a fragment
    "--physdev-is-bridged": matches.never,
}
_BY_MODULE: dict[str, Match] = {"rpfilter": _rpfilter}
"""Match extensions that restrict a rule without an option."""
_OPTIONS: dict[str, Callable[[str], Match]] = {
    "-s": partial(_address, "source"),
    "-d": partial(_address, "destination"),
    "-i": partial(_link, "link_in"),
    "-o": partial(_link, "link_out"),
    "-p": _protocol,
    "--dport": _ports,
    "--dports": _ports,
    "--sport": _source_ports,
    "--sports": _source_ports,
    "--ctstatus": _status,
    "--ctdir": lambda value: matches.always if value == "ORIGINAL" else matches.never,
    "--pkt-type": lambda value: matches.always if value == "unicast" else matches.never,
    "--ctstate": lambda value: matches.state(value.split(",")),
    "--state": lambda value: matches.state(value.split(",")),
    "--mark": _mark,
    "--src-type": partial(_address_type, "source"),
    "--dst-type": partial(_address_type, "destination"),
    "--src-range": partial(_range, "source"),
    "--dst-range": partial(_range, "destination"),
    "--icmp-type": _icmp_type,
}
_MODULES = {
    "addrtype", "comment", "connmark", "conntrack", "icmp", "iprange", "mark", "multiport",
    "physdev", "pkttype", "state", "tcp", "udp",
}  # fmt: skip
"""Match extensions that check nothing beyond their options."""
