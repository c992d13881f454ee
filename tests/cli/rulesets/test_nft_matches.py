"""Matches of nft that look at TCP flags, source ports and the like, as nft 1.0.6 prints them."""

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from flannel.cli.rulesets import nft
from flannel.cli.rulesets.verdict import FORWARDED, Chains, Packet, judge

OPENS = Packet(IPv4Address("10.1.5.2"), IPv4Address("10.1.9.2"), "docker0", "flannel.1", "tcp")


def match(left: Any, right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"left": left, "op": op, "right": right}}


def one_rule(statement: dict[str, Any]) -> Chains:
    """A chain that drops what fits, and accepts all else."""
    where = {"family": "inet", "table": "t"}
    chain = {**where, "name": "c", "type": "filter", "hook": "forward", "prio": 0,
             "policy": "accept"}  # fmt: skip
    rule = {**where, "chain": "c", "expr": [statement, {"drop": None}]}
    return nft.parse(json.dumps({"nftables": [{"chain": chain}, {"rule": rule}]}))


TCP_FLAGS = {"payload": {"protocol": "tcp", "field": "flags"}}
OPENING = ["fin", "syn", "rst", "ack"]
TCP_SPORT = {"payload": {"protocol": "tcp", "field": "sport"}}


@pytest.mark.parametrize(
    ("statement", "fits"),
    [
        (match({"&": [TCP_FLAGS, OPENING]}, "syn"), True),
        (match({"&": [TCP_FLAGS, {"|": [{"|": ["fin", "syn"]}, "ack"]}]}, "syn", "!="), False),
        (match({"&": [TCP_FLAGS, ["fin", "syn"]]}, ["fin", "syn"]), False),
        (match({"&": [TCP_FLAGS, ["fin", "ack"]]}, 0), True),
        (match(TCP_FLAGS, "syn", "in"), True),
        (match(TCP_FLAGS, ["fin", "ack"], "in"), False),
        (match(TCP_FLAGS, ["fin", "syn"], "!"), False),
        (match(TCP_FLAGS, ["fin", "ack"], "!"), True),
        (match(TCP_SPORT, {"range": [1024, 65535]}), True),
        (match(TCP_SPORT, {"set": [22, {"range": [0, 1023]}]}), False),
        (match({"meta": {"key": "pkttype"}}, {"set": ["broadcast", "multicast"]}), False),
        (match({"meta": {"key": "pkttype"}}, "host"), True),
        (match({"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x1FFF]}, 0), True),
    ],
)
def test_nftables_of_a_packet_that_opens_a_connection(
    statement: dict[str, Any], fits: bool
) -> None:
    found = judge(one_rule(statement), FORWARDED, OPENS)
    assert (found.outcome, found.sure) == ("drop" if fits else "accept", True)


@pytest.mark.parametrize("statement", [
    match(TCP_SPORT, 40000), match(TCP_FLAGS, "x"), match({"&": [TCP_FLAGS, 7]}, 2),
])  # fmt: skip
def test_what_depends_on_the_port_or_flags_of_one_packet_is_unsure(
    statement: dict[str, Any],
) -> None:
    assert not judge(one_rule(statement), FORWARDED, OPENS).sure
