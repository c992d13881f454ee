"""The part of `flannel check` that takes packets through this host's firewall.

Packets between a container here and one of each peer, and the tunnel's own packets from and to each
peer. A drop that is sure is a fault; one that depends on a condition that is not understood is a
warning with the rule's text.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address

from flannel.backends.traits import Carrier, traits
from flannel.cli.check_docker import direct_routing, dropped_directly, untouched
from flannel.cli.facts import Facts
from flannel.cli.findings import Finding
from flannel.cli.forwarded import JUDGED, Fate, find_bridge, judge_packet
from flannel.cli.host_view import Host, first_container
from flannel.cli.rulesets.verdict import EPHEMERAL, FORWARDED, RECEIVED, SENT, Packet
from flannel.kernel.host import DOCKER_BRIDGE
from flannel.lease import Lease

_MOST_PEERS = 50
"""The most peers whose packets are judged; results seldom differ."""
_RULES = 20_000
"""Where a host has more rules, fewer peers are judged: 10,000 take 0.14 s for each of them."""


def examine_firewall(facts: Facts, host: Host) -> list[Finding]:
    """All findings about rules that drop packets of the overlay."""
    return [*_forwarded(facts, host), *_outer(facts, host)]


def _peers(facts: Facts, host: Host) -> list[Lease]:
    """The peers whose packets are judged."""
    n_rules = sum(len(chain.rules) for table in host.chains.values() for chain in table.values())
    most = min(_MOST_PEERS, 1 + _RULES // (1 + n_rules))
    own = {each.interface.ip for each in host.addresses}
    leases = [
        lease
        for lease in facts.leases or ()
        if lease.subnet != facts.subnet and lease.attrs.public_ip not in own
    ]
    return leases[:most]


class _Found:
    """Findings, one for each rule."""

    def __init__(self, kind: str, unsure: str) -> None:
        self._kinds = kind, unsure
        self._packets: dict[Fate, dict[IPv4Address, str]] = {}

    def note(self, peer: IPv4Address, packet: str, found: Fate) -> None:
        """Note a packet of or for a peer, by its text, if it may not pass."""
        if found.may_drop:
            self._packets.setdefault(found, {}).setdefault(peer, packet)

    def findings(self) -> Iterator[Finding]:
        """What was noted; of packets with one fate the first, and the number of other peers."""
        for found, packets in self._packets.items():
            first, *others = packets.values()
            text = first + (f", and likewise of {len(others)} more peers" if others else "")
            if not found.doubt:
                yield Finding(self._kinds[0], f"{found.by} drops {text}")
            else:
                yield Finding(self._kinds[1], f"{text} may be {found.doubt}")


def _forwarded(facts: Facts, host: Host) -> Iterator[Finding]:
    """Rules that drop packets between containers here and on peers."""
    subnet, network, interface = facts.subnet, facts.network, facts.interface
    device = facts.device or (interface["name"] if interface is not None else "")
    if subnet is None or network is None or not device:
        return
    bridge = find_bridge(host, subnet)
    inside = bridge.name if bridge is not None else DOCKER_BRIDGE
    # Without peers an address of the network stands for their containers.
    fars = [first_container(lease.subnet) for lease in _peers(facts, host)]
    fars = fars or [network.broadcast_address - 1]
    dropped = dropped_directly(host, subnet, fars[0], device)
    yield from direct_routing(dropped, fars[0])
    known = {each.by for each in dropped.values()}
    near = untouched(dropped, subnet)
    found = _Found("forward-drop", "forward-unsure")
    for far in fars:
        for protocol in JUDGED:
            for packet in (
                Packet(near, far, inside, device, protocol),
                Packet(far, near, device, inside, protocol),
            ):
                its = judge_packet(host, FORWARDED, packet)
                if its.may_drop not in known:
                    found.note(far, f"{packet.source} -> {packet.destination}", its)
    yield from found.findings()


def _outer(facts: Facts, host: Host) -> Iterator[Finding]:
    """Rules that drop the tunnel's packets, from peers and to them."""
    interface, port = facts.interface, facts.port
    if interface is None or not port:
        return
    own, link = IPv4Address(interface["address"]), interface["name"]
    # The packet loop sends from the port itself, VXLAN from one that the packet decides.
    by_loop = traits(facts.backend).carrier is Carrier.FLANNELD
    sources = (port, port) if by_loop else EPHEMERAL
    received, sent = _Found("input-drop", "input-unsure"), _Found("output-drop", "output-unsure")
    for lease in _peers(facts, host):
        peer = lease.attrs.public_ip
        if peer == own:
            continue
        packet = Packet(peer, own, link, "", "udp", port, source_ports=sources)
        coming = judge_packet(host, RECEIVED, packet)
        received.note(peer, f"UDP port {port} from {peer}", coming)
        packet = Packet(own, peer, "", link, "udp", port, source_ports=sources)
        going = judge_packet(host, SENT, packet)
        sent.note(peer, f"UDP port {port} to {peer}", going)
    yield from received.findings()
    yield from sent.findings()
