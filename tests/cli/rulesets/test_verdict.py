"""What a firewall does with a packet, as iptables-save and nft print it."""

import json
from ipaddress import IPv4Address
from typing import Any

import pytest

from flannel.cli.rulesets import iptables as iptables_rules
from flannel.cli.rulesets import nft as nft_rules
from flannel.cli.rulesets.verdict import FORWARDED, TRANSLATED, Chains, Packet, Verdict, judge

NEAR, FAR, WORLD = (IPv4Address(text) for text in ("10.1.5.2", "10.1.9.2", "198.51.100.1"))
OUT = Packet(NEAR, FAR, "docker0", "flannel.1")
IN = Packet(FAR, NEAR, "flannel.1", "docker0")
TCP = "ACCEPT", Packet(NEAR, FAR, "docker0", "flannel.1", "tcp")


def iptables(
    *rules: str, policy: str = "ACCEPT", chains: str = "", table: str = "filter"
) -> Chains:
    base = {"filter": "FORWARD", "nat": "POSTROUTING"}[table]
    text = "\n".join([f"*{table}", f":{base} {policy} [0:0]", chains, *rules, "COMMIT"])
    return iptables_rules.parse(text, "iptables")


def forward(tables: Chains, packet: Packet = OUT) -> Verdict:
    return judge(tables, FORWARDED, packet)


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
        # A mask is of bits in any order: here the second and the fourth byte do not count.
        (("-A FORWARD -s 10.0.5.0/255.0.255.0 -j DROP",), "ACCEPT", OUT, "drop"),
        (("-A FORWARD -s 10.1.4.2/255.255.255.0 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -d 0.0.0.2/0.0.0.255 -j DROP",), "ACCEPT", OUT, "drop"),
        (("-A FORWARD -d 0.0.0.3/0.0.0.255 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD ! -s 10.1.5.2/32 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -s 0.0.0.0/0 -j DROP",), "ACCEPT", OUT, "drop"),
        (("-A FORWARD -m iprange --src-range 10.1.5.1-10.1.5.2 -j DROP",), "ACCEPT", OUT, "drop"),
        (("-A FORWARD -m iprange --dst-range 10.1.5.1-10.1.5.2 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -p 1 -j DROP",), "ACCEPT", OUT, "drop"),
        (("-A FORWARD -p 6 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -p icmp -m icmp --icmp-type 8 -j DROP",), "ACCEPT", OUT, "drop"),
        (("-A FORWARD -p icmp -m icmp --icmp-type 3 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m addrtype --dst-type LOCAL -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m addrtype --dst-type LOCAL,UNICAST -j DROP",), "ACCEPT", OUT, "drop"),
        # The first packet of a connection is no fragment and has the flag SYN alone.
        (("-A FORWARD -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",), *TCP, "accept"),
        (("-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN FIN,SYN -j DROP",), *TCP, "accept"),
        (("-A FORWARD -p tcp -m tcp --tcp-flags ALL NONE -j DROP",), *TCP, "accept"),
        (("-A FORWARD -p tcp --syn -j DROP",), *TCP, "drop"),
        (("-A FORWARD -f -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -p tcp -m tcp --sport 1024:65535 -j DROP",), *TCP, "drop"),
        (("-A FORWARD -p tcp -m multiport --sports 0:1023,3306 -j DROP",), *TCP, "accept"),
        (("-A FORWARD -p tcp -m tcp --sport 1024:65535 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m conntrack --ctstatus ASSURED -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m conntrack --ctdir REPLY -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m pkttype --pkt-type broadcast -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m physdev --physdev-is-bridged -j DROP",), "ACCEPT", OUT, "accept"),
        # It comes in by the link that leads to its source, as NixOS asks.
        (
            ("-A FORWARD -m rpfilter --validmark -j A", "-A FORWARD -j DROP", "-A A -j ACCEPT"),
            "ACCEPT",
            OUT,
            "accept",
        ),
        (("-A FORWARD -m rpfilter --invert -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m mark --mark 0x4000/0x4000 -j DROP",), "ACCEPT", OUT, "accept"),
        (("-A FORWARD -m mark ! --mark 0x4000/0x4000 -j DROP",), "ACCEPT", OUT, "drop"),
        (
            ("-A FORWARD -g A", "-A FORWARD -j DROP"),
            "ACCEPT",
            OUT,
            "accept",
        ),  # A returns to FORWARD
        (("-A FORWARD -j DOCKER", "-A FORWARD -j DROP", "-A DOCKER -g A"), "ACCEPT", OUT, "drop"),
        (('-A FORWARD -m comment --comment "-j DROP" -j ACCEPT',), "DROP", OUT, "accept"),
        (DOCKER, "DROP", OUT, "accept"),  # a container may begin a connection...
        (DOCKER, "DROP", IN, "drop"),  # ...and nobody may begin one to it: docker's famous default
    ],
)
def test_rules_of_iptables_decide_the_verdict(
    rules: tuple[str, ...], policy: str, packet: Packet, outcome: str
) -> None:
    found = forward(iptables(*rules, policy=policy, chains=f"{CHAINS}\n:A - [0:0]"), packet)
    assert found.outcome == outcome
    assert found.sure


def test_the_verdict_names_the_rule_or_the_policy() -> None:
    rule = "-A FORWARD -d 10.1.9.0/24 -j DROP"
    assert forward(iptables(rule)).by == f"iptables filter FORWARD: {rule}"
    assert forward(iptables(policy="DROP")).by == "policy drop of iptables filter FORWARD"


def test_a_rule_that_is_not_understood_makes_the_verdict_unsure_and_decides_nothing() -> None:
    assert forward(iptables("-A FORWARD -m geoip --src-cc X -j DROP")) == Verdict(
        "accept", "policy accept of iptables filter FORWARD", sure=False
    )
    # A drop before it stands.
    known = iptables("-A FORWARD -j DROP", "-A FORWARD -m geoip --src-cc X -j ACCEPT")
    assert forward(known).sure


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -m socket -j DROP",  # restricts without an option
        "-A FORWARD -m limit --limit 3/min -j DROP",
        "-A FORWARD -s 10.1.5.2/33 -j DROP",
        "-A FORWARD -s ! 10.1.5.2 -j DROP",  # as iptables 1.4.2 prints it
        "-A FORWARD -m mark --mark x -j DROP",
        "-A FORWARD -m iprange --src-range x-y -j DROP",
        '-A FORWARD -m comment --comment "no end -j DROP',
        "-A FORWARD -j NFQUEUE --queue-num 0",
    ],
)
def test_a_rule_that_is_not_understood_leaves_the_verdict_unsure(rule: str) -> None:
    found = forward(iptables(rule, "-A FORWARD -s 10.1.0.0/16 -j ACCEPT", policy="DROP"))
    assert (found.outcome, found.sure) == ("accept", False)


@pytest.mark.parametrize("rule", ["-A FORWARD -s", "-A FORWARD -p udp --dport http -j DROP"])
def test_a_rule_that_cannot_apply_or_ends_nothing_leaves_no_doubt(rule: str) -> None:
    found = forward(iptables(rule, "-A FORWARD -s 10.1.0.0/16 -j ACCEPT", policy="DROP"))
    assert (found.outcome, found.sure) == ("accept", True)


def test_a_rule_that_marks_leaves_rules_by_mark_unsure() -> None:
    marked = ("-A FORWARD -j MARK --set-xmark 0x1/0x1", "-A FORWARD -m mark --mark 0x1 -j DROP")
    assert not forward(iptables(*marked)).sure
    other = ("-A FORWARD -s 10.2.0.0/16 -j MARK --set-xmark 0x1/0x1", marked[1])
    assert forward(iptables(*other)).sure


def test_a_rule_that_hides_packets_from_conntrack_leaves_rules_by_state_unsure() -> None:
    raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i docker0 -j CT --notrack\nCOMMIT\n"
    rules = "-A FORWARD -m conntrack --ctstate NEW -j DROP\n"
    text = f"{raw}*filter\n:FORWARD ACCEPT [0:0]\n{rules}COMMIT\n"
    assert not forward(iptables_rules.parse(text, "iptables")).sure
    assert forward(iptables_rules.parse(text, "iptables"), IN) == Verdict(
        "drop", "iptables filter FORWARD: -A FORWARD -m conntrack --ctstate NEW -j DROP"
    )
    either = text.replace("--ctstate NEW", "--ctstate NEW,UNTRACKED")
    assert forward(iptables_rules.parse(either, "iptables")).outcome == "drop"


def test_every_hook_on_the_way_counts() -> None:
    for table, chain, outcome in (
        ("raw", "PREROUTING", "drop"),
        ("mangle", "POSTROUTING", "drop"),
        ("filter", "INPUT", "accept"),
        ("nat", "PREROUTING", "accept"),
    ):
        text = f"*{table}\n:{chain} ACCEPT [0:0]\n-A {chain} -j DROP\nCOMMIT\n"
        assert forward(iptables_rules.parse(text, "iptables")).outcome == outcome


def test_lines_that_are_not_of_iptables_save_are_left_out() -> None:
    text = "-A FORWARD -j DROP\n:FORWARD DROP [0:0]\n*filter\n:\n:FORWARD\n-A\nCOMMIT\n"
    assert forward(iptables_rules.parse(text, "iptables")).outcome == "accept"


def test_too_many_ways_through_the_rules_make_the_verdict_unsure() -> None:
    """Sixteen chains, each of which jumps four times to the next: 4 to the 16th ways."""
    names = [f"C{n}" for n in range(16)]
    jumps = [f"-A {a} -j {b}" for a, b in zip(["FORWARD", *names], names, strict=False)] * 4
    declared = "\n".join(f":{name} - [0:0]" for name in names)
    found = forward(iptables(*jumps, policy="DROP", chains=declared))
    assert (found.outcome, found.sure) == ("drop", False)


def test_chains_that_jump_in_a_circle_get_a_verdict() -> None:
    rules = ("-A FORWARD -j A", "-A A -j B", "-A B -j A")
    found = forward(iptables(*rules, chains=":A - [0:0]\n:B - [0:0]"))
    assert (found.outcome, found.sure) == ("accept", False)


def test_packets_that_leave_the_overlay_are_masqueraded() -> None:
    rule = "-A POSTROUTING -s 10.1.0.0/16 ! -d 10.1.0.0/16 -j MASQUERADE --random-fully"
    tables = iptables(rule, table="nat")
    assert judge(tables, TRANSLATED, OUT, "nat").outcome == "accept"
    world = Packet(NEAR, WORLD, "docker0", "eth0")
    assert judge(tables, TRANSLATED, world, "nat").outcome == "masquerade"


def nft(*expressions: list[Any], policy: str = "accept", **extra: Any) -> Chains:
    chain = {"family": "inet", "table": "t", "name": "c", "type": "filter", "hook": "forward",
             "prio": 0, "policy": policy, **extra}  # fmt: skip
    where = {"family": "inet", "table": "t", "chain": "c"}
    peers = {"family": "inet", "table": "t", "name": "peers", "elem": ["10.1.5.2", {"prefix": {
        "addr": "10.1.9.0", "len": 24}}]}  # fmt: skip
    ways = {"family": "inet", "table": "t", "name": "ways", "elem": [["10.1.9.2", ACCEPT]]}
    rules = [{"rule": {**where, "expr": each}} for each in expressions]
    text = json.dumps({"nftables": [{"set": peers}, {"map": ways}, {"chain": chain}, *rules]})
    return nft_rules.parse(text)


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"left": left, "op": op, "right": right}}


SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}
DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
NETWORK = {"prefix": {"addr": "10.1.0.0", "len": 16}}
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
MASKED = {"&": [SADDR, "255.0.255.0"]}
L4PROTO, MARK = {"meta": {"key": "l4proto"}}, {"meta": {"key": "mark"}}
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
        ([match({"ct": {"key": "state"}}, "new"), ACCEPT], "accept"),
        ([match({"ct": {"key": "status"}}, "dnat", "in"), ACCEPT], "drop"),
        ([match({"ct": {"key": "direction"}}, "original"), ACCEPT], "accept"),
        ([match(MASKED, "10.0.5.0"), ACCEPT], "accept"),
        ([match(MASKED, "10.0.4.0"), ACCEPT], "drop"),
        ([match(SADDR, "10.1.5.0", ">="), match(SADDR, "10.1.6.0", "<"), ACCEPT], "accept"),
        ([match(SADDR, "10.1.5.2", "<"), ACCEPT], "drop"),
        ([match(SADDR, {"set": [{"elem": {"val": "10.1.5.2", "timeout": 9}}]}), ACCEPT], "accept"),
        ([match(L4PROTO, {"set": ["tcp", "udp"]}), ACCEPT], "drop"),
        ([match(L4PROTO, 1), ACCEPT], "accept"),
        ([match({"meta": {"key": "nfproto"}}, "ipv6"), ACCEPT], "drop"),
        # Where a packet has no such field a rule does not apply, whatever the operator.
        ([match(DPORT, 22, "!="), ACCEPT], "drop"),
        ([match({"payload": {"protocol": "ip6", "field": "saddr"}}, "::1", "!="), ACCEPT], "drop"),
        (
            [match({"payload": {"protocol": "icmp", "field": "type"}}, "echo-request"), ACCEPT],
            "accept",
        ),
        ([match(MARK, 0), ACCEPT], "accept"),
        ([match({"&": [MARK, 0x4000]}, 0x4000), ACCEPT], "drop"),
        (
            [
                {"mangle": {"key": {"payload": {"protocol": "ip", "field": "dscp"}}, "value": 1}},
                ACCEPT,
            ],
            "accept",
        ),
        ([match({"fib": {"result": "type", "flags": ["daddr"]}}, "local"), ACCEPT], "drop"),
        ([{"reject": {"type": "icmpv6"}}], "drop"),
        (
            [
                {
                    "vmap": {
                        "key": {"ct": {"key": "state"}},
                        "data": {"set": [["established", DROP], ["new", ACCEPT]]},
                    }
                }
            ],
            "accept",
        ),
        ([{"vmap": {"key": DPORT, "data": {"set": [[8472, ACCEPT]]}}}], "drop"),
        (
            [
                {
                    "vmap": {
                        "key": {"meta": {"key": "iifname"}},
                        "data": {"set": [["*", DROP], ["docker0", ACCEPT]]},
                    }
                }
            ],
            "accept",
        ),
        (
            [
                {
                    "vmap": {
                        "key": {"concat": [SADDR, L4PROTO]},
                        "data": {"set": [[{"concat": ["10.1.5.2", "icmp"]}, ACCEPT]]},
                    }
                }
            ],
            "accept",
        ),
        (
            [match({"concat": [SADDR, DPORT]}, {"set": [{"concat": ["10.1.5.3", 1]}]}), ACCEPT],
            "drop",
        ),
        ([{"vmap": {"key": DADDR, "data": "@ways"}}], "accept"),
    ],
)
def test_rules_of_nftables_decide_the_verdict(rule: list[Any], outcome: str) -> None:
    found = forward(nft(rule, policy="drop"))
    assert (found.outcome, found.sure) == (outcome, True)


def test_to_be_accepted_in_one_table_is_not_enough() -> None:
    both = {**nft(policy="drop"), **iptables("-A FORWARD -j ACCEPT")}
    assert forward(both).by == "policy drop of nft inet t c"


@pytest.mark.parametrize(
    "rule",
    [
        [{"xt": {"type": "match", "name": "addrtype"}}, DROP],
        [{"xt": {"type": "target", "name": "NFQUEUE"}}],
        [{"limit": {"rate": 1, "per": "second"}}, DROP],
        [{"ct count": {"val": 20, "inv": True}}, DROP],
        [{"queue": {"num": 0}}],
        [{"dnat": {"addr": "10.1.9.9"}}],
        [{"mangle": {"key": DADDR, "value": "10.1.9.9"}}],
        [{"vmap": {"key": {"numgen": {"mode": "random", "mod": 2}}, "data": {"set": [[0, DROP]]}}}],
        [{"vmap": {"key": DADDR, "data": "@gone"}}],
        [match(SADDR, "@gone"), DROP],
        [match(SADDR, {"set": ["a name"]}), DROP],
        [match(SADDR, {"prefix": {"addr": "::", "len": 8}}), DROP],
        [match({"ct": {"key": "state"}}, ["new", "related"]), DROP],
        [match({"&": [MARK, "x"]}, 1), DROP],
        [match(L4PROTO, 5, "<"), DROP],
        [{"jump": {"target": "gone"}}],
        ["what is this", None, 7, {}, {"two": 1, "members": 2}],
    ],
)
def test_a_statement_that_is_not_understood_leaves_the_verdict_unsure(rule: list[Any]) -> None:
    found = forward(nft(rule))
    assert (found.outcome, found.sure) == ("accept", False)


def test_a_statement_that_marks_leaves_rules_by_mark_unsure() -> None:
    marks = [{"mangle": {"key": MARK, "value": 1}}]
    assert not forward(nft(marks, [match(MARK, 1), DROP])).sure
    assert not forward(
        nft([{"notrack": None}], [match({"ct": {"key": "state"}}, "new"), DROP])
    ).sure


def test_a_chain_at_ingress_sees_its_link_only_or_perhaps_any_if_nft_does_not_name_it() -> None:
    for link, expected in (("docker0", ("drop", True)), ("eth0", ("accept", True))):
        chains = nft([DROP], hook="ingress", dev=link)
        found = forward(chains)
        assert (found.outcome, found.sure) == expected
    assert not forward(nft([DROP], hook="ingress")).sure
    assert forward(nft([ACCEPT], hook="ingress")).sure


def test_nftables_that_are_not_understood_are_unsure() -> None:
    found = forward(nft([match({"socket": {"key": "mark"}}, 1), DROP]))
    assert (found.outcome, found.sure) == ("accept", False)
    with pytest.raises(nft_rules.NotARuleset, match="it is not JSON: Expecting value"):
        nft_rules.parse("")
