"""Parses the output of ``nft -j list ruleset`` (libnftables-json(5)) into chains for `verdict`.

A statement that is not understood becomes a rule that may apply; no statement is an error.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from flannel.cli.rulesets import matches
from flannel.cli.rulesets.nft_matches import Elements, item, key_match, match
from flannel.cli.rulesets.verdict import Chain, Change, Match, Rule

_VERDICTS = {
    "accept": "accept",
    "continue": "continue",
    "drop": "drop",
    "reject": "drop",
    "return": "return",
    "masquerade": "masquerade",
    "snat": "masquerade",
}
_CONTINUING = {
    "counter", "ct expectation", "ct helper", "ct timeout", "dup", "flow", "last", "log", "mangle",
    "notrack", "secmark",
}  # fmt: skip
"""Statements after which the rule goes on, for every packet."""
_CONDITIONS = {"ct count", "limit", "map", "meter", "quota", "set"}
"""Statements after which the rule goes on for some packets."""
_FAMILIES = {"ip", "inet", "netdev"}

Chains = dict[str, dict[str, Chain]]


class NotARuleset(Exception):
    """Why a document cannot be read; a phrase without the document's name."""


def parse(text: str, *, skip: Collection[str] = ()) -> Chains:
    """The chains that IPv4 packets pass, by name, by ``nft <family> <table>``.

    :param skip: tables of family ip to leave out, as iptables-save shows them better.
    :raises NotARuleset: it is not such a document.
    """
    tables: Chains = {}
    elements: defaultdict[str, dict[str, list[Any]]] = defaultdict(dict)
    rules: list[tuple[str, str, Any]] = []
    for kind, body in _objects(text):
        family, table = body.get("family"), body.get("table")
        if family not in _FAMILIES or (family == "ip" and table in skip):
            continue
        where, name = f"nft {family} {table}", str(body.get("name"))
        if kind == "chain":
            tables.setdefault(where, {})[name] = _chain(body, where, name)
        elif kind in ("set", "map"):
            elements[where][name] = _list(body.get("elem"))
        elif kind == "rule":
            rules.append((where, str(body.get("chain")), body.get("expr")))
    for where, chain, expressions in rules:
        if chain in tables.get(where, {}):
            tables[where][chain].rules += _rules(_list(expressions), elements[where])
    return tables


def _objects(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        document = json.loads(text)
    except RecursionError:
        raise NotARuleset("it is nested too deeply") from None
    except ValueError as why:
        raise NotARuleset(f"it is not JSON: {why}") from None
    objects = document.get("nftables") if isinstance(document, dict) else None
    if not isinstance(objects, list):
        raise NotARuleset("it has no list nftables")
    for each in objects:
        kind, body = item(each)
        if not isinstance(body, dict):
            raise NotARuleset(f"it has an object without members: {json.dumps(each)[:60]}")
        yield kind, body


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _chain(body: dict[str, Any], table: str, name: str) -> Chain:
    priority, links = body.get("prio"), body.get("dev", [])
    return Chain(
        name,
        table,
        hook=str(body.get("hook", "")),
        kind="nat" if body.get("type") == "nat" else "filter",
        policy=str(body.get("policy", "accept")),
        priority=priority if isinstance(priority, int) else 0,
        links=frozenset(map(str, links if isinstance(links, list) else [links])),
    )


def _rules(statements: list[Any], elements: Elements) -> list[Rule]:
    """A rule as one `Rule`, or as several if it looks up a verdict in a map."""
    found: list[Match] = []
    target = "continue"
    changes: set[Change] = set()
    text = _text(statements)
    for each in statements:
        kind, body = item(each)
        if kind == "match":
            found.append(match(body, elements))
        elif kind == "vmap" and (entries := _entries(body, elements)) is not None:
            return [
                Rule((*found, key_match(body["key"], key)), _target(verdict), text,
                     frozenset(changes))
                for key, verdict in entries
            ]  # fmt: skip
        elif kind in _CONTINUING:
            changes |= _changes(kind, body)
            if kind == "mangle" and _rewrites(body):
                found.append(matches.unknown)
                target = "unknown"
        elif kind in _CONDITIONS:
            found.append(matches.unknown)
        else:
            found += _conditions(kind, body)
            target = _target(each)
    return [Rule(tuple(found), target, text, frozenset(changes))]


def _target(statement: Any) -> str:
    kind, body = item(statement)
    if kind in ("jump", "goto") and isinstance(body, dict) and isinstance(body.get("target"), str):
        return f"{kind} {body['target']}"
    return _VERDICTS.get(kind, "unknown")


def _conditions(kind: str, body: Any) -> list[Match]:
    """When a statement that may end the rule does so."""
    if kind == "reject":
        how = body.get("type") if isinstance(body, dict) else None
        if how == "icmpv6":  # of packets of that family only
            return [matches.never]
        return [matches.protocol("tcp")] if how == "tcp reset" else []
    return [] if kind in _VERDICTS or kind in ("jump", "goto") else [matches.unknown]


def _entries(body: Any, elements: Elements) -> list[tuple[Any, Any]] | None:
    """The keys and verdicts of a map, the one for all other keys at the end; None: not known."""
    if not isinstance(body, dict) or "key" not in body:
        return None
    data = body.get("data")
    if isinstance(data, str) and data.startswith("@"):
        entries = elements.get(data[1:])
    else:
        entries = data.get("set") if isinstance(data, dict) else None
    if not isinstance(entries, list):
        return None
    if not all(isinstance(each, list) and len(each) == 2 for each in entries):
        return None
    return sorted(((key, verdict) for key, verdict in entries), key=lambda each: each[0] == "*")


def _changes(kind: str, body: Any) -> set[Change]:
    if kind == "notrack":
        return {"tracked"}
    is_mark = kind == "mangle" and _mangled(body) in (("meta", "mark"), ("ct", "mark"))
    return {"mark"} if is_mark else set()


def _mangled(body: Any) -> tuple[str, Any]:
    kind, key = item(body.get("key")) if isinstance(body, dict) else ("", None)
    return kind, key.get("key", key.get("field")) if isinstance(key, dict) else None


def _rewrites(body: Any) -> bool:
    """Whether the statement changes the packet's destination or source."""
    kind, name = _mangled(body)
    return not (kind in ("meta", "ct", "tcp option") or name in ("dscp", "ttl", "ecn"))


def _text(statements: list[Any]) -> str:
    """A short text of a rule, for messages."""
    words = []
    for each in statements:
        kind, body = item(each)
        if kind == "match" and isinstance(body, dict):
            operator = body.get("op", "==")
            words.append(f"{_side(body.get('left'))} {operator} {_side(body.get('right'))}")
        elif kind == "vmap" and isinstance(body, dict):
            words.append(f"{_side(body.get('key'))} vmap")
        elif (target := _target(each)) != "unknown":
            words.append(target if kind in ("jump", "goto") else kind)
    return ", ".join(words)


def _side(value: Any) -> str:
    kind, body = item(value) if isinstance(value, dict) else ("", None)
    match kind, body:
        case "payload", {"protocol": protocol, "field": field}:
            return f"{protocol} {field}"
        case "meta" | "ct", {"key": key}:
            return f"{kind} {key}"
        case "prefix", {"addr": address, "len": length}:
            return f"{address}/{length}"
    return value if isinstance(value, str) else json.dumps(value)
