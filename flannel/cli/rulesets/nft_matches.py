"""Parses the matches in the JSON output of nft (libnftables-json(5)).

A match reads a field of the packet (`_field`) and compares it with values (`_is_value`). Where a
packet has no such field, nft ends the rule, with any operator: `ABSENT`.
"""

from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import Any, Final, NamedTuple

from flannel.cli.rulesets import matches
from flannel.cli.rulesets.verdict import Match, Sight

Elements = Mapping[str, Sequence[Any]]
"""The elements of the sets and maps of a table, by name."""

ABSENT: Final = object()

Field = Callable[[Sight], Any]
"""Reads a str, int, bool or IPv4Address, or a tuple of them; None: not known; `ABSENT`: none."""

Test = Callable[[Any], bool | None]


def item(expression: Any) -> tuple[str, Any]:
    """The name of an expression or statement, and its content, which some lack."""
    if isinstance(expression, dict) and len(expression) == 1:
        ((name, body),) = expression.items()
        return str(name), body
    return (expression, None) if isinstance(expression, str) else ("", None)


def match(body: Any, sets: Elements) -> Match:
    """A ``match`` statement."""
    if not isinstance(body, dict):
        return matches.unknown
    operator = body.get("op", "==")
    flags = _tcp_flags(body.get("left"), operator, body.get("right"))
    if flags is not None:
        return flags
    field = _field(body.get("left"))
    test = _comparison(operator, body.get("right"), sets)
    if field is None or test is None:
        return matches.unknown
    return _match(field, test)


def _tcp_flags(left: Any, operator: str, right: Any) -> Match | None:
    """``tcp flags syn / fin,syn,rst,ack``, ``tcp flags & (fin | syn) == syn``; None: another."""
    name, body = item(left)
    mask: Any = [*_TCP_FLAGS]
    if name == "&" and isinstance(body, list) and len(body) == 2:
        left, mask = body
    if item(left) != ("payload", {"protocol": "tcp", "field": "flags"}):
        return None
    masked, wanted = _names(mask), _names(right)
    if masked is None or wanted is None or not wanted | masked <= _TCP_FLAGS:
        return matches.unknown
    if operator == "!":  # none of them is set
        return matches.tcp_flags(wanted & masked, ())
    if operator == "in":  # any of them is set
        return matches.protocol("tcp") if "syn" in wanted & masked else matches.never
    if operator == "!=":
        equal = matches.tcp_flags(masked, wanted)
        return lambda sight: sight.packet.protocol == "tcp" and not equal(sight)
    return matches.tcp_flags(masked, wanted) if operator == "==" else matches.unknown


def _names(value: Any) -> set[str] | None:
    """The names in ``"syn"``, ``["syn", "ack"]``, ``{"|": ["syn", "ack"]}``; None: others."""
    if isinstance(value, str):
        return {value}
    if value == 0 and not isinstance(value, bool):
        return set()
    parts = value.get("|") if isinstance(value, dict) and len(value) == 1 else value
    if not isinstance(parts, list):
        return None
    found: set[str] = set()
    for part in parts:
        names = _names(part)
        if names is None:
            return None
        found |= names
    return found


_TCP_FLAGS = {"fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"}


def key_match(left: Any, value: Any) -> Match:
    """A verdict map's key, looked up in the map, is ``value``."""
    field = _field(left)
    return matches.unknown if field is None else _match(field, _is_value(value))


def _match(field: Field, test: Test) -> Match:
    def fits(sight: Sight) -> bool | None:
        found = field(sight)
        if found is None:
            return None
        return False if found is ABSENT else test(found)

    return fits


def _comparison(operator: Any, right: Any, sets: Elements) -> Test | None:
    if operator in ("<", ">", "<=", ">="):
        return _order(operator, right)
    if operator not in ("==", "!=", "in") or (operator != "in" and isinstance(right, list)):
        return None  # a list of flags: == means exactly these
    values = _values(right, sets)
    if values is None:
        return None
    tests = [_is_value(value) for value in values]

    def is_one(found: Any) -> bool | None:
        answers = [test(found) for test in tests]
        return True if True in answers else None if None in answers else False

    if operator != "!=":
        return is_one

    def is_none(found: Any) -> bool | None:
        answer = is_one(found)
        return None if answer is None else not answer

    return is_none


def _order(operator: str, right: Any) -> Test:
    def is_so(found: Any) -> bool | None:
        limit = _like(found, right)
        if limit is None or not isinstance(found, int | IPv4Address):
            return None
        low, high = int(found), int(limit)
        return {"<": low < high, ">": low > high, "<=": low <= high, ">=": low >= high}[operator]

    return is_so


def _values(right: Any, sets: Elements) -> Sequence[Any] | None:
    if isinstance(right, dict) and "set" in right:
        right = right["set"]
    if isinstance(right, str) and right.startswith("@"):
        return sets.get(right[1:])
    return right if isinstance(right, list) else [right]


def _is_value(value: Any) -> Test:
    """Whether something is ``value``, or in it."""
    name, body = item(value) if isinstance(value, dict) else ("", None)
    match name, body:
        case "elem", {"val": inner}:
            return _is_value(inner)
        case "prefix", {"addr": str(address), "len": int(length)} if 0 <= length <= 32:
            return _in_prefix(address, length)
        case "range", [low, high]:
            return _in_range(low, high)
        case "concat", list(parts):
            return _all_of([_is_value(part) for part in parts])
    if isinstance(value, dict | list):
        return lambda _: None
    if value == "*":  # the wildcard: values in no other element
        return lambda _: True

    def is_it(found: Any) -> bool | None:
        if isinstance(found, _Ports):
            return found.within(value, value)
        wanted = _like(found, value)
        return None if wanted is None else bool(found == wanted)

    return is_it


def _all_of(tests: Sequence[Test]) -> Test:
    """Of a tuple, each part passes its test."""

    def are_so(found: Any) -> bool | None:
        if type(found) is not tuple or len(found) != len(tests):
            return None
        pairs = zip(tests, found, strict=True)
        answers = [None if part is None else test(part) for test, part in pairs]
        return False if False in answers else None if None in answers else True

    return are_so


def _in_prefix(address: str, length: int) -> Test:
    mask = matches.ALL_BITS << (32 - length) & matches.ALL_BITS

    def is_in(found: Any) -> bool | None:
        wanted = _like(found, address)
        if not isinstance(found, IPv4Address) or wanted is None:
            return None
        return int(found) & mask == int(wanted) & mask

    return is_in


def _in_range(low: Any, high: Any) -> Test:
    def is_in(found: Any) -> bool | None:
        if isinstance(found, _Ports):
            return found.within(low, high)
        first, last = _like(found, low), _like(found, high)
        if not isinstance(found, int | IPv4Address) or first is None or last is None:
            return None
        return int(first) <= int(found) <= int(last)

    return is_in


_OTHER_NAMES = {**matches.PROTOCOLS, "host": "unicast"}


def _like(found: Any, value: Any) -> Any:
    """``value`` in the form in which fields like ``found`` come; None: it has none."""
    match found, value:
        case IPv4Address(), str():
            try:
                return IPv4Address(value)
            except ValueError:
                return None
        case bool(), bool():
            return value
        case int(), int() if not isinstance(found, bool) and not isinstance(value, bool):
            return value
        case _LinkName(), str():
            return found if matches.links([value])(found) else ""
        case _LinkName(), int():
            return ""  # the index of a removed link
        case str(), str() | int():
            return _OTHER_NAMES.get(str(value), str(value))
    return None


class _Ports(NamedTuple):
    """The source ports that a packet may have."""

    first: int
    last: int

    def within(self, low: Any, high: Any) -> bool | None:
        """Whether they all are in a range; None: not known."""
        if type(low) is not int or type(high) is not int:
            return None
        return matches.within(self, [(low, high)])


class _LinkName(str):
    """Compared with patterns."""

    __slots__ = ()


def _field(left: Any) -> Field | None:
    """What the left side of a match reads; None: not understood."""
    name, body = item(left)
    match name, body:
        case "meta", {"key": str(key)}:
            return _META.get(key)
        case "ct", {"key": str(key)} if "dir" not in body:
            return _CT.get(key)
        case "fib", {"result": "type", "flags": ["saddr"]}:
            return lambda sight: matches.address_type(sight.packet, "source")
        case "fib", {"result": "type", "flags": ["daddr"]}:
            return lambda sight: matches.address_type(sight.packet, "destination")
        case "fib", {"result": "oif", "flags": ["saddr", "iif"] | ["saddr", "mark", "iif"]}:
            # A packet with its true source comes in by the link that leads to that source.
            return lambda _: True
        case "payload", {"protocol": str(protocol), "field": str(field)}:
            return _payload(protocol, field)
        case "concat", list(parts):
            return _joined([_field(part) for part in parts])
        case "&", [inner, mask]:
            return _masked(inner, mask)
    return None


def _link_name(name: str | None) -> Any:
    return ABSENT if name is None else _LinkName(name)


def _state(sight: Sight) -> str | None:
    tracked = sight.packet.tracked
    return None if tracked is None else "new" if tracked else "untracked"


def _of_connection(value: Any) -> Field:
    """A field that packets without a connection do not have."""

    def read(sight: Sight) -> Any:
        return value if sight.packet.tracked else None if sight.packet.tracked is None else ABSENT

    return read


_META: dict[str, Field] = {
    "iifname": lambda sight: _link_name(sight.link_in),
    "oifname": lambda sight: _link_name(sight.link_out),
    "iif": lambda sight: _link_name(sight.link_in),
    "oif": lambda sight: _link_name(sight.link_out),
    "l4proto": lambda sight: sight.packet.protocol,
    "nfproto": lambda _: "ipv4",
    "protocol": lambda _: "ip",
    "mark": lambda sight: sight.packet.mark,
    "pkttype": lambda _: "unicast",
}
_CT: dict[str, Field] = {
    "state": _state,
    "status": _of_connection("none"),  # its addresses are not translated yet
    "direction": _of_connection("original"),
    "mark": lambda sight: sight.packet.mark,
}
_PAYLOAD: dict[tuple[str, str], Field] = {
    ("ip", "saddr"): lambda sight: sight.packet.source,
    ("ip", "daddr"): lambda sight: sight.packet.destination,
    ("ip", "protocol"): lambda sight: sight.packet.protocol,
    ("ip", "frag-off"): lambda _: 0x4000,  # not to be fragmented, and no fragment (RFC 791)
    ("icmp", "type"): lambda _: "echo-request",
    ("tcp", "dport"): lambda sight: sight.packet.port,
    ("udp", "dport"): lambda sight: sight.packet.port,
    ("tcp", "sport"): lambda sight: _Ports(*sight.packet.source_ports),
    ("udp", "sport"): lambda sight: _Ports(*sight.packet.source_ports),
    ("th", "sport"): lambda sight: (
        _Ports(*sight.packet.source_ports) if sight.packet.protocol in ("tcp", "udp") else None
    ),
    ("th", "dport"): lambda sight: (
        sight.packet.port if sight.packet.protocol in ("tcp", "udp") else None
    ),
}
_TRANSPORTS = {"ah", "comp", "dccp", "esp", "icmp", "igmp", "sctp", "tcp", "udp", "udplite"}
_NOT_IPV4 = {"arp", "icmpv6", "ip6", "mld"}


def _payload(protocol: str, name: str) -> Field | None:
    if protocol in _NOT_IPV4:
        return lambda _: ABSENT
    read = _PAYLOAD.get((protocol, name))
    if protocol not in _TRANSPORTS:
        return read

    def read_own(sight: Sight) -> Any:
        if sight.packet.protocol != protocol:
            return ABSENT
        return read(sight) if read is not None else None

    return read_own


def _joined(fields: Sequence[Field | None]) -> Field:
    """``ip daddr . tcp dport``; a part that is not known is None."""

    def read(sight: Sight) -> Any:
        values = tuple(field(sight) if field is not None else None for field in fields)
        return ABSENT if ABSENT in values else values

    return read


def _masked(inner: Any, mask: Any) -> Field | None:
    """``ip saddr & 255.0.255.0``, ``meta mark & 0xff00``."""
    read = _field(inner)
    if read is None:
        return None

    def value(sight: Sight) -> Any:
        found = read(sight)
        if found is ABSENT or found is None:
            return found
        bits = _like(found, mask)
        if bits is None or not isinstance(found, int | IPv4Address):
            return None
        masked = int(found) & int(bits)
        return IPv4Address(masked) if isinstance(found, IPv4Address) else masked

    return value
