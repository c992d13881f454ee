"""The part of `flannel check` that looks at this host: firewall, devices, docker, addresses."""

from collections.abc import AsyncIterator

from flannel import backends
from flannel.cli.check_firewall import examine_firewall
from flannel.cli.facts import Facts
from flannel.cli.findings import Finding
from flannel.cli.forwarded import find_bridge, forwarding_off
from flannel.cli.host_view import Host
from flannel.cli.planned import make_planner
from flannel.conditions import Condition
from flannel.handover import docker_bridge
from flannel.handover.subnet_env import first_address
from flannel.kernel.host import Claim, find_overlap
from flannel.kernel.links import Link

_MOST_CONFLICTS = 5
"""The most rules that a finding names for using the guard's bit."""


async def examine_host(facts: Facts, host: Host) -> AsyncIterator[Finding]:
    """All findings about this host.

    :raises KernelError: something cannot be read; the findings before that were yielded.
    """
    for finding in (*_forwarding(facts, host), *_marks(facts, host), *_device(facts, host)):
        yield finding
    for finding in await _bridge(facts, host):
        yield finding
    for finding in await _overlap(facts, host):
        yield finding


def _forwarding(facts: Facts, host: Host) -> list[Finding]:
    findings = []
    if host.sysctl("ip_forward") == 0:
        findings.append(Finding("ip-forward", "net.ipv4.ip_forward is 0"))
    else:
        off = [forwarding_off(host, link) for link in _links_on_the_way(facts, host)]
        findings += [Finding("link-forwarding", each) for each in off if each]
    return findings + examine_firewall(facts, host)


def _links_on_the_way(facts: Facts, host: Host) -> list[Link]:
    """The links by which packets between containers here and on peers come in."""
    planner = make_planner(facts, host)
    outside = [planner.device] if planner is not None else []
    if planner is not None and planner.direct and planner.interface is not None:
        outside.append(host.links[planner.interface.link])
    return [each for each in (find_bridge(host, facts.subnet), *outside) if each is not None]


def _marks(facts: Facts, host: Host) -> list[Finding]:
    if facts.status is None or not (facts.status["firewall"] or {}).get("guarded"):
        return []
    bit = f"bit {facts.mark:#x} of the packet mark"
    return [
        Finding("mark-conflict", f"{each} uses {bit}") for each in host.marking[:_MOST_CONFLICTS]
    ]


def _device(facts: Facts, host: Host) -> list[Finding]:
    findings = []
    interface = facts.interface
    if facts.device:
        link = host.link(facts.device)
        if link is None:
            return [Finding("device-missing", f"there is no {facts.device}")]
        if not link.up:
            findings.append(Finding("device-down", f"{facts.device} is down"))
    outer = host.link(interface["name"]) if interface is not None else None
    other = facts.status["conditions"].get(Condition.OTHER_INTERFACE) if facts.status else None
    if other:
        findings.append(Finding("other-interface", other))
    if facts.status is not None and interface is not None and outer is not None:
        if interface["mtu"] > outer.mtu:
            what = (
                f"{outer.name} has MTU {outer.mtu}, and the overlay was made for {interface['mtu']}"
            )
            findings.append(Finding("interface-mtu", what))
        strict = max(
            host.sysctl("conf/all/rp_filter") or 0,
            host.sysctl(f"conf/{outer.name}/rp_filter") or 0,
        )
        if strict == 1 and facts.config is not None and facts.config.backend.get("DirectRouting"):
            what = f"rp_filter is 1 on {outer.name}, and DirectRouting mixes two ways to peers"
            findings.append(Finding("rp-filter", what))
    return findings


async def _bridge(facts: Facts, host: Host) -> list[Finding]:
    """What does not fit the lease at docker's bridge."""
    if facts.subnet is None:
        return []
    first = first_address(facts.subnet)
    mtu = facts.env.mtu if facts.env is not None else 65535
    misfits = await docker_bridge.find_misfits(
        host.netlink, first, mtu, docker0=not facts.leaves_docker0
    )
    return [Finding("docker0", each.what) for each in misfits]


async def _overlap(facts: Facts, host: Host) -> list[Finding]:
    config = facts.config
    if config is None:
        return []
    own = {facts.subnet} if facts.subnet is not None else set()
    gateways = {lease.attrs.public_ip for lease in facts.leases or ()}
    claim = Claim(config, backends.route_length(config), own, gateways)
    found = await find_overlap(host.netlink, host.tables, claim)
    if not found:
        return []
    return [Finding("overlap", f"this host has {found}, which overlaps {config.network}")]
