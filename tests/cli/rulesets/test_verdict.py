"""What a firewall does with a packet, as iptables-save and nft print it."""

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from flannel.cli.rulesets import iptables as iptables_rules
from flannel.cli.rulesets import nft as nft_rules
from flannel.cli.rulesets.verdict import Packet, Tables, Verdict, judge

NEAR, FAR, WORLD = (IPv4Address(text) for text in ("10.1.5.2", "10.1.9.2", "198.51.100.1"))
OUT = Packet(NEAR, FAR, "docker0", "flannel.1")
IN = Packet(FAR, NEAR, "flannel.1", "docker0")


def iptables(
    *rules: str, policy: str = "ACCEPT", chains: str = "", table: str = "filter"
) -> Tables:
    base = {"filter": "FORWARD", "nat": "POSTROUTING"}[table]
    text = "\n".join([f"*{table}", f":{base} {policy} [0:0]", chains, *rules, "COMMIT"])
    return iptables_rules.parse(text, "iptables")


def forward(tables: Tables, packet: Packet = OUT) -> Verdict:
    return judge(tables, "forward", packet)


DOCKER = ("-A FORWARD -j DOCKER-USER", "-A FORWARD -o docker0 -m conntrack --ctstate "
          "RELATED,ESTABLISHED -j ACCEPT", "-A FORWARD -o docker0 -j DOCKER",
          "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT", "-A DOCKER-USER -j RETURN")  # fmt: skip
CHAINS = ":DOCKER - [0:0]\n:DOCKER-USER - [0:0]"


@pytest.mark.parametrize(
    ("rules", "policy", "packet", "outcome"),
    [
        ((), "ACCEPT", OUT, "accept"),
        ((), "DROP", OUT, "drop"),
        (("-A FORWARD -s 10.1.0.0/16 -j ACCEPT",), "DROP", OUT, "accept"),
        (("-A FORWARD -s 10.2.0.0/16 -j ACCEPT",), "DROP", OUT, "drop"),
        (("-A FORWARD ! -s 10.2.0.0/16 -j ACCEPT",), "DROP", OUT, "accept"),
        (("-A FORWARD -i eth+ -j ACCEPT",), "DROP", OUT, "drop"),
        (("-A FORWARD -i docker+ -j ACCEPT",), "DROP", OUT, "accept"),
        (("-A FORWARD -p tcp -m tcp --dport 80 -j ACCEPT",), "DROP", OUT, "drop"),
        (("-A FORWARD -j LOG --log-prefix x", "-A FORWARD -j REJECT"), "ACCEPT", OUT, "drop"),
        (("-A FORWARD -m conntrack --ctstate NEW -j DROP",), "ACCEPT", OUT, "drop"),
        (DOCKER, "DROP", OUT, "accept"),  # a container may begin a connection...
        (DOCKER, "DROP", IN, "drop"),  # ...and nobody may begin one to it: docker's famous default
    ],
)
def test_iptables(rules: tuple[str, ...], policy: str, packet: Packet, outcome: str) -> None:
    found = forward(iptables(*rules, policy=policy, chains=CHAINS), packet)
    assert found.outcome == outcome
    assert found.sure


def test_the_verdict_names_the_rule_or_the_policy() -> None:
    rule = "-A FORWARD -d 10.1.9.0/24 -j DROP"
    assert forward(iptables(rule)).by == f"iptables filter FORWARD: {rule}"
    assert forward(iptables(policy="DROP")).by == "policy drop of iptables filter FORWARD"


def test_what_is_not_understood_makes_it_unsure_and_decides_nothing() -> None:
    assert forward(iptables("-A FORWARD -m geoip --src-cc X -j DROP")) == Verdict(
        "accept", "policy accept of iptables filter FORWARD", sure=False
    )
    # A drop before it stands.
    known = iptables("-A FORWARD -j DROP", "-A FORWARD -m geoip --src-cc X -j ACCEPT")
    assert forward(known).sure


def test_chains_that_jump_in_a_circle_come_to_an_end() -> None:
    rules = ("-A FORWARD -j A", "-A A -j B", "-A B -j A")
    found = forward(iptables(*rules, chains=":A - [0:0]\n:B - [0:0]"))
    assert (found.outcome, found.sure) == ("accept", False)


def test_masquerade_outside_the_overlay_only() -> None:
    rule = "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE --random-fully"
    tables = iptables(rule, table="nat")
    assert judge(tables, "postrouting", OUT, "nat").outcome == "accept"
    world = Packet(NEAR, WORLD, "docker0", "eth0")
    assert judge(tables, "postrouting", world, "nat").outcome == "masquerade"


def nft(*expressions: list[Any], policy: str = "accept", **extra: Any) -> Tables:
    chain = {"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "forward",
             "prio": 0, "policy": policy, **extra}  # fmt: skip
    where = {"family": "inet", "table": "t", "chain": "c"}
    peers = {"family": "inet", "table": "t", "name": "peers", "elem": ["10.1.5.2", {"prefix": {
        "addr": "10.1.9.0", "len": 24}}]}  # fmt: skip
    rules = [{"rule": {**where, "expr": each}} for each in expressions]
    text = json.dumps({"nftables": [{"set": peers}, {"chain": chain}, *rules]})
    return nft_rules.parse(text)


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"left": left, "op": op, "right": right}}


SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}
DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
NETWORK = {"prefix": {"addr": "10.1.0.0", "len": 16}}
ACCEPT, DROP = {"accept": None}, {"drop": None}


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ([match(SADDR, NETWORK), ACCEPT], "accept"),
        ([match(SADDR, NETWORK, "!="), ACCEPT], "drop"),
        ([match(SADDR, "@peers"), {"counter": {}}, ACCEPT], "accept"),
        ([match(SADDR, {"set": ["192.0.2.1", "10.1.5.2"]}), ACCEPT], "accept"),
        ([match(SADDR, {"range": ["10.1.5.1", "10.1.5.9"]}), ACCEPT], "accept"),
        ([match(SADDR, {"range": ["10.1.5.3", "10.1.5.9"]}), ACCEPT], "drop"),
        ([match({"meta": {"key": "iifname"}}, "docker*"), ACCEPT], "accept"),
        ([match(DPORT, 8472), ACCEPT], "drop"),
        ([match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT], "drop"),
    ],
)
def test_nftables(rule: list[Any], outcome: str) -> None:
    found = forward(nft(rule, policy="drop"))
    assert (found.outcome, found.sure) == (outcome, True)


def test_to_be_accepted_in_one_table_is_not_enough() -> None:
    both = {**nft(policy="drop"), **iptables("-A FORWARD -j ACCEPT")}
    assert forward(both).by == "policy drop of nft inet t c"


def test_nftables_that_are_not_understood_are_unsure() -> None:
    found = forward(nft([match({"socket": {"key": "mark"}}, 1), DROP]))
    assert (found.outcome, found.sure) == ("accept", False)
    with pytest.raises(ValueError, match="Expecting value"):
        nft_rules.parse("")
