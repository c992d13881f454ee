"""Finds other programs' rules that use the guard's bit of the packet mark. Pure.

A rule that sets the bit lets packets pass that the tunnel did not send. A rule that matches the bit
matches the tunnel's packets. Rules that keep or clear the bit do no harm: the guard sets the bit
after all other rules, and reads it before all others but those of the table ``raw``.
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
    """Those rules as ``iptables-save`` prints them, each after the name of its program."""
    return [
        f"{each.program}: {line}"
        for each in saved
        for line in each.text.splitlines()
        if line.startswith("-A ")
        and not line.startswith("-A FLANNEL-")
        and any(int(value, 0) & bit for value in _OPTION.findall(line))
    ]


def in_nft(document: str, bit: int, skip: Collection[str] = ()) -> list[str]:
    """The chains of those rules.

    :param document: the output of ``nft -j list ruleset``.
    :param skip: tables of family ip that `in_iptables` has examined.
    :raises ValueError: ``document`` is not JSON.
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
    """The numbers that a match compares with a mark, or that a statement writes to one."""
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
    """All numbers in ``value`` but masks, which only select the bits that stay."""
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
