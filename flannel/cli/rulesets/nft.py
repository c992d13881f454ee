"""What ``nft -j list ruleset`` prints, as chains that `ruleset` understands."""

import json
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from flannel.cli.rulesets.verdict import Chain, Match, Packet, Rule, is_new, one_of, unknown

_VERDICTS = {
    "accept": "accept",
    "drop": "drop",
    "reject": "drop",
    "return": "return",
    "masquerade": "masquerade",
    "snat": "masquerade",
}
_PASSIVE = {"counter", "log", "limit", "mangle", "notrack", "ct helper", "meter"}
_PASSIVE_MATCHES = {"nfproto", "protocol"}

Sets = Mapping[str, list[Any]]


def parse(text: str, *, skip: Collection[str] = ()) -> dict[str, dict[str, Chain]]:
    """The tables for IPv4, by ``nft <family> <table>``.

    :param skip: tables of family ip to leave out: iptables-save shows its own better than nft.
    :raises ValueError: it is not such a document.
    """
    objects = json.loads(text)["nftables"]
    tables: dict[str, dict[str, Chain]] = {}
    sets: dict[str, dict[str, list[Any]]] = {}
    for each in objects:
        for kind, body in each.items():
            family, table = body.get("family"), body.get("table", "")
            if family not in ("ip", "inet") or kind not in ("set", "chain", "rule"):
                continue
            if family == "ip" and table in skip:
                continue
            name = f"nft {family} {table}"
            if kind == "set":
                sets.setdefault(name, {})[body["name"]] = body.get("elem", [])
            elif kind == "chain":
                tables.setdefault(name, {})[body["name"]] = _chain(body, name)
    for each in objects:
        body = each.get("rule", {})
        name = f"nft {body.get('family')} {body.get('table')}"
        chain = tables.get(name, {}).get(body.get("chain", ""))
        if chain is not None:
            chain.rules.append(_rule(body.get("expr", []), sets.get(name, {})))
    return tables


def _chain(body: dict[str, Any], table: str) -> Chain:
    priority = body.get("prio", 0)
    return Chain(
        body["name"],
        table,
        hook=body.get("hook", ""),
        kind="nat" if body.get("type") == "nat" else "filter",
        policy=body.get("policy", "accept"),
        priority=priority if isinstance(priority, int) else 0,
    )


def _rule(expressions: list[Any], sets: Sets) -> Rule:
    matches: list[Match] = []
    target = "continue"
    for each in expressions:
        kind, body = _expression(each)
        if kind == "match":
            matches.append(_match(body, sets))
        elif kind in ("jump", "goto"):
            target = f"{kind} {body['target']}"
        elif kind in _VERDICTS:
            target = _VERDICTS[kind]
        elif kind not in _PASSIVE:
            matches.append(unknown)
    return Rule(tuple(matches), target, _text(expressions))


def _expression(each: Any) -> tuple[str, Any]:
    """Its name and what it is about, which some do without."""
    return next(iter(each.items())) if isinstance(each, dict) else (str(each), {})


def _match(body: dict[str, Any], sets: Sets) -> Match:
    left, right, operator = body.get("left"), body.get("right"), body.get("op", "==")
    read = _reader(left)
    if operator not in ("==", "!=", "in") or read is None:
        return unknown
    values = _values(right, sets)
    if values is None:
        return unknown
    field, value_of = read
    if field == "ct state":
        match = is_new([str(value) for value in values])
    elif field == "link":
        fits_name = one_of([str(value) for value in values])

        def match(packet: Packet) -> bool | None:
            return fits_name(str(value_of(packet)))

    else:
        wanted = [_range(value) for value in values]

        def match(packet: Packet) -> bool | None:
            value = value_of(packet)
            fits = [each(value) if each is not None else None for each in wanted]
            return True if True in fits else None if None in fits else False

    return match if operator != "!=" else lambda packet: _inverted(match(packet))


def _inverted(fits: bool | None) -> bool | None:
    return None if fits is None else not fits


def _reader(left: Any) -> tuple[str, Callable[[Packet], Any]] | None:
    """What the left side of a match reads of a packet."""
    if not isinstance(left, dict):
        return None
    kind, body = next(iter(left.items()))
    if kind == "meta":
        readers: dict[str, tuple[str, Callable[[Packet], Any]]] = {
            "iifname": ("link", lambda packet: packet.came_in),
            "oifname": ("link", lambda packet: packet.goes_out),
            "iif": ("link", lambda packet: packet.came_in),
            "oif": ("link", lambda packet: packet.goes_out),
            "l4proto": ("word", lambda packet: packet.protocol),
            "nfproto": ("word", lambda _: "ipv4"),
            "protocol": ("word", lambda _: "ip"),
        }
        return readers.get(body.get("key", ""))
    if kind == "fib" and body == {"result": "oif", "flags": ["saddr", "iif"]}:
        # Of packets that are asked about; those of a forger do not come from where they say.
        return "word", lambda _: True
    if kind == "&" and body[0] == {"meta": {"key": "mark"}}:
        return "word", lambda _: 0  # nobody has marked it
    if kind == "ct" and body.get("key") == "state":
        return "ct state", lambda _: "new"
    if kind == "payload":
        fields: dict[tuple[str, str], tuple[str, Callable[[Packet], Any]]] = {
            ("ip", "saddr"): ("address", lambda packet: packet.source),
            ("ip", "daddr"): ("address", lambda packet: packet.destination),
            ("ip", "protocol"): ("word", lambda packet: packet.protocol),
            ("udp", "dport"): ("port", lambda p: p.port if p.protocol == "udp" else -1),
            ("tcp", "dport"): ("port", lambda p: p.port if p.protocol == "tcp" else -1),
        }
        return fields.get((body.get("protocol", ""), body.get("field", "")))
    return None


def _values(right: Any, sets: Sets) -> list[Any] | None:
    if isinstance(right, dict) and "set" in right:
        return list(right["set"]) if isinstance(right["set"], list) else [right["set"]]
    if isinstance(right, str) and right.startswith("@"):
        return sets.get(right[1:])
    return right if isinstance(right, list) else [right]


def _range(value: Any) -> Callable[[Any], bool] | None:
    """Whether something is ``value``, or in it; None: that is not understood."""
    if isinstance(value, dict):
        if "elem" in value:
            return _range(value["elem"].get("val"))
        if "prefix" in value:
            try:
                network = IPv4Network(f"{value['prefix']['addr']}/{value['prefix']['len']}")
            except ValueError:
                return None
            return lambda found: isinstance(found, IPv4Address) and found in network
        if "range" in value:
            low, high = (_scalar(each) for each in value["range"])
            if type(low) is not type(high):
                return None
            return lambda found: type(found) is type(low) and low <= found <= high
        return None
    wanted = _scalar(value)
    return lambda found: bool(found == wanted)


def _scalar(value: Any) -> Any:
    try:
        return IPv4Address(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _text(expressions: list[Any]) -> str:
    """A rule in few words, for messages."""
    words = []
    for each in expressions:
        kind, body = _expression(each)
        if kind == "match":
            words.append(f"{_side(body.get('left'))} {body.get('op')} {_side(body.get('right'))}")
        elif kind in ("jump", "goto"):
            words.append(f"{kind} {body['target']}")
        elif kind in _VERDICTS:
            words.append(kind)
    return ", ".join(words)


def _side(value: Any) -> str:
    if isinstance(value, dict):
        kind, body = next(iter(value.items()))
        if kind == "payload":
            return f"{body.get('protocol')} {body.get('field')}"
        if kind in ("meta", "ct"):
            return f"{kind} {body.get('key')}"
        if kind == "prefix":
            return f"{body.get('addr')}/{body.get('len')}"
        return json.dumps(value)
    return str(value)
