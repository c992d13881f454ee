"""flannel explain ADDRESS: the way of a packet, hop by hop."""

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from flannel.cli.context import Context, DaemonDown, pairs
from flannel.cli.host_view import Host, first_container
from flannel.cli.leases import list_leases
from flannel.cli.rulesets.own_guard import forged
from flannel.cli.rulesets.verdict import FORWARDED, SENT, TRANSLATED, Packet, Verdict, judge
from flannel.errors import StoreError
from flannel.handover import subnet_env
from flannel.handover.subnet_env import SubnetEnv
from flannel.kernel.host import DOCKER_BRIDGE
from flannel.kernel.links import Link, VxlanSettings, Way


class Step(NamedTuple):
    """One line of the explanation.

    :ivar ends: the packet gets no further.
    """

    name: str
    text: str
    ends: bool = False


async def explain(
    context: Context, destination: IPv4Address, source: IPv4Address | None = None
) -> int:
    """Print the steps; exit status 1 if the packet does not get out.

    :param source: an address of a container here, or of this host; by default the first
        container's of this host's subnet.
    """
    steps = [step async for step in _steps(context, destination, source)]
    document: dict[str, Any] = {
        "destination": str(destination),
        "steps": [step._asdict() for step in steps],
    }
    context.show(document, *pairs((step.name, step.text) for step in steps))
    return 1 if any(step.ends for step in steps) else 0


async def _steps(
    context: Context, destination: IPv4Address, source: IPv4Address | None
) -> AsyncIterator[Step]:
    env = subnet_env.read(context.options.subnet_file)
    if source is None and env is not None:
        source = first_container(env.subnet.network)
    if source is not None:
        yield Step("packet", f"{source} -> {destination}")
    yield await _lease(context, destination)
    async with context.host() as host:
        way = await host.netlink.find_way(destination)
        if way is None:
            yield Step(
                "route", "none: the sender gets the error that the network is unreachable", True
            )
            return
        if way.local:
            yield Step("route", "the address is this host's own: delivered here")
            return
        yield _route(host, way)
        if source is not None and all(source != each.interface.ip for each in host.addresses):
            is_masqueraded = False
            came_in = await _came_in(host, env, source, destination)
            for step in _forwarded(host, Packet(source, destination, came_in), way):
                is_masqueraded |= step.name == "masquerade" and step.text.startswith("yes")
                yield step
            if env is not None and host.drops_forged and not is_masqueraded:
                async for step in _guard(host, env, source, destination, way):
                    yield step
        link = host.links.get(way.link)
        if link is not None and link.vxlan is not None:
            async for step in _tunnel(host, link, link.vxlan, way.via or destination):
                yield step
        elif link is not None and link.kind == "tun":
            yield Step("tunnel", f"flanneld reads it from {link.name} and sends it in UDP to "
                       "the host of the lease")  # fmt: skip


async def _lease(context: Context, destination: IPv4Address) -> Step:
    try:
        documents, note = await list_leases(context)
    except StoreError as why:
        return Step("lease", f"not known: {why}")
    suffix = f" ({note})" if note else ""
    for each in documents:
        if destination in IPv4Network(each["subnet"]):
            holder = f"{each['public_ip']}, backend {each['backend']}"
            return Step("lease", f"{each['subnet']} of {holder}{suffix}")
    try:
        status = await context.ask_daemon("/status")
        network = IPv4Network(status["network"]) if status["network"] else None
    except DaemonDown:
        env = subnet_env.read(context.options.subnet_file)
        network = env.network if env is not None else None
    if network is not None and destination in network:
        return Step("lease", f"none: no host holds the subnet of {destination}{suffix}", True)
    return Step("lease", f"none: {destination} is not in the overlay{suffix}")


def _route(host: Host, way: Way) -> Step:
    via = f"via {way.via} " if way.via is not None else ""
    source = f", from this host with source {way.source}" if way.source is not None else ""
    link = host.links.get(way.link)
    mtu = f", MTU {link.mtu}" if link is not None else ""
    return Step("route", f"{via}dev {host.name(way.link)}{mtu}{source}")


async def _came_in(
    host: Host, env: SubnetEnv | None, source: IPv4Address, destination: IPv4Address
) -> str:
    """The link by which a packet comes in: that towards a peer, if it is for a container here."""
    if env is None or destination not in env.subnet.network or source in env.subnet.network:
        return DOCKER_BRIDGE
    back = await host.netlink.find_way(source)
    return host.name(back.link) if back is not None else DOCKER_BRIDGE


def _forwarded(host: Host, coming: Packet, way: Way) -> list[Step]:
    steps = []
    if host.sysctl("ip_forward") == 0:
        steps.append(Step("forwarding", "net.ipv4.ip_forward is 0: dropped", True))
    packet = replace(coming, goes_out=host.name(way.link), protocol="tcp")
    verdict = judge(host.chains, FORWARDED, packet)
    ping = judge(host.chains, FORWARDED, replace(packet, protocol="icmp"))
    if ping == verdict:
        steps.append(_firewall(host, "", verdict))
    else:  # such as ufw's, which let pings pass
        steps += [_firewall(host, "TCP ", verdict), _firewall(host, "ping ", ping)]
    translated = judge(host.chains, TRANSLATED, packet, "nat")
    if translated.outcome == "masquerade":
        text = f"yes, by {translated.by}: the other side sees this host's address"
    else:
        text = f"no: the other side sees {packet.source}"
    steps.append(Step("masquerade", text + _doubt(host, translated)))
    steps.extend(Step("not seen", text) for text in host.unseen)
    return steps


async def _guard(
    host: Host, env: SubnetEnv, source: IPv4Address, destination: IPv4Address, way: Way
) -> AsyncIterator[Step]:
    """What flanneld's own guard drops, and why."""
    subnet = env.subnet.network
    link = host.links.get(way.link)
    by_tunnel = link is not None and (link.vxlan is not None or link.kind == "tun")
    if destination in subnet or (not by_tunnel and destination not in env.network):
        return
    dropped = "dropped by flanneld's own guard (tx_spoofed)"
    if why := forged(source, subnet, env.network, by_tunnel=by_tunnel):
        yield Step("guard", f"{dropped}: {why}", True)
        return
    back = await host.netlink.find_way(source)
    if back is None or back.link == way.link:
        why = f"this host has no route to {source} by a link of containers"
        yield Step("guard", f"{dropped}: {why}", True)
    elif back.via is not None:
        yield Step("guard", f"{dropped}, unless it comes in by {host.name(back.link)}, by which "
                   f"this host reaches {source}")  # fmt: skip


def _firewall(host: Host, what: str, verdict: Verdict) -> Step:
    by = f" by {verdict.by}" if verdict.by else ": no rule forbids it"
    is_dropped = verdict.outcome == "drop"
    text = f"{what}{'dropped' if is_dropped else 'accepted'}{by}{_doubt(host, verdict)}"
    return Step("firewall", text, is_dropped and verdict.sure and not host.unseen)


def _doubt(host: Host, verdict: Verdict) -> str:
    if host.unseen:
        return " (perhaps: the firewall could not be read as a whole)"
    return "" if verdict.sure else " (perhaps: some rules could not be understood)"


async def _tunnel(
    host: Host, link: Link, vxlan: VxlanSettings, hop: IPv4Address
) -> AsyncIterator[Step]:
    """The entries of a VXLAN link on the way to ``hop``, and the outer packet."""
    neighbours = host.tables.list_neighbours(link.index)
    neighbour = next((each for each in neighbours if each.ip == hop.packed), None)
    if neighbour is None:
        yield Step("neighbour", f"{hop} has no MAC on {link.name}: dropped", True)
        return
    mac = neighbour.mac.hex(":")
    yield Step("neighbour", f"{hop} is at {mac}")
    fdb = next(
        (each for each in host.tables.list_fdb(link.index) if each.mac == neighbour.mac), None
    )
    if fdb is None:
        yield Step("FDB", f"{mac} is not known on {link.name}: dropped", True)
        return
    outer = IPv4Address(fdb.dst)
    yield Step("FDB", f"{mac} is behind {outer}")
    way = await host.netlink.find_way(outer)
    if way is None:
        yield Step("outer", f"there is no route to {outer}: dropped", True)
        return
    via = f" via {way.via}" if way.via is not None else ""
    text = f"UDP {vxlan.local} -> {outer} port {vxlan.port}, VNI {vxlan.vni}"
    yield Step("outer", f"{text},{via} dev {host.name(way.link)}")
    source = vxlan.local or way.source or outer
    packet = Packet(source, outer, "", host.name(way.link), "udp", vxlan.port)
    verdict = judge(host.chains, SENT, packet)
    if verdict.outcome == "drop":
        yield _firewall(host, "outer packet ", verdict)
