"""flanneld's own guard makes no verdict unsure."""

from ipaddress import IPv4Address

from flannel.cli.rulesets.iptables import parse
from flannel.cli.rulesets.matches import unknown
from flannel.cli.rulesets.own_guard import without_guard
from flannel.cli.rulesets.verdict import RECEIVED, Chain, Packet, Rule, judge

FROM_A_PEER = Packet(IPv4Address("192.0.2.2"), IPv4Address("192.0.2.1"), "eth0", "", "udp", 8472)
SAVED = """*mangle
:INPUT ACCEPT [0:0]
:FLANNEL-TUNNEL - [0:0]
-A INPUT -m comment --comment "flanneld guard" -j FLANNEL-TUNNEL
-A FLANNEL-TUNNEL -p udp -m u32 --u32 "0x0=0x1" -j DROP
COMMIT
*filter
:INPUT ACCEPT [0:0]
-A INPUT -p udp -m udp --dport 8472 -j DROP
COMMIT
"""


def test_in_nftables_the_filter_chains_of_our_table_are_left_out() -> None:
    rules = [Rule((unknown,), "drop", "raw payload")]
    ours = {
        "input": Chain("input", "nft ip flannel", rules, hook="input"),
        "postrouting": Chain(
            "postrouting", "nft ip flannel", rules, hook="postrouting", kind="nat"
        ),
    }
    others = {"input": Chain("input", "nft ip other", rules, hook="input")}
    left = without_guard({"nft ip flannel": ours, "nft ip other": others})
    assert judge({"nft ip flannel": left["nft ip flannel"]}, RECEIVED, FROM_A_PEER).sure
    assert left["nft ip flannel"]["postrouting"] == ours["postrouting"]
    assert left["nft ip other"] == others


def test_in_iptables_the_guards_chains_are_left_out_and_others_judged() -> None:
    tables = parse(SAVED, "iptables")
    assert not judge(tables, RECEIVED, FROM_A_PEER).sure
    verdict = judge(without_guard(tables), RECEIVED, FROM_A_PEER)
    assert (verdict.outcome, verdict.sure) == ("drop", True)
