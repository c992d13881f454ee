"""Whatever the programs print is read or called unsure: no rule ends with a traceback.

And a verdict that is called sure holds, whatever the rules that were not understood would do.
"""

import json
import random
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flannel.cli.rulesets import iptables, matches, nft
from flannel.cli.rulesets.peril import find_peril
from flannel.cli.rulesets.verdict import (
    FORWARDED,
    RECEIVED,
    SENT,
    TRANSLATED,
    Chain,
    Chains,
    Match,
    Packet,
    Rule,
    Sight,
    judge,
)

NEAR, FAR, HOST, PEER = (
    IPv4Address(text) for text in ("10.1.5.2", "10.1.9.2", "192.0.2.11", "192.0.2.12")
)
Way = tuple[tuple[str, ...], Packet, str]
WAYS: list[Way] = [
    (FORWARDED, Packet(NEAR, FAR, "docker0", "flannel.1"), "filter"),
    (FORWARDED, Packet(FAR, NEAR, "flannel.1", "docker0", "tcp", 80), "filter"),
    (RECEIVED, Packet(PEER, HOST, "eth0", "", "udp", 8472), "filter"),
    (SENT, Packet(HOST, PEER, "", "eth0", "udp", 8472), "filter"),
    (TRANSLATED, Packet(NEAR, FAR, "docker0", "flannel.1", "tcp"), "nat"),
]

address = st.sampled_from(["10.1.5.2", "10.1.0.0", "192.0.2.12", "0.0.0.0", "255.255.255.255"])
mask = st.one_of(
    st.integers(0, 33).map(str), address, st.sampled_from(["255.0.255.0", "0.0.0.255", "x", ""])
)
network = st.builds("{}/{}".format, address, mask) | address
link = st.sampled_from(["docker0", "flannel.1", "eth0", "eth+", "docker*", "+", "*", ""])
number = st.integers(-1, 1 << 33).map(str) | st.sampled_from(["80", "8472", "0x1", "x", ""])
protocol = st.sampled_from(["tcp", "udp", "icmp", "6", "17", "gre", "all", "0"])
weird = st.text(max_size=8)
name = st.sampled_from(["A", "B", "C", "LOG", "MARK", "CT", "NFQUEUE", "RETURN", "DROP", "ACCEPT"])


def option(flag: str, value: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return value.map(lambda text: [flag, text])


iptables_match = st.one_of(
    option("-s", network),
    option("-d", network),
    option("-i", link),
    option("-o", link),
    option("-p", protocol),
    option("--dport", st.builds("{}:{}".format, number, number) | number),
    option("--dports", st.lists(number).map(",".join)),
    option("--ctstate", st.lists(st.sampled_from(["NEW", "INVALID", "RELATED"])).map(",".join)),
    option("--mark", st.builds("{}/{}".format, number, number)),
    option("--dst-type", st.sampled_from(["LOCAL", "UNICAST", "LOCAL,BROADCAST", ""])),
    option("--src-range", st.builds("{}-{}".format, address, address) | weird),
    option("--icmp-type", number),
    option("-m", st.sampled_from(["tcp", "comment", "rpfilter", "limit", "string"])),
    option("--comment", weird),
    st.lists(weird, min_size=1, max_size=2),
)
iptables_target: st.SearchStrategy[list[str]] = st.builds(
    lambda flag, target, more: [flag, target, *more], st.sampled_from(["-j", "-g"]), name,
    st.lists(weird, max_size=2),
) | st.just([])  # fmt: skip


@st.composite
def iptables_rule(draw: st.DrawFn) -> str:
    words = ["-A", draw(st.sampled_from(["FORWARD", "INPUT", "OUTPUT", "POSTROUTING", "A", "B"]))]
    for match in draw(st.lists(iptables_match, max_size=3)):
        words += [*(["!"] if draw(st.booleans()) else []), *match]
    quotes: list[Callable[[str], str]] = [shlex.quote, str, '"{}"'.format]
    quote = draw(st.sampled_from(quotes))
    return " ".join(map(quote, [*words, *draw(iptables_target)]))


iptables_line = st.one_of(
    iptables_rule(), iptables_rule(), st.builds(":{} {} [0:0]".format, name, name), weird,
    st.sampled_from([":", ":A", "*", "*nat", "COMMIT", "# x", "-A", "-A ", "-A A"]),
)  # fmt: skip
HEAD = "*filter\n:FORWARD {0} [0:0]\n:INPUT {0} [0:0]\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n"


@st.composite
def saved(draw: st.DrawFn) -> str:
    head = HEAD.format(draw(st.sampled_from(["ACCEPT", "DROP"])))
    return head + "\n".join(draw(st.lists(iptables_line, max_size=12)))


json_leaf = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 1 << 33), weird, address, link,
    st.sampled_from(["@s", "@gone", "established", "new", "local", "dnat", "*", "icmp", "tcp"]),
)  # fmt: skip
json_value = st.recursive(
    json_leaf,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["set", "range", "prefix", "elem", "val", "addr", "len", "concat", "&"]
            ),
            inner,
            max_size=2,
        )
    ),
    max_leaves=6,
)
nft_left = st.one_of(
    st.sampled_from(
        [
            *({"meta": {"key": key}} for key in ("iifname", "oif", "l4proto", "mark", "x")),
            *({"ct": {"key": key}} for key in ("state", "status", "mark", "direction")),
            *(
                {"payload": {"protocol": at, "field": field}}
                for at in ("ip", "udp", "tcp", "th", "ip6", "icmp", "ether")
                for field in ("saddr", "daddr", "dport", "protocol", "type")
            ),
            {"fib": {"result": "type", "flags": ["daddr"]}},
            {"fib": {"result": "oif", "flags": ["saddr", "iif"]}},
            {"&": [{"meta": {"key": "mark"}}, 255]},
            {"&": [{"payload": {"protocol": "ip", "field": "saddr"}}, "255.0.255.0"]},
            {
                "concat": [
                    {"meta": {"key": "mark"}},
                    {"payload": {"protocol": "ip", "field": "saddr"}},
                ]
            },
        ]
    ),
    json_value,
)
nft_verdict = st.one_of(
    st.sampled_from(["accept", "drop", "return", "continue", "reject", "masquerade"]).map(
        lambda word: {word: None}
    ),
    st.builds(
        lambda verb, target: {verb: {"target": target}}, st.sampled_from(["jump", "goto"]), name
    ),
    st.sampled_from(["icmpv6", "tcp reset", "icmpx"]).map(lambda how: {"reject": {"type": how}}),
)
nft_statement = st.one_of(
    st.builds(
        lambda left, op, right: {"match": {"left": left, "op": op, "right": right}},
        nft_left,
        st.sampled_from(["==", "!=", "in", "<", ">=", "x"]),
        json_value,
    ),
    nft_verdict,
    st.builds(
        lambda key, data: {"vmap": {"key": key, "data": data}},
        nft_left,
        st.lists(st.tuples(json_value, nft_verdict).map(list), max_size=3).map(
            lambda entries: {"set": entries}
        )
        | json_value,
    ),
    st.builds(
        lambda kind, body: {kind: body},
        st.sampled_from(["counter", "log", "limit", "mangle", "notrack", "xt", "queue", "set"]),
        json_value | st.just({"key": {"meta": {"key": "mark"}}, "value": 1}),
    ),
    json_value,
)


policy = st.sampled_from(["accept", "drop"])


@st.composite
def nft_ruleset(draw: st.DrawFn) -> dict[str, Any]:
    family, table = draw(st.sampled_from(["ip", "inet", "netdev", "ip6"])), "t"
    where = {"family": family, "table": table}
    hooks = ["forward", "input", "output", "postrouting", "prerouting", "ingress"]
    objects: list[Any] = [{"metainfo": {}}, {"table": where}]
    for number, hook in enumerate(draw(st.lists(st.sampled_from(hooks), max_size=4))):
        objects.append({"chain": {**where, "name": f"base{number}", "hook": hook, "prio": 9,
                                  "type": draw(st.sampled_from(["filter", "nat"])),
                                  "policy": draw(policy)}})  # fmt: skip
    objects += [{"chain": {**where, "name": each}} for each in ("A", "B", "C")]
    objects.append({"set": {**where, "name": "s", "elem": draw(json_value)}})
    for _ in range(draw(st.integers(0, 8))):
        chain = draw(st.sampled_from(["base0", "base1", "A", "B", "gone"]))
        body = draw(st.lists(nft_statement, max_size=4) | json_value)
        objects.append({"rule": {**where, "chain": chain, "expr": body}})
    if draw(st.integers(0, 9)) == 9:
        objects.append(draw(json_value))
    return {"nftables": objects}


def judge_all(chains: Chains) -> None:
    for hooks, packet, kind in WAYS:
        verdict = judge(chains, hooks, packet, kind)
        assert verdict.outcome in ("accept", "drop", "masquerade")
        if verdict.outcome == "drop":
            assert verdict.by


@settings(max_examples=100)
@given(saved())
@example(HEAD.format("ACCEPT") + "-A FORWARD -s 10.0.0.1/255.0.255.0 -j DROP")
@example(HEAD.format("ACCEPT") + '-A FORWARD -m comment --comment "no end -j DROP')
def test_every_output_of_iptables_save_gets_a_verdict(text: str) -> None:
    judge_all(iptables.parse(text, "iptables"))


@settings(max_examples=100)
@given(nft_ruleset())
def test_every_output_of_nft_gets_a_verdict_or_is_unreadable(document: dict[str, Any]) -> None:
    try:
        chains = nft.parse(json.dumps(document))
    except nft.NotARuleset:
        return
    judge_all(chains)


@given(st.text() | json_value.map(json.dumps))
@example("[" * 100_000)
@example('{"nftables": [{}]}')
@example('{"nftables": {"rule": 1}}')
def test_a_text_that_is_not_a_ruleset_is_unreadable(text: str) -> None:
    with pytest.raises(nft.NotARuleset, match=r"^it "):
        nft.parse(text)


def understood(chains: Chains, decide: Callable[[str], bool]) -> Chains:
    """The same rules, each match and target that was not understood replaced by one that is."""

    def match(original: Match, where: str) -> Match:
        def fits(sight: Sight) -> bool | None:
            found = original(sight)
            return decide(where) if found is None else found

        return fits

    def rule(original: Rule, where: str) -> Rule:
        all_known = tuple(match(each, f"{where} {n}") for n, each in enumerate(original.matches))
        target = original.target
        if target == "unknown" or target.startswith(("jump ", "goto ")):
            name = target.partition(" ")[2]
            if not any(name in table for table in chains.values()):
                target = ("accept" if decide(f"{where} accepts") else "drop") if decide(
                    f"{where} ends") else "continue"  # fmt: skip
        return replace(original, matches=all_known, target=target)

    return {
        table: {
            each.name: replace(
                each, rules=[rule(r, f"{each.name} {n}") for n, r in enumerate(each.rules)]
            )
            for each in inner.values()
        }
        for table, inner in chains.items()
    }


def assert_sure_verdicts_hold(
    chains: Chains, answers: list[bool], ways: Sequence[Way] = WAYS
) -> None:
    asked: dict[str, bool] = {}

    def decide(where: str) -> bool:
        return asked.setdefault(where, answers[len(asked) % len(answers)])

    for hooks, packet, kind in ways:
        verdict = judge(chains, hooks, packet, kind)
        if verdict.sure:
            actual = judge(understood(chains, decide), hooks, packet, kind)
            assert (actual.outcome, actual.by) == (verdict.outcome, verdict.by)
        named = tuple(hook for hook in hooks if hook not in ("ingress", "egress"))
        if kind == "filter" and find_peril(chains, named, packet) is None:
            # nft refuses masquerade in a chain of type filter; a listing with it is not a drop.
            passes = judge(understood(chains, decide), named, packet).outcome
            assert passes in ("accept", "masquerade")


answers = st.lists(st.booleans(), min_size=1, max_size=9)
TARGETS = ["accept", "drop", "return", "continue", "unknown", "jump gone"]


def random_chains(chance: random.Random) -> Chains:
    """Few rules, which apply or may apply; each chain jumps to those after it."""

    def chain(name: str, later: str, hook: str = "") -> Chain:
        targets = TARGETS + [f"{verb} {to}" for verb in ("jump", "goto") for to in later]
        rules = [
            Rule(chance.choice([(), (matches.unknown,)]), chance.choice(targets), f"{n}")
            for n in range(chance.randint(0, 3))
        ]
        return Chain(name, "t", rules, hook, policy=chance.choice(["accept", "drop"]))

    inner = [chain("A", "BC"), chain("B", "C"), chain("C", "")]
    return {"t": {each.name: each for each in [chain("base", "ABC", "forward"), *inner]}}


def test_a_sure_verdict_does_not_depend_on_what_was_not_understood() -> None:
    chance = random.Random(1)
    n_sure = n_harmless = 0
    for _ in range(20_000):
        chains = random_chains(chance)
        is_sure = judge(chains, FORWARDED, WAYS[0][1]).sure
        n_sure += is_sure
        n_harmless += not is_sure and find_peril(chains, FORWARDED, WAYS[0][1]) is None
        answers = [chance.random() < 0.5 for _ in range(7)]
        assert_sure_verdicts_hold(chains, answers, WAYS[:1])
    assert 2_000 < n_sure < 18_000
    assert n_harmless > 500


@settings(max_examples=100)
@given(saved(), answers)
def test_a_sure_verdict_on_iptables_save_does_not_depend_on_what_was_not_understood(
    text: str, answers: list[bool]
) -> None:
    assert_sure_verdicts_hold(iptables.parse(text, "iptables"), answers)


@settings(max_examples=100)
@given(nft_ruleset(), answers)
def test_a_sure_verdict_on_nft_does_not_depend_on_what_was_not_understood(
    document: dict[str, Any], answers: list[bool]
) -> None:
    try:
        chains = nft.parse(json.dumps(document))
    except nft.NotARuleset:
        return
    assert_sure_verdicts_hold(chains, answers)
