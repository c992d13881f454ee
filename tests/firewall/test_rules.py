"""The firewall's documents and what is read back, as text.

What the kernel does with them is in netns-tests.
"""

import json
from ipaddress import IPv4Address, IPv4Network

import pytest

from flannel.firewall.iptables import changes, forward_rules, forwards_all, masquerade_rules
from flannel.firewall.keeper import Guard, Rules
from flannel.firewall.nftables import Counter, document, parse
from flannel.firewall.peer_addresses import PeerAddresses
from flannel.lease import Lease, LeaseAttrs

NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.5.0/24")
GUARD = Guard("flannel.7", 4789, 7)
MASQUERADE = Rules(NETWORK, SUBNET, masquerade=True)


def rules_of(chain: str, text: str) -> list[str]:
    """The rules of a chain in a document for nft."""
    body = text.partition(f"chain {chain} {{\n")[2].partition("\n}")[0]
    return body.splitlines()[1:]


class TestNftables:
    def test_the_table_is_replaced_in_one_transaction(self) -> None:
        text = document(MASQUERADE, [], {}, {("ip", "flannel-ipv4")})
        assert text.startswith(
            "add table ip flannel\ndelete table ip flannel\n"
            "delete table ip flannel-ipv4\ntable ip flannel {\n"
        )

    def test_nothing_wanted_leaves_no_table(self) -> None:
        text = document(Rules(NETWORK, SUBNET, forward=True), [], {})
        assert text == "add table ip flannel\ndelete table ip flannel\n"

    def test_masquerade_is_for_what_leaves_the_overlay_and_what_enters_it(self) -> None:
        assert rules_of("postrouting", document(MASQUERADE, [], {})) == [
            "meta mark & 0x4000 == 0x4000 return",
            "ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 return",
            "ip daddr 10.1.5.0/24 return",
            "ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
            "ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade fully-random",
        ]

    def test_excepted_networks_come_before_and_ports_need_not_be_random(self) -> None:
        excepted = IPv4Network("172.16.0.0/12"), IPv4Network("192.0.2.1")
        rules = Rules(NETWORK, SUBNET, masquerade=True, random_ports=False, no_masquerade=excepted)
        lines = rules_of("postrouting", document(rules, [], {}))
        assert lines[3:] == [
            "ip saddr 10.1.0.0/16 ip daddr { 172.16.0.0/12, 192.0.2.1/32 } return",
            "ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade",
            "ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade",
        ]

    def test_the_guard_is_for_one_port_and_one_vni(self) -> None:
        text = document(Rules(NETWORK, SUBNET, guard=GUARD), ["192.0.2.2", "192.0.2.1"], {})
        assert "set peers { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 } }" in text
        assert rules_of("input", text) == [
            "udp dport 4789 @th,96,24 7 ip saddr != @peers counter name unknown_peer drop",
            "udp dport 4789 @th,96,24 7 fib saddr . iif oif missing "
            "counter name wrong_interface drop",
        ]
        assert rules_of("overlay", text)[0] == 'iifname != "flannel.7" accept'

    def test_a_guard_without_peers_lets_nobody_in(self) -> None:
        text = document(Rules(NETWORK, SUBNET, guard=GUARD), [], {})
        assert "set peers { type ipv4_addr;  }" in text

    def test_counters_go_on(self) -> None:
        rules = Rules(NETWORK, SUBNET, guard=GUARD)
        text = document(rules, [], {"spoofed": Counter(7, 490)})
        assert "counter spoofed { packets 7 bytes 490 }" in text
        assert "counter not_mine { packets 0 bytes 0 }" in text

    def test_a_listing_is_read_without_what_changes_by_itself(self) -> None:
        def listing(handle: int, packets: int, elements: list[object]) -> bytes:
            objects: list[object] = [
                {"metainfo": {"version": "1"}},
                {"table": {"name": "flannel", "handle": handle}},
                {"counter": {"name": "spoofed", "handle": 3, "packets": packets, "bytes": 9}},
                {"set": {"name": "peers", "handle": 4, "elem": elements}},
                {"rule": {"chain": "input", "handle": handle + 1, "expr": [{"drop": None}]}},
            ]
            return json.dumps({"nftables": objects}).encode()

        one = parse(listing(2, 0, ["192.0.2.1"]))
        other = parse(listing(9, 5, ["192.0.2.2", "192.0.2.3"]))
        assert one.content == other.content
        assert one.peers == {"192.0.2.1"}
        assert other.peers == {"192.0.2.2", "192.0.2.3"}
        assert other.counters == {"spoofed": (5, 9)}
        strange = parse(listing(2, 0, [{"elem": {"val": "192.0.2.1", "timeout": 60}}]))
        assert strange.content != one.content


FILTER = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [12:720]
:OUTPUT ACCEPT [0:0]
{}COMMIT
"""
JUMP = '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD\n'
CHAIN = "".join(f"-A FLANNEL-FWD {rule}\n" for rule in forward_rules(MASQUERADE))


def change(saved: str, *, forward: bool = True, sweep: bool = False) -> list[str]:
    rules = forward_rules(MASQUERADE) if forward else ()
    text = changes(saved, network=NETWORK, forward=rules, masquerade=(), sweep=sweep)
    return text.splitlines()


class TestIptables:
    def test_what_is_right_is_not_written(self) -> None:
        lines = ":FLANNEL-FWD - [0:0]\n-A FORWARD -i a -j DROP\n" + JUMP + CHAIN
        assert change(FILTER.format(lines)) == []

    def test_an_empty_host_gets_the_chain_and_the_jump(self) -> None:
        assert change("") == [
            "*filter",
            ":FLANNEL-FWD - [0:0]",
            *CHAIN.splitlines(),
            JUMP.strip().replace("-A FORWARD", "-I FORWARD 1"),
            "COMMIT",
        ]

    def test_dockers_operator_has_the_first_word(self) -> None:
        lines = change(FILTER.format("-A FORWARD -j DOCKER-USER\n-A FORWARD -o d -j DOCKER\n"))
        assert lines[-2].startswith("-I FORWARD 2 ")

    @pytest.mark.parametrize(
        "last",
        [
            "-j DROP",
            "-j REJECT --reject-with icmp-port-unreachable",
            '-m comment --comment "the rest" -j REJECT --reject-with icmp-port-unreachable',
        ],
    )
    def test_a_jump_that_nothing_reaches_is_moved(self, last: str) -> None:
        lines = change(FILTER.format(f":FLANNEL-FWD - [0:0]\n-A FORWARD {last}\n{JUMP}{CHAIN}"))
        assert lines[-3:-1] == [JUMP.strip().replace("-A", "-D"), lines[-2]]
        assert lines[-2].startswith("-I FORWARD 1 ")

    def test_two_jumps_become_one(self) -> None:
        lines = change(FILTER.format(f":FLANNEL-FWD - [0:0]\n{JUMP}{JUMP}{CHAIN}"))
        assert [line[:2] for line in lines[4:-1]] == ["-D", "-D", "-I"]

    def test_rules_in_another_order_or_of_somebody_else_are_replaced(self) -> None:
        one, other = CHAIN.splitlines(True)
        for chain in (other + one, one, CHAIN + "-A FLANNEL-FWD -j DROP\n"):
            lines = change(FILTER.format(f":FLANNEL-FWD - [0:0]\n{JUMP}{chain}"))
            assert lines == ["*filter", ":FLANNEL-FWD - [0:0]", *CHAIN.splitlines(), "COMMIT"]

    def test_what_is_not_wanted_is_removed(self) -> None:
        saved = FILTER.format(f":FLANNEL-FWD - [0:0]\n{JUMP}{CHAIN}")
        assert change(saved, forward=False) == [
            "*filter",
            JUMP.strip().replace("-A", "-D"),
            "-F FLANNEL-FWD",
            "-X FLANNEL-FWD",
            "COMMIT",
        ]

    def test_an_operators_own_rule_stays_if_we_accept_nothing(self) -> None:
        pair = f"-A FORWARD -s {NETWORK} -j ACCEPT\n-A FORWARD -d {NETWORK} -j ACCEPT\n"
        assert change(FILTER.format(pair), forward=False, sweep=True) == []
        half = pair.splitlines(True)[0]
        assert not any(line.startswith("-D") for line in change(FILTER.format(half), sweep=True))
        both = change(FILTER.format(pair), sweep=True)
        assert [line for line in both if line.startswith("-D")] == [
            line.replace("-A", "-D") for line in pair.splitlines()
        ]

    def test_masquerade_says_what_nftables_says(self) -> None:
        excepted = (IPv4Network("172.16.0.0/12"),)
        rules = Rules(NETWORK, SUBNET, masquerade=True, no_masquerade=excepted)
        comment = '-m comment --comment "flanneld masq"'
        assert masquerade_rules(rules, random_fully=True) == [
            f"-m mark --mark 0x4000/0x4000 {comment} -j RETURN",
            f"-s 10.1.0.0/16 -d 10.1.0.0/16 {comment} -j RETURN",
            f"-d 10.1.5.0/24 {comment} -j RETURN",
            f"-s 10.1.0.0/16 -d 172.16.0.0/12 {comment} -j RETURN",
            f"-s 10.1.0.0/16 ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully",
            f"! -s 10.1.0.0/16 -d 10.1.0.0/16 {comment} -j MASQUERADE --random-fully",
        ]

    @pytest.mark.parametrize(
        ("saved", "expected"),
        [
            ("", True),
            (FILTER.format(""), False),
            (FILTER.format("").replace("DROP", "ACCEPT"), True),
            (FILTER.format(JUMP + CHAIN).replace("DROP", "ACCEPT"), True),
            (
                FILTER.format("-A FORWARD -i a -j DROP\n").replace(
                    "FORWARD DROP", "FORWARD ACCEPT"
                ),
                False,
            ),
            (FILTER.format("-A INPUT -j DROP\n").replace("FORWARD DROP", "FORWARD ACCEPT"), True),
        ],
    )
    def test_who_has_an_opinion_on_forwarding(self, saved: str, expected: bool) -> None:
        assert forwards_all(saved) is expected


class TestPeerAddresses:
    def test_an_address_goes_with_the_last_lease_that_has_it(self) -> None:
        one, other = IPv4Network("10.1.6.0/24"), IPv4Network("10.1.7.0/24")
        a, b = (LeaseAttrs(IPv4Address(each), "vxlan", {}) for each in ("192.0.2.1", "192.0.2.2"))
        peers = {subnet: Lease(subnet, a) for subnet in (one, other)}
        addresses = PeerAddresses()
        addresses.refresh(peers)
        assert set(addresses.all) == {"192.0.2.1"}
        peers[one] = Lease(one, b)
        assert addresses.update(peers, {one}) == {"192.0.2.1", "192.0.2.2"}
        assert set(addresses.all) == {"192.0.2.1", "192.0.2.2"}
        del peers[other]
        assert addresses.update(peers, {other, SUBNET}) == {"192.0.2.1"}
        assert set(addresses.all) == {"192.0.2.2"}
        assert addresses.update(peers, {other}) == set()
