"""Which rules of others use the bit of the packet mark that the guard uses. Pure.

A rule that sets the bit lets packets through that the tunnel has not sent; one that looks for it
finds the tunnel's. Rules that only leave the bit as it is, or clear it, do no harm: the guard sets
it after and reads it before all but the rules of the table ``raw``.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from flannel.firewall.listing import Saved
from flannel.firewall.nft_table import TABLE

_OPTION = re.compile(
    r"--(?:mark|set-mark|set-xmark|or-mark|xor-mark) (0x[0-9a-fA-F]+|[0-9]+)(?:/|\s|$)"
)
_MARKS = ({"meta": {"key": "mark"}}, {"ct": {"key": "mark"}})


def in_iptables(saved: Iterable[Saved], bit: int) -> list[str]:
    """The rules as ``iptables-save`` prints them, each with its program."""
    return [
        f"{each.program}: {line}"
        for each in saved
        for line in each.text.splitlines()
        if line.startswith("-A ")
        and not line.startswith("-A FLANNEL-")
        and any(int(value, 0) & bit for value in _OPTION.findall(line))
    ]


def in_nft(document: str, bit: int, skip: Collection[str] = ()) -> list[str]:
    """The chains of rules in what ``nft -j list ruleset`` prints.

    :param skip: tables of family ip that `in_iptables` has looked at.
    :raises ValueError: it is not such a document.
    """
    found = []
    for each in json.loads(document)["nftables"]:
        rule = each.get("rule") if isinstance(each, dict) else None
        if not isinstance(rule, dict):
            continue
        family, table = rule.get("family"), rule.get("table")
        if family == "ip" and table in (TABLE, *skip):
            continue
        if any(number & bit for part in rule.get("expr", ()) for number in _numbers(part)):
            found.append(f"nft {family} {table} {rule.get('chain')}")
    return list(dict.fromkeys(found))


def _numbers(expression: Any) -> Iterator[int]:
    """Those that a match compares a mark with, or a statement sets in one."""
    match expression:
        case {"match": {"left": left, "right": right}} if _reads_mark(left):
            yield from _integers(right)
        case {"mangle": {"key": key, "value": value}} if key in _MARKS:
            yield from _integers(value)


def _reads_mark(value: Any) -> bool:
    if value in _MARKS:
        return True
    return isinstance(value, dict) and any(
        _reads_mark(part) for parts in value.values() if isinstance(parts, list) for part in parts
    )


def _integers(value: Any) -> Iterator[int]:
    """All in it but masks, which only say which bits stay."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _integers(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if name != "&":
                yield from _integers(each)
            elif isinstance(each, list):
                yield from (n for part in each if isinstance(part, dict) for n in _integers(part))
