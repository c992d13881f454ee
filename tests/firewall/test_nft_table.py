"""The text of our table in nftables: what the kernel does with it is in netns-tests."""

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from flannel.firewall.nft_table import Abilities, Counter, counter_names, document, set_names
from flannel.firewall.peer_addresses import LEASES, PEERS, Element
from flannel.firewall.rules import Guard, Rules

NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.5.0/24")
OWN = (IPv4Address("192.0.2.5"),)
VXLAN = Guard("flannel.7", "eth0", OWN, port=4789, vni=7)
UDP = Guard("flannel0", "eth0", port=8285)
HOST_GW = Guard("", "eth0", routed=True)
MASQUERADE = Rules(NETWORK, SUBNET, masquerade=True)


def guarded(guard: Guard) -> Rules:
    return Rules(NETWORK, SUBNET, guard=guard, mark=0x100)


def rules_of(chain: str, text: str) -> list[str]:
    """The rules of a chain in a document for nft."""
    body = text.partition(f"chain {chain} {{\n")[2].partition("\n}")[0]
    return [line for line in body.splitlines() if not line.startswith("type ")]


class TestDocument:
    def test_the_table_is_replaced_in_one_transaction(self) -> None:
        text = document(MASQUERADE, upstream={("ip", "flannel-ipv4")})
        assert text.startswith(
            "add table ip flannel\ndelete table ip flannel\n"
            "delete table ip flannel-ipv4\ntable ip flannel {\n"
        )

    def test_rules_without_content_leave_no_table(self) -> None:
        text = document(Rules(NETWORK, SUBNET, forward=True))
        assert text == "add table ip flannel\ndelete table ip flannel\n"

    def test_counters_keep_their_values(self) -> None:
        text = document(guarded(VXLAN), counters={"spoofed": Counter(7, 490)})
        assert "counter spoofed { packets 7 bytes 490 }" in text
        assert "counter not_mine { packets 0 bytes 0 }" in text

    @pytest.mark.parametrize("guard", [VXLAN, UDP, HOST_GW], ids=["vxlan", "udp", "host-gw"])
    def test_the_counters_are_those_that_the_rules_count_in(self, guard: Guard) -> None:
        text = document(guarded(guard))
        named = set(re.findall(r"\bcounter name (\w+) drop", text))
        assert named == set(counter_names(guard))
        assert counter_names(None) == ()


class TestMasquerade:
    def test_masquerade_is_for_packets_that_leave_the_overlay_or_enter_it(self) -> None:
        assert rules_of("postrouting", document(MASQUERADE)) == [
            "meta mark & 0x4000 == 0x4000 return",
            "ip saddr 10.1.0.0/16 ip daddr 10.1.0.0/16 return",
            "ip daddr 10.1.5.0/24 return",
            "ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random",
            "ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade fully-random",
        ]

    def test_excepted_networks_come_first_and_random_ports_are_optional(self) -> None:
        excepted = IPv4Network("172.16.0.0/12"), IPv4Network("192.0.2.1")
        rules = Rules(NETWORK, SUBNET, masquerade=True, random_ports=False, no_masquerade=excepted)
        assert rules_of("postrouting", document(rules))[3:] == [
            "ip saddr 10.1.0.0/16 ip daddr { 172.16.0.0/12, 192.0.2.1/32 } return",
            "ip saddr 10.1.0.0/16 ip daddr != 224.0.0.0/4 masquerade",
            "ip saddr != 10.1.0.0/16 ip daddr 10.1.0.0/16 masquerade",
        ]


class TestReceiving:
    def test_the_guard_is_for_one_port_and_one_vni(self) -> None:
        text = document(guarded(VXLAN))
        assert rules_of("input", text) == ["udp dport 4789 @th,96,24 7 goto received"]
        assert rules_of("overlay", text)[0] == 'iifname != "flannel.7" accept'

    def test_each_peer_may_use_the_sources_of_its_leases(self) -> None:
        elements = [Element(PEERS, "192.0.2.1"), Element(LEASES, "192.0.2.1 . 0xa010600")]
        text = document(guarded(VXLAN), elements)
        assert "set peers { type ipv4_addr; elements = { 192.0.2.1 } }" in text
        typed = "set leases { typeof ip saddr . @th,336,32; "
        assert f"{typed}elements = {{ 192.0.2.1 . 0xa010600 }} }}" in text
        assert rules_of("received", text) == [
            "@th,224,16 != 0x0800 counter name not_ipv4 drop",
            "ip saddr . (@th,336,32 & 0xffffff00) != @leases jump stranger",
            "ip daddr != { 192.0.2.5 } counter name other_address drop",
            'iifname != { "eth0" } fib saddr . iif oif missing counter name wrong_interface drop',
        ]

    @pytest.mark.parametrize(
        ("links", "expected"),
        [
            (("eth0", "eth1.5"), 'iifname != { "eth0", "eth1.5" } fib'),
            (('e"h0', "eth1"), 'iifname != { "eth1" } fib'),
            (("eth*",), "fib"),
        ],
    )
    def test_peers_may_send_on_each_link_to_their_network(
        self, links: tuple[str, ...], expected: str
    ) -> None:
        guard = replace(VXLAN, interface=links[0], siblings=links[1:])
        (rule,) = rules_of("received", document(guarded(guard)))[-1:]
        assert rule == f"{expected} saddr . iif oif missing counter name wrong_interface drop"

    def test_an_nft_without_pairs_has_addresses_only(self) -> None:
        abilities = Abilities(pairs=False)
        text = document(guarded(VXLAN), [Element(PEERS, "192.0.2.1")], abilities=abilities)
        assert "leases" not in text
        assert rules_of("received", text)[1] == "ip saddr != @peers counter name unknown_peer drop"

    def test_without_peers_no_sender_is_accepted(self) -> None:
        assert "set peers { type ipv4_addr;  }" in document(guarded(VXLAN))

    def test_udp_checks_the_link_only_and_host_gw_nothing(self) -> None:
        text = document(guarded(replace(UDP, siblings=("eth1",))))
        assert rules_of("input", text) == [
            'udp dport 8285 ip saddr @peers iifname != { "eth0", "eth1" } '
            "fib saddr . iif oif missing counter name wrong_interface drop"
        ]
        assert "chain overlay" not in text
        assert "chain input" not in document(guarded(HOST_GW))


class TestSending:
    def test_vxlan_marks_packets_of_its_link_and_requires_the_mark_at_the_port(self) -> None:
        text = document(guarded(VXLAN))
        assert rules_of("by_link", text) == [
            "meta iif == 0 meta mark set meta mark | 0x100",
            "ip saddr 10.1.5.0/24 accept",
            "fib saddr type local accept",
            "counter name tx_spoofed drop",
        ]
        assert rules_of("sent", text) == [
            "meta mark & 0x100 != 0 meta mark set meta mark & 0xfffffeff accept",
            "meta skuid >= 0 counter name tx_injected drop",
            "@th,224,16 != 0x0800 counter name tx_not_ipv4 drop",
        ]

    def test_a_packet_that_may_be_several_datagrams_counts_as_vxlan_unless_it_is_an_answer(
        self,
    ) -> None:
        text = document(guarded(VXLAN), abilities=Abilities(nat=True))
        may_be = "udp dport 4789 @th,96,24 != 7 ip length >= 112 "
        forwarded = f"{may_be}ip daddr @peers goto forwarded_segments"
        assert rules_of("forward", text)[-1] == forwarded
        sent = f"{may_be}meta iif 0 meta skuid >= 0 ip daddr @peers goto segments"
        assert rules_of("leaving", text)[-1] == sent
        drop = "counter name tx_injected drop"
        assert rules_of("segments", text) == ["ct direction reply return", drop]
        assert rules_of("segments", document(guarded(VXLAN))) == [drop]
        assert rules_of("forwarded_segments", text) == [
            "ip saddr @peers fib saddr . iif oif exists return",
            "goto segments",
        ]

    def test_udp_requires_the_mark_at_the_port_of_peers_only(self) -> None:
        text = document(guarded(UDP))
        assert rules_of("output", text) == ["udp dport 8285 ip daddr @peers goto sent"]
        assert rules_of("sent", text)[1:] == ["counter name tx_injected drop"]
        assert "mark set meta mark |" not in text  # flanneld's sockets do that

    def test_host_gw_has_rules_for_sources_only(self) -> None:
        text = document(guarded(HOST_GW))
        to_peers = "ip daddr 10.1.0.0/16 ip daddr != 10.1.5.0/24"
        assert rules_of("forward", text) == [f"{to_peers} goto forwarded"]
        assert rules_of("leaving", text) == [f"{to_peers} goto by_route"]
        assert "oifname" not in text
        assert "mark" not in text

    def test_direct_routing_has_the_rules_of_vxlan_and_of_host_gw(self) -> None:
        text = document(guarded(replace(VXLAN, routed=True)))
        assert len(rules_of("leaving", text)) == 5
        assert "chain by_link" in text
        assert "chain by_route" in text

    def test_conntrack_is_asked_only_if_the_host_translates_addresses(self) -> None:
        rules = guarded(VXLAN)
        assert " ct " not in document(rules, abilities=Abilities(nat=False))
        assert " ct original proto-dst != 4789" in document(rules, abilities=Abilities(nat=True))
        translated = "ct direction original ct original ip daddr != @peers"
        assert translated in document(guarded(UDP), abilities=Abilities(nat=True))


def test_the_table_has_the_sets_that_its_rules_read() -> None:
    assert set_names(guarded(VXLAN), Abilities()) == {PEERS, LEASES}
    assert set_names(guarded(VXLAN), Abilities(pairs=False)) == {PEERS}
    assert set_names(guarded(UDP), Abilities()) == {PEERS}
    assert set_names(guarded(HOST_GW), Abilities()) == set()
    assert set_names(MASQUERADE, Abilities()) == set()
