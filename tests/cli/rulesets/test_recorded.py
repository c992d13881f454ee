"""What is made of the rulesets of docker, ufw, firewalld and kube-proxy.

Recorded on hosts with the lease 10.1.5.0/24 of 10.1.0.0/16; docker-28 and kube-proxy are written
after what those print.
"""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from flannel.cli.rulesets import iptables, nft
from flannel.cli.rulesets.verdict import (
    FORWARDED,
    RECEIVED,
    SENT,
    TRANSLATED,
    Chains,
    Packet,
    Verdict,
    judge,
)

RECORDED = Path(__file__).parent / "recorded"
NEAR, FAR, HOST, PEER = (
    IPv4Address(text) for text in ("10.1.5.2", "10.1.9.2", "192.0.2.11", "192.0.2.12")
)
OUT = Packet(NEAR, FAR, "docker0", "flannel.1", "tcp")
IN = Packet(FAR, NEAR, "flannel.1", "docker0", "tcp")
TUNNEL_IN = Packet(PEER, HOST, "eth0", "", "udp", 8472)
TUNNEL_OUT = Packet(HOST, PEER, "", "eth0", "udp", 8472)
WORLD = Packet(NEAR, IPv4Address("198.51.100.1"), "docker0", "eth0", "tcp")


def ping(packet: Packet) -> Packet:
    return replace(packet, protocol="icmp")


def recorded(name: str) -> Chains:
    text = (RECORDED / name).read_text()
    return nft.parse(text) if name.endswith(".json") else iptables.parse(text, "iptables")


ACCEPT, DROP = "accept", "drop"
STRANGER = replace(OUT, source=PEER)

DOCKER = [  # a container may begin a connection, and nobody to one but at a published port
    (FORWARDED, OUT, ACCEPT, "-A FORWARD -i docker0 ! -o docker0"),
    (FORWARDED, ping(OUT), ACCEPT, "-A FORWARD -i docker0 ! -o docker0"),
    (FORWARDED, IN, DROP, "policy drop of iptables filter FORWARD"),
    (FORWARDED, ping(IN), DROP, "policy drop of iptables filter FORWARD"),
    (FORWARDED, replace(IN, port=80), ACCEPT, "-A DOCKER -d 10.1.5.2/32 ! -i docker0"),
    (RECEIVED, TUNNEL_IN, ACCEPT, "policy accept of iptables filter INPUT"),
]
DOCKER_28 = [  # it drops in raw, before flanneld's rules, what comes past its bridge
    (FORWARDED, IN, DROP, "iptables raw PREROUTING: -A PREROUTING -d 10.1.5.2/32 ! -i docker0"),
    (FORWARDED, OUT, ACCEPT, "iptables filter FLANNEL-FWD: -A FLANNEL-FWD -s 10.1.0.0/16"),
]
UFW = [  # pings pass wherever they go, and else what was allowed
    (FORWARDED, OUT, ACCEPT, "-A ufw-user-forward -s 10.1.0.0/16"),
    (FORWARDED, STRANGER, DROP, "policy drop of iptables filter FORWARD"),
    (FORWARDED, ping(STRANGER), ACCEPT, "-A ufw-before-forward -p icmp -m icmp --icmp-type 8"),
    (RECEIVED, TUNNEL_IN, ACCEPT, "-A ufw-user-input -p udp -m udp --dport 8472"),
    (RECEIVED, replace(TUNNEL_IN, port=8285), DROP, "policy drop of iptables filter INPUT"),
    (SENT, TUNNEL_OUT, ACCEPT, "-A ufw-track-output -p udp"),
]
FIREWALLD = [  # policy accept everywhere, and rejects; docker0 is in the zone trusted
    (FORWARDED, OUT, ACCEPT, "nft inet firewalld filter_FWD_trusted: accept"),
    (FORWARDED, IN, DROP, "nft inet firewalld filter_FWD_public: reject"),
    (RECEIVED, TUNNEL_IN, ACCEPT, "nft inet firewalld filter_IN_public_allow: udp dport == 8472"),
    (RECEIVED, replace(TUNNEL_IN, port=8285), DROP, "nft inet firewalld filter_IN_public: reject"),
    (SENT, TUNNEL_OUT, ACCEPT, "policy accept of nft inet firewalld filter_OUTPUT"),
]
KUBE_PROXY = [
    (FORWARDED, OUT, ACCEPT, "-A FORWARD -s 10.1.0.0/16"),
    (FORWARDED, ping(IN), ACCEPT, "-A FORWARD -s 10.1.0.0/16"),
    (FORWARDED, replace(WORLD, source=PEER), DROP, "policy drop of iptables filter FORWARD"),
    (RECEIVED, TUNNEL_IN, ACCEPT, "policy accept of iptables filter INPUT"),
]
WITHOUT_ENDPOINTS = replace(OUT, destination=IPv4Address("10.96.12.7"), port=5432)
KUBE_PROXY_NFT = [
    (FORWARDED, OUT, ACCEPT, "policy accept of nft ip kube-proxy filter-forward"),
    (FORWARDED, WITHOUT_ENDPOINTS, DROP, "nft ip kube-proxy reject-chain: reject"),
    (RECEIVED, TUNNEL_IN, ACCEPT, "policy accept of nft ip kube-proxy filter-input"),
]
CASES: dict[str, Sequence[tuple[tuple[str, ...], Packet, str, str]]] = {
    "docker-20.10.save": DOCKER,
    "docker-28.save": DOCKER_28,
    "ufw.save": UFW,
    "firewalld-1.3.json": FIREWALLD,
    "kube-proxy.save": KUBE_PROXY,
    "kube-proxy-nft.json": KUBE_PROXY_NFT,
}


@pytest.mark.parametrize(
    ("name", "hooks", "packet", "outcome", "by"),
    [(name, *case) for name, cases in CASES.items() for case in cases],
)
def test_verdicts_are_sure_and_right(
    name: str, hooks: tuple[str, ...], packet: Packet, outcome: str, by: str
) -> None:
    verdict = judge(recorded(name), hooks, packet)
    assert (verdict.outcome, verdict.sure) == (outcome, True), verdict
    assert by in verdict.by


@pytest.mark.parametrize(
    ("name", "packet", "outcome"),
    [
        ("docker-20.10.save", WORLD, "masquerade"),
        ("docker-20.10.save", OUT, "masquerade"),  # without mk-docker-opts' --ip-masq=false
        ("docker-20.10.save", replace(WORLD, source=PEER), "accept"),
        ("firewalld-1.3.json", WORLD, "accept"),
        ("kube-proxy.save", WORLD, "accept"),
        ("kube-proxy-nft.json", WORLD, "accept"),
    ],
)
def test_recorded_rules_decide_what_is_masqueraded(name: str, packet: Packet, outcome: str) -> None:
    verdict = judge(recorded(name), TRANSLATED, packet, "nat")
    assert (verdict.outcome, verdict.sure) == (outcome, True)


def test_nfts_listing_of_iptables_rules_is_never_sure_of_a_different_verdict() -> None:
    """Matches of iptables-nft that nft cannot print are called xt in its document."""
    saved, listed = recorded("docker-20.10.save"), recorded("docker-20.10.json")
    for packet in (OUT, IN, ping(OUT), ping(IN)):
        known: Verdict = judge(saved, FORWARDED, packet)
        guessed = judge(listed, FORWARDED, packet)
        assert guessed.outcome == known.outcome or not guessed.sure
    translated = judge(listed, TRANSLATED, WORLD, "nat")
    assert not translated.sure
