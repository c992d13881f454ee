"""The part of `flannel check` that looks at docker's own rules and at its configuration file."""

import re
from ipaddress import IPv4Address, IPv4Network

from flannel.cli.findings import Finding
from flannel.cli.host_view import Host, first_container
from flannel.cli.rulesets.verdict import Packet, Verdict, judge
from flannel.handover import daemon_json
from flannel.handover.daemon_json import DaemonJsonUnread

_MOST_JUDGED = 50
"""The number of containers for which rules are evaluated; docker has one rule for each."""
_ADDRESS = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?(?![\d.])")


async def examine_config() -> list[Finding]:
    """Why docker will refuse to start."""
    try:
        return [Finding("daemon-json", each) for each in await daemon_json.refusals()]
    except DaemonJsonUnread as why:
        return [Finding("unseen", str(why))]


def dropped_directly(
    host: Host, subnet: IPv4Network, far: IPv4Address, device: str
) -> dict[IPv4Address, Verdict]:
    """The containers whose packets from a peer are dropped before they are routed, by address.

    docker 28 and later does that in ``raw PREROUTING`` for each container, with iptables and with
    nft. Rules count that name an address of the subnet, or the subnet.

    :param far: a peer's container.
    :param device: the link by which the packet comes in.
    """
    dropped = {}
    for near in _containers(host, subnet):
        verdict = judge(host.chains, ("prerouting",), Packet(far, near, device, protocol="tcp"))
        if verdict.outcome == "drop" and verdict.sure and any(_inside(verdict.by, subnet)):
            dropped[near] = verdict
    return dropped


def direct_routing(dropped: dict[IPv4Address, Verdict], far: IPv4Address) -> list[Finding]:
    """One finding for all that `dropped_directly` found."""
    if not dropped:
        return []
    near, verdict = next(iter(dropped.items()))
    more = f", and likewise to {len(dropped) - 1} more" if len(dropped) > 1 else ""
    return [Finding("direct-routing", f"{verdict.by} drops {far} -> {near}{more}")]


def _containers(host: Host, subnet: IPv4Network) -> list[IPv4Address]:
    """The first container, and those that a rule that drops names."""
    found = {first_container(subnet): None}
    for table in host.chains.values():
        for chain in table.values():
            for rule in chain.rules:
                if rule.target == "drop":
                    found |= {
                        each.network_address: None
                        for each in _inside(rule.text, subnet)
                        if each.prefixlen == 32
                    }
    return list(found)[:_MOST_JUDGED]


def _inside(text: str, subnet: IPv4Network) -> list[IPv4Network]:
    """The addresses and ranges in a rule's text that are in ``subnet``."""
    found = []
    for word in _ADDRESS.findall(text):
        try:
            network = IPv4Network(word)
        except ValueError:
            continue
        if network.subnet_of(subnet):
            found.append(network)
    return found


def untouched(dropped: dict[IPv4Address, Verdict], subnet: IPv4Network) -> IPv4Address:
    """A container's address that is not among ``dropped``, to judge the other rules with."""
    first = first_container(subnet)
    later = (first + n for n in range(len(dropped) + 1))
    return next((each for each in later if each not in dropped and each in subnet), first)
