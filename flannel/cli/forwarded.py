"""A forwarded packet's way through this host: what the kernel and the firewall do with it.

    route = await look_up(host, near, far, bridge)    # `Refused`: the kernel drops the packet
    fates = judge_forwarded(host, Packet(near, far, "docker0", "flannel.1"))

`flannel check` compares it with what it should be; `flannel explain` shows it.
"""

import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

from flannel.cli.host_view import Host
from flannel.cli.rulesets.peril import find_peril
from flannel.cli.rulesets.verdict import FORWARDED, Packet, judge
from flannel.errors import KernelError
from flannel.kernel.links import Link, Way

_NO_ROUTE = {errno.EHOSTUNREACH, errno.ENETUNREACH}
_BAD_SOURCE = {errno.EINVAL, errno.EXDEV}
JUDGED = "tcp", "icmp"
"""The protocols whose packets are judged: ufw accepts pings even if it drops all else."""
_STRICT = 1
"""The value of rp_filter with which the kernel wants the route to a packet's source to lead back
over the link by which the packet came in (ip-sysctl.rst)."""


class Refused(NamedTuple):
    """Why the kernel forwards a packet nowhere.

    :ivar why: a phrase.
    :ivar kind: the finding of `flannel check`.
    :ivar is_unreachable: there is no route, and the sender learns that.
    """

    why: str
    kind: str = "container-route"
    is_unreachable: bool = False


async def look_up(
    host: Host, source: IPv4Address, destination: IPv4Address, came_in: Link
) -> Way | Refused:
    """The kernel's own route for a packet that comes in by a link, by all policy rules.

    :raises KernelError: it cannot be looked up.
    """
    try:
        return await host.netlink.find_forwarded(destination, source, came_in.index)
    except KernelError as error:
        number = error.errno
    if number in _NO_ROUTE:
        off = forwarding_off(host, came_in)
        return (
            Refused(off, "link-forwarding")
            if off
            else Refused("there is no route", is_unreachable=True)
        )
    if number == errno.EACCES:
        return Refused("a route or policy rule prohibits it")
    if number not in _BAD_SOURCE:
        raise KernelError(f"look up the route of {source} to {destination}", number)
    strict = rp_filter(host, came_in) == _STRICT
    if strict:
        text = f"rp_filter is 1 on {came_in.name}, and the route to {source} leads elsewhere"
        return Refused(text, "source-refused")
    return Refused("a route or policy rule drops it")


def forwarding_off(host: Host, link: Link) -> str:
    """The setting that keeps the kernel from forwarding what comes in by a link; "" if none."""
    if host.sysctl("ip_forward") == 0:
        return "net.ipv4.ip_forward is 0"
    if host.sysctl(f"conf/{link.name}/forwarding") == 0:
        return f"net.ipv4.conf.{link.name.replace('.', '/')}.forwarding is 0"
    return ""


def rp_filter(host: Host, link: Link) -> int:
    """The filter of sources in force on a link: 0 none, 1 strict, 2 loose."""
    values = (host.sysctl(f"conf/{name}/rp_filter") or 0 for name in ("all", link.name))
    return max(values)


def find_bridge(host: Host, subnet: IPv4Network | None) -> Link | None:
    """The bridge of the containers: the one with the first address of this host's subnet."""
    for each in host.addresses:
        link = host.links.get(each.link)
        is_first = subnet is not None and each.interface.ip == subnet.network_address + 1
        if is_first and link is not None and link.kind == "bridge":
            return link
    return None


class Fate(NamedTuple):
    """What the firewall does with a packet.

    :ivar by: the rule or policy that decides; "" if there is none.
    :ivar doubt: what may happen instead, and why; "" if that changes nothing.
    :ivar may_drop: the rule that drops it, or may; "" if none does.
    """

    is_dropped: bool
    by: str
    doubt: str = ""
    may_drop: str = ""


def judge_packet(host: Host, hooks: tuple[str, ...], packet: Packet) -> Fate:
    """What all rules at these hooks do with a packet, as far as they are understood."""
    verdict = judge(host.chains, hooks, packet)
    is_dropped = verdict.outcome == "drop"
    if verdict.sure:
        return Fate(is_dropped, verdict.by, may_drop=verdict.by if is_dropped else "")
    peril = find_peril(host.chains, hooks, packet)
    if peril is None:
        return Fate(is_dropped=False, by=verdict.by)
    return Fate(is_dropped, verdict.by, f"dropped by {peril}", peril.by)


def judge_forwarded(host: Host, packet: Packet) -> dict[str, Fate]:
    """What all rules do with a packet of TCP and with a ping."""
    return {
        protocol: judge_packet(host, FORWARDED, replace(packet, protocol=protocol))
        for protocol in JUDGED
    }
