"""flannel explain ADDRESS: the way of a packet, hop by hop."""

from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

from flannel.cli.context import Context, DaemonDown, pairs
from flannel.cli.forwarded import (
    Fate,
    Refused,
    find_bridge,
    forwarding_off,
    judge_forwarded,
    judge_packet,
    look_up,
)
from flannel.cli.host_view import Host, first_container
from flannel.cli.leases import list_leases
from flannel.cli.rulesets.own_guard import forged
from flannel.cli.rulesets.verdict import SENT, TRANSLATED, Packet, judge
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
        origin = _forwarded_from(host, source)
        came_in = await _came_in(host, env, origin, destination) if origin is not None else None
        way: Way | Refused | None
        if origin is not None and came_in is not None:
            way = await look_up(host, origin, destination, came_in)
        else:
            way = await host.netlink.find_way(destination)
        if way is None or isinstance(way, Refused):
            yield _refused(host, way, came_in)
            return
        if way.local:
            yield Step("route", "the address is this host's own: delivered here")
            return
        yield _route(host, way, came_in)
        if origin is not None:
            is_masqueraded = False
            by = came_in.name if came_in is not None else DOCKER_BRIDGE
            for step in _forwarded(host, Packet(origin, destination, by), way):
                is_masqueraded |= step.name == "masquerade" and step.text.startswith("yes")
                yield step
            if env is not None and host.drops_forged and not is_masqueraded:
                async for step in _guard(host, env, origin, destination, way):
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


def _forwarded_from(host: Host, source: IPv4Address | None) -> IPv4Address | None:
    """The source of a packet that this host forwards; None: it sends the packet itself."""
    is_own = any(source == each.interface.ip for each in host.addresses)
    return None if is_own else source


def _refused(host: Host, refused: Refused | None, came_in: Link | None) -> Step:
    """The step at which the kernel drops a packet instead of sending it on."""
    if came_in is not None and (off := forwarding_off(host, came_in)):
        return Step("forwarding", f"{off}: dropped", True)
    if came_in is not None and refused is not None and not refused.is_unreachable:
        return Step("route", f"dropped, coming in by {came_in.name}: {refused.why}", True)
    text = "none: the sender gets the error that the network is unreachable"
    return Step("route", text, True)


def _route(host: Host, way: Way, came_in: Link | None) -> Step:
    via = f"via {way.via} " if way.via is not None else ""
    link = host.links.get(way.link)
    mtu = f", MTU {link.mtu}" if link is not None else ""
    origin = f", from this host with source {way.source}" if way.source is not None else ""
    if came_in is not None:
        origin = f", coming in by {came_in.name}"
    return Step("route", f"{via}dev {host.name(way.link)}{mtu}{origin}")


async def _came_in(
    host: Host, env: SubnetEnv | None, source: IPv4Address, destination: IPv4Address
) -> Link | None:
    """The link by which a packet comes in: that towards a peer, if it is for a container here."""
    bridge = find_bridge(host, env.subnet.network if env is not None else None)
    bridge = bridge or host.link(DOCKER_BRIDGE)
    if env is None or destination not in env.subnet.network or source in env.subnet.network:
        return bridge
    back = await host.netlink.find_way(source)
    return host.links.get(back.link) if back is not None else bridge


def _forwarded(host: Host, coming: Packet, way: Way) -> list[Step]:
    packet = replace(coming, goes_out=host.name(way.link))
    tcp, ping = judge_forwarded(host, packet).values()
    steps = []
    if host.sysctl("ip_forward") == 0:
        steps.append(Step("forwarding", "net.ipv4.ip_forward is 0: dropped", True))
    if ping == tcp:
        steps.append(_firewall(host, "", tcp))
    else:  # such as ufw's, which let pings pass
        steps += [_firewall(host, "TCP ", tcp), _firewall(host, "ping ", ping)]
    translated = judge(host.chains, TRANSLATED, replace(packet, protocol="tcp"), "nat")
    if translated.outcome == "masquerade":
        text = f"yes, by {translated.by}: the other side sees this host's address"
    else:
        text = f"no: the other side sees {packet.source}"
    doubt = "" if translated.sure else "some rules could not be understood"
    steps.append(Step("masquerade", text + _doubt(host, doubt)))
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


def _firewall(host: Host, what: str, fate: Fate) -> Step:
    by = f" by {fate.by}" if fate.by else ": no rule forbids it"
    text = f"{what}{'dropped' if fate.is_dropped else 'accepted'}{by}{_doubt(host, fate.doubt)}"
    return Step("firewall", text, fate.is_dropped and not fate.doubt and not host.unseen)


def _doubt(host: Host, doubt: str) -> str:
    if host.unseen:
        return " (perhaps: the firewall could not be read as a whole)"
    return f" (perhaps: {doubt})" if doubt else ""


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
    fate = judge_packet(host, SENT, packet)
    if fate.is_dropped or fate.doubt:
        yield _firewall(host, "outer packet ", fate)
