"""The text of our chains in iptables: what the kernel does with them is in netns-tests."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from flannel.firewall.iptables_guard import PLACES, guard_rules
from flannel.firewall.iptables_text import (
    changes,
    forward_rules,
    forwards_all,
    masquerade_rules,
    removal,
)
from flannel.firewall.rules import Guard, Rules

NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.5.0/24")
MASQUERADE = Rules(NETWORK, SUBNET, masquerade=True)


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
    def test_rules_that_are_right_are_not_written(self) -> None:
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

    def test_our_jump_follows_the_jump_to_docker_user(self) -> None:
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

    def test_rules_that_are_not_wanted_are_removed(self) -> None:
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

    def test_masquerade_rules_match_those_of_nftables(self) -> None:
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
    def test_a_forward_chain_that_drops_does_not_forward_all(
        self, saved: str, expected: bool
    ) -> None:
        assert forwards_all(saved) is expected


class TestGuard:
    VXLAN = Guard("flannel.7", "eth0", (IPv4Address("192.0.2.5"),), port=4789, vni=7)

    def rules(self, guard: Guard | None) -> Rules:
        return Rules(NETWORK, SUBNET, guard=guard, mark=0x100)

    def chain(self, name: str, guard: Guard) -> list[str]:
        return next(lines for place, lines in guard_rules(self.rules(guard)).items()
                    if place.chain == name)  # fmt: skip

    def test_vxlan_marks_packets_of_its_link_and_drops_others_to_the_port(self) -> None:
        assert self.chain("FLANNEL-MARK", self.VXLAN) == [
            "-o flannel.7 -j MARK --set-xmark 0x100/0x100",
            "-p udp -m udp --dport 4789 -m length --length 112:65535 "
            '-m u32 ! --u32 "0x0>>0x16&0x3c@0xc>>0x8=0x7" -m conntrack --ctdir ORIGINAL '
            '-m owner --socket-exists -m comment --comment "flanneld drop tx_injected" -j DROP',
            "! -o flannel.7 -p udp -m udp --dport 4789 -j MARK --set-xmark 0x0/0x100",
        ]
        first, *_ = self.chain("FLANNEL-OUT", self.VXLAN)
        assert first == (
            '-p udp -m udp --dport 4789 -m u32 --u32 "0x0>>0x16&0x3c@0xc>>0x8=0x7" '
            "-m mark --mark 0x0/0x100 -m owner --socket-exists "
            '-m comment --comment "flanneld drop tx_injected" -j DROP'
        )

    def test_udp_drops_only_datagrams_that_begin_like_an_ip_packet(self) -> None:
        guard = Guard("flannel0", "eth0", port=8285)
        assert '--u32 "0x0>>0x16&0x3c@0x8>>0x1c=0x4"' in self.chain("FLANNEL-OUT", guard)[0]
        segments, cleared = self.chain("FLANNEL-MARK", guard)
        assert '--length 68:65535 -m u32 ! --u32 "0x0>>0x16&0x3c@0x8>>0x1c=0x4"' in segments
        assert cleared == "! -o flannel0 -p udp -m udp --dport 8285 -j MARK --set-xmark 0x0/0x100"

    def test_peers_are_held_against_their_link_where_they_have_one_only(self) -> None:
        for guard in (self.VXLAN, Guard("flannel0", "eth0", port=8285)):
            comment = '"flanneld drop wrong_interface"'
            assert comment in " ".join(self.chain("FLANNEL-IN", guard))
            guard = replace(guard, siblings=("eth1",))
            assert comment not in " ".join(self.chain("FLANNEL-IN", guard))

    def test_host_gw_checks_sources_only(self) -> None:
        chains = guard_rules(self.rules(Guard("", "eth0", routed=True)))
        assert [place.chain for place in chains] == ["FLANNEL-IN"]

    def test_right_rules_are_not_written_and_unwanted_ones_are_removed(self) -> None:
        guard = guard_rules(self.rules(self.VXLAN))
        saved = "".join(
            f"*{table}\n"
            + "".join(f":{place.chain} - [0:0]\n" for place in guard if place.table == table)
            + "".join(
                f"-A {place.builtin} {place.jump}\n"
                + "".join(f"-A {place.chain} {rule}\n" for rule in lines)
                for place, lines in guard.items()
                if place.table == table
            )
            + "COMMIT\n"
            for table in ("mangle", "raw")
        )
        nothing = {"network": NETWORK, "forward": (), "masquerade": (), "sweep": False}
        assert changes(saved, **nothing, guard=guard) == ""  # type: ignore[arg-type]
        gone = changes(saved, **nothing)  # type: ignore[arg-type]
        assert gone == removal(saved)
        assert gone.count("\n-X ") == len(PLACES) == len(guard)

    def test_packets_are_marked_before_those_without_mark_are_dropped(self) -> None:
        guard = guard_rules(self.rules(self.VXLAN))
        nothing = {"network": NETWORK, "forward": (), "masquerade": (), "sweep": False}
        made = changes("", **nothing, guard=guard)  # type: ignore[arg-type]
        assert made.index("*mangle") < made.index("*raw")
        assert "-I OUTPUT 1 " in made
        assert "-A POSTROUTING " in made
        gone = changes(made.replace("-I OUTPUT 1", "-A OUTPUT"), **nothing)  # type: ignore[arg-type]
        assert gone.index("*raw") < gone.index("*mangle")
