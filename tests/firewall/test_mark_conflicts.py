"""Rules of others that use the guard's bit of the packet mark."""

import json
from typing import Any

import pytest

from flannel.firewall.listing import Saved
from flannel.firewall.mark_conflicts import in_iptables, in_nft

BIT = 0x10000000
MARK = {"meta": {"key": "mark"}}


@pytest.mark.parametrize(
    ("rule", "conflicts"),
    [
        ("-A OUTPUT -j MARK --set-xmark 0x10000000/0x10000000", True),
        ("-A OUTPUT -j MARK --set-xmark 0x30000001/0xffffffff", True),
        ("-A OUTPUT -m mark --mark 0x10000000/0x10000000 -j ACCEPT", True),
        ("-A OUTPUT -m connmark --mark 268435456 -j ACCEPT", True),
        ("-A OUTPUT -j MARK --set-xmark 0x4000/0x4000", False),
        ("-A OUTPUT -j MARK --set-xmark 0x1/0xffffffff", False),
        ("-A OUTPUT -m mark --mark 0x0/0x10000000 -j ACCEPT", False),
        ("-A FLANNEL-MARK -o flannel.1 -j MARK --set-xmark 0x10000000/0x10000000", False),
        ("-A OUTPUT -p udp --dport 8472 -j ACCEPT", False),
    ],
)
def test_rules_of_iptables_that_set_or_match_the_bit_are_conflicts(
    rule: str, conflicts: bool
) -> None:
    saved = Saved("iptables", False, f"*mangle\n{rule}\nCOMMIT\n")
    assert in_iptables([saved], BIT) == ([f"iptables: {rule}"] if conflicts else [])


@pytest.mark.parametrize(
    ("expression", "conflicts"),
    [
        ({"mangle": {"key": MARK, "value": BIT}}, True),
        ({"mangle": {"key": {"ct": {"key": "mark"}}, "value": BIT | 1}}, True),
        ({"mangle": {"key": MARK, "value": {"|": [{"&": [MARK, 0xF0000000]}, BIT]}}}, True),
        ({"match": {"op": "==", "left": MARK, "right": {"set": [1, BIT]}}}, True),
        ({"match": {"op": "==", "left": {"&": [MARK, BIT]}, "right": BIT}}, True),
        ({"mangle": {"key": MARK, "value": 1}}, False),
        ({"mangle": {"key": MARK, "value": {"|": [{"&": [MARK, 0xFFFF00FF]}, 0x100]}}}, False),
        ({"match": {"op": "==", "left": {"&": [MARK, BIT]}, "right": 0}}, False),
        ({"match": {"op": "==", "left": {"meta": {"key": "skuid"}}, "right": BIT}}, False),
        ({"drop": None}, False),
    ],
)
def test_rules_of_nft_that_set_or_match_the_bit_are_conflicts(
    expression: Any, conflicts: bool
) -> None:
    def listed(table: str) -> str:
        rule = {"family": "ip", "table": table, "chain": "c", "expr": [expression]}
        return json.dumps({"nftables": [{"metainfo": {}}, {"rule": rule}]})

    assert in_nft(listed("other"), BIT) == (["nft ip other c"] if conflicts else [])
    assert in_nft(listed("flannel"), BIT) == []
    assert in_nft(listed("mangle"), BIT, skip={"mangle"}) == []
