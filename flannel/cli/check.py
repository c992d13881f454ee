"""flannel check: is the overlay healthy, as far as this host can tell?

Each examination looks at one thing and returns findings; what it cannot see it says. They are told
apart from what they need: the daemon, the store, the kernel, the firewall, the peers.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from flannel import backends
from flannel.backends.traits import Carrier, traits
from flannel.cli.config import validate
from flannel.cli.context import Context, DaemonDown, DaemonUnseen, duration
from flannel.cli.findings import KINDS, Finding
from flannel.cli.host_view import Host, first_container, saved_subnet, sysctl
from flannel.cli.peers import Peer, probe_peers
from flannel.cli.probe import ask_port
from flannel.cli.rulesets.verdict import FORWARDED, RECEIVED, Packet, judge
from flannel.conditions import Condition
from flannel.errors import BadNetworkConfig, KernelError, StoreError
from flannel.handover import docker_bridge
from flannel.handover.subnet_env import SubnetEnv
from flannel.kernel.host import Claim, find_overlap
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import Lease
from flannel.network_config import NetworkConfig

_BRIDGE = docker_bridge.NAME
_MOST_JUDGED = 50
"""Peers whose packets are judged by the rules for input, which seldom differ."""
_CONDITIONS = {
    Condition.NFT: "firewall",
    Condition.IPTABLES: "firewall",
    Condition.SYSCTLS: "firewall",
    Condition.MASQUERADE: "firewall",
    Condition.GUARD: "unguarded",
}
"""Those of flanneld's conditions that nothing here would show, and their findings."""


@dataclass
class Facts:
    """What is known of this host's part in the overlay, from whoever could be asked."""

    status: dict[str, Any] | None = None
    config: NetworkConfig | None = None
    leases: tuple[Lease, ...] | None = None
    env: SubnetEnv | None = None
    mark: int = 0
    peers: list[Peer] = field(default_factory=list)

    @property
    def network(self) -> IPv4Network | None:
        """The overlay's range."""
        if self.config is not None:
            return self.config.network
        return self.env.network if self.env is not None else None

    @property
    def subnet(self) -> IPv4Network | None:
        """This host's."""
        if self.status is not None and self.status["lease"] is not None:
            return IPv4Network(self.status["lease"]["subnet"])
        return self.env.subnet.network if self.env is not None else None

    @property
    def interface(self) -> dict[str, Any] | None:
        """The external interface, as flanneld found it."""
        return self.status["interface"] if self.status is not None else None

    @property
    def backend(self) -> str:
        """The backend's name; "" if it is not known."""
        if self.status is not None and self.status["backend"]:
            return str(self.status["backend"])
        return self.config.backend_type if self.config is not None else ""

    @property
    def device(self) -> str:
        """The overlay's link by name; "" if it has none, or that is not known."""
        if self.status is not None and self.status["device"] is not None:
            return str(self.status["device"])
        return ""

    @property
    def port(self) -> int | None:
        """The UDP port that must be open between hosts; None: there is none, or it is unknown."""
        return backends.check(self.config) if self.config is not None else None


async def check(context: Context) -> int:
    """Print what was found; exit status 1 if there is a fault."""
    findings = await examine(context)
    faults = [each for each in findings if KINDS[each.kind].severity == "fault"]
    lines = [str(each) for each in findings] or ["all is well"]
    document = {"healthy": not faults, "findings": [each.document() for each in findings]}
    context.show(document, *lines)
    return 1 if faults else 0


async def examine(context: Context) -> list[Finding]:
    """Everything, in an order in which causes come before what they cause."""
    facts = Facts(env=saved_subnet(context.options.subnet_file), mark=context.options.guard_mark)
    findings = await _ask_daemon(context, facts)
    findings += await _ask_store(context, facts)
    try:
        async with Netlink() as netlink:
            with RtNetlink() as tables:
                host = await Host.look(netlink, tables)
                await host.read_firewall(facts.mark)
                findings += _forwarding(facts, host)
                findings += _marks(facts, host)
                findings += _device(facts, host)
                findings += await _bridge(facts, host)
                findings += await _overlap(facts, host)
                findings += await _peers(context, facts, host)
                findings += [Finding("unseen", text) for text in host.unseen]
    except KernelError as why:
        findings.append(Finding("unseen", f"this host's network: {why}"))
    return findings


async def _ask_daemon(context: Context, facts: Facts) -> list[Finding]:
    try:
        facts.status = status = await context.ask_daemon("/status")
    except DaemonUnseen as why:
        return [Finding("daemon-unseen", str(why))]
    except DaemonDown as why:
        return [Finding("daemon-down", str(why))]
    findings = []
    if not status["ready"]:
        findings.append(Finding("not-ready", status["unready"]))
    for condition, kind in _CONDITIONS.items():
        if text := status["conditions"].get(condition.value):
            findings.append(Finding(kind, text))
    lease = status["lease"]
    if lease is not None and lease["renewal_in"] is not None and lease["renewal_in"] < -600:
        late = duration(-lease["renewal_in"])
        findings.append(
            Finding("renewal-overdue", f"lease {lease['subnet']} should be renewed since {late}")
        )
    subnet = facts.subnet
    if lease is not None and (facts.env is None or facts.env.subnet.network != subnet):
        there = facts.env.subnet if facts.env is not None else "missing"
        what = f"{context.options.subnet_file} is {there}, and the lease is {subnet}"
        findings.append(Finding("subnet-env", what))
    return findings


async def _ask_store(context: Context, facts: Facts) -> list[Finding]:
    try:
        document = await context.config_document()
        facts.leases = (await context.store.snapshot()).leases
    except StoreError as why:
        return [Finding("etcd-down", str(why))]
    if document is None:
        return [Finding("no-config", f"there is none at {context.options.etcd.prefix}/config")]
    try:
        facts.config = validate(document.text)
    except BadNetworkConfig as why:
        return [Finding("bad-config", str(why))]
    findings = []
    if facts.status is None and facts.subnet not in {lease.subnet for lease in facts.leases}:
        findings.append(Finding("no-lease", f"etcd has none for {facts.subnet or 'this host'}"))
    by_address: dict[IPv4Address, list[Lease]] = {}
    for lease in facts.leases:
        by_address.setdefault(lease.attrs.public_ip, []).append(lease)
    for address, leases in by_address.items():
        if len(leases) > 1:
            subnets = ", ".join(str(lease.subnet) for lease in leases)
            findings.append(Finding("same-address", f"{address} is in the leases {subnets}"))
    return findings


def _forwarding(facts: Facts, host: Host) -> list[Finding]:
    findings = []
    if sysctl("ip_forward") == 0:
        findings.append(Finding("ip-forward", "net.ipv4.ip_forward is 0"))
    return findings + _forward_drop(facts, host) + _input_drop(facts, host)


def _forward_drop(facts: Facts, host: Host) -> list[Finding]:
    """Does a rule drop packets between containers here and on a peer?"""
    subnet, network, interface = facts.subnet, facts.network, facts.interface
    device = facts.device or (interface["name"] if interface is not None else "")
    if subnet is None or network is None or not device:
        return []
    peer = next(iter(_peer_subnets(facts)), None)
    far = first_container(peer) if peer is not None else network.broadcast_address - 1
    near = first_container(subnet)
    for protocol in ("tcp", "icmp"):  # ufw lets pings pass, whatever else it drops
        for packet in (
            Packet(near, far, _BRIDGE, device, protocol),
            Packet(far, near, device, _BRIDGE, protocol),
        ):
            verdict = judge(host.chains, FORWARDED, packet)
            if verdict.outcome == "drop" and verdict.sure:
                what = f"{verdict.by} drops {packet.source} -> {packet.destination}"
                return [Finding("forward-drop", what)]
    return []


def _input_drop(facts: Facts, host: Host) -> list[Finding]:
    """Does a rule drop the backend's packets from a peer?"""
    interface, port = facts.interface, facts.port
    if interface is None or not port:
        return []
    own = IPv4Address(interface["address"])
    for lease in (facts.leases or ())[:_MOST_JUDGED]:
        source = lease.attrs.public_ip
        if source == own or lease.subnet == facts.subnet:
            continue
        packet = Packet(source, own, interface["name"], "", "udp", port)
        verdict = judge(host.chains, RECEIVED, packet)
        if verdict.outcome == "drop" and verdict.sure:
            return [Finding("input-drop", f"{verdict.by} drops UDP port {port} from {source}")]
    return []


def _marks(facts: Facts, host: Host) -> list[Finding]:
    if facts.status is None or not (facts.status["firewall"] or {}).get("guarded"):
        return []
    bit = f"bit {facts.mark:#x} of the packet mark"
    return [Finding("mark-conflict", f"{each} uses {bit}") for each in host.marking[:5]]


def _peer_subnets(facts: Facts) -> list[IPv4Network]:
    return [lease.subnet for lease in facts.leases or () if lease.subnet != facts.subnet]


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
        strict = max(sysctl("conf/all/rp_filter") or 0, sysctl(f"conf/{outer.name}/rp_filter") or 0)
        if strict == 1 and facts.config is not None and facts.config.backend.get("DirectRouting"):
            what = f"rp_filter is 1 on {outer.name}, and DirectRouting mixes two ways to peers"
            findings.append(Finding("rp-filter", what))
    return findings


async def _bridge(facts: Facts, host: Host) -> list[Finding]:
    """Does docker's bridge fit the lease?"""
    if facts.subnet is None:
        return []
    first = IPv4Interface((facts.subnet.network_address + 1, facts.subnet.prefixlen))
    mtu = facts.env.mtu if facts.env is not None else 65535
    misfits = await docker_bridge.find_misfits(host.netlink, first, mtu)
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


async def _peers(context: Context, facts: Facts, host: Host) -> list[Finding]:
    try:
        facts.peers, _ = await probe_peers(context)
    except StoreError:
        return [Finding("unseen", "the peers: neither etcd nor flanneld tells who they are")]
    findings = []
    for peer in facts.peers:
        findings += await _peer(facts, host, peer)
    return findings


async def _peer(facts: Facts, host: Host, peer: Peer) -> list[Finding]:
    who = f"{peer.public_ip} ({peer.subnet})"
    misfit = _misfit(facts, peer)
    if misfit and (peer.rtt is not None or peer.underlay_rtt is not None):
        return [Finding("peer-not-ready", f"{who} is not of this network: {misfit}")]
    way = await host.netlink.find_way(first_container(IPv4Network(peer.subnet)))
    expected = {facts.device, (facts.interface or {}).get("name", "")} - {""}
    is_ours_to_route = not misfit and traits(peer.backend).carrier is not Carrier.OTHERS
    if is_ours_to_route and expected and (way is None or host.name(way.link) not in expected):
        there = f"over {host.name(way.link)}" if way is not None else "nowhere"
        return [Finding("route-missing", f"packets for {who} go {there}")]
    if peer.rtt is None:
        return [await _silent(facts, peer, who)]
    findings = []
    if peer.full_size is False:
        size = f"of more than {peer.mtu} bytes" if peer.mtu is not None else "of full size"
        mtu = facts.status["mtu"] if facts.status is not None else facts.env and facts.env.mtu
        what = f"packets {size} do not get to {who}, the overlay's MTU is {mtu}"
        findings.append(Finding("path-mtu", what))
    if peer.probe is None:
        return findings
    if peer.probe.refused and peer.is_ours:
        what = f"{who} answers through the overlay, and nothing listens at flanneld's probe port"
        findings.append(Finding("peer-daemon-dead", what))
    elif peer.probe.ready is False:
        findings.append(Finding("peer-not-ready", f"flanneld of {who} says that it is not ready"))
    elif peer.probe.ready is None and not peer.probe.refused:
        what = f"{who} answers pings through the overlay, and flanneld there does not answer"
        findings.append(Finding("peer-silent", what))
    return findings


def _misfit(facts: Facts, peer: Peer) -> str:
    """Why flanneld here can make nothing of the peer's lease; "" if it can."""
    config, subnet = facts.config, IPv4Network(peer.subnet)
    if config is not None and not (
        subnet.prefixlen == config.subnet_len and subnet.subnet_of(config.network)
    ):
        return f"its lease is no /{config.subnet_len} of {config.network}"
    own = traits(facts.backend)
    if own.carrier is not None and not own.takes_every_lease and peer.backend != own.type:
        return f"its lease is of backend {peer.backend}, not {facts.backend}"
    return ""


async def _silent(facts: Facts, peer: Peer, who: str) -> Finding:
    """Why a peer does not answer through the overlay."""
    if traits(peer.backend).carrier is Carrier.FLANNELD and facts.port is not None:
        # The packet loop is flanneld itself: with it gone, the port is closed, and the kernel there
        # says so.
        answer = await ask_port(IPv4Address(peer.public_ip), facts.port, facts.mark)
        if answer.refused:
            what = (
                f"nothing listens at UDP port {facts.port} of {who}: flanneld there is not running"
            )
            return Finding("peer-daemon-dead", what)
    if peer.underlay_rtt is None:
        return Finding("peer-down", f"{who} answers neither through the overlay nor beside it")
    port = f"UDP port {facts.port}" if facts.port is not None else "the overlay"
    what = f"{who} answers a ping, but not through the overlay: {port} is filtered one way or both"
    return Finding("peer-port", what)
