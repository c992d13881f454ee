"""What iptables-save prints, as chains that `ruleset` understands."""

import shlex
from collections.abc import Callable
from ipaddress import IPv4Network

from flannel.cli.rulesets.verdict import Chain, Match, Packet, Rule, is_new, one_of, unknown

_HOOKS = {"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output", "POSTROUTING": "postrouting"}
_TARGETS = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "drop",
    "RETURN": "return",
    "MASQUERADE": "masquerade",
    "SNAT": "masquerade",
}
_PASSIVE = {"LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "CT", "TRACE", "CHECKSUM", "SET"}
_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50, "nat": 100}


def parse(text: str, tool: str) -> dict[str, dict[str, Chain]]:
    """The tables in ``text``, by ``<tool> <table>``."""
    tables: dict[str, dict[str, Chain]] = {}
    chains: dict[str, Chain] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
            chains = tables.setdefault(f"{tool} {table}", {})
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            chains[name] = Chain(
                name,
                f"{tool} {table}",
                hook=_HOOKS.get(name, "") if policy != "-" else "",
                kind="nat" if table == "nat" else "filter",
                policy=policy.lower() if policy != "-" else "accept",
                priority=_PRIORITIES.get(table, 0),
            )
        elif line.startswith("-A "):
            words = shlex.split(line)
            if words[1] in chains:
                chains[words[1]].rules.append(_rule(words[2:], line))
    return tables


def _rule(words: list[str], text: str) -> Rule:
    matches: list[Match] = []
    target = "continue"
    rest = iter(words)
    negated = False
    for word in rest:
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            name = next(rest, "")
            verb = "goto" if word == "-g" else "jump"
            target = _TARGETS.get(name) or ("continue" if name in _PASSIVE else f"{verb} {name}")
            break  # what follows belongs to the target
        if word in ("-m", "--comment"):
            next(rest, "")
            continue
        match = _match(word, next(rest, "")) if word in _MATCHES else unknown
        matches.append(_not(match) if negated else match)
        negated = False
    return Rule(tuple(matches), target, text)


def _match(word: str, value: str) -> Match:
    return _MATCHES[word](value)


def _not(match: Match) -> Match:
    def inverted(packet: Packet) -> bool | None:
        fits = match(packet)
        return None if fits is None else not fits

    return inverted


def _source(value: str) -> Match:
    network = IPv4Network(value, strict=False)
    return lambda packet: packet.source in network


def _destination(value: str) -> Match:
    network = IPv4Network(value, strict=False)
    return lambda packet: packet.destination in network


def _came_in(value: str) -> Match:
    fits = one_of([value])
    return lambda packet: fits(packet.came_in)


def _goes_out(value: str) -> Match:
    fits = one_of([value])
    return lambda packet: fits(packet.goes_out)


def _ports(value: str) -> Match:
    low, _, high = value.partition(":")
    if not low.isdigit() or (high and not high.isdigit()):
        return unknown
    return lambda packet: int(low) <= packet.port <= int(high or low)


def _port_list(value: str) -> Match:
    each = [_ports(part) for part in value.split(",")]
    return lambda packet: any(match(packet) for match in each)


_MATCHES: dict[str, Callable[[str], Match]] = {
    "-s": _source,
    "-d": _destination,
    "-i": _came_in,
    "-o": _goes_out,
    "-p": lambda value: lambda packet: packet.protocol == value,
    "--dport": _ports,
    "--dports": _port_list,
    "--ctstate": lambda value: is_new(value.split(",")),
    "--state": lambda value: is_new(value.split(",")),
}
