"""The text of our nftables table. Pure: rules in, a document for ``nft -f -`` out.

    table ip flannel
      chain postrouting   masquerades
      chain input         drops tunnel packets that no peer can have sent (`received`)
      chain overlay       drops packets out of the tunnel that are forged or not for this host
      chain output        drops datagrams to the tunnel's port that did not come from the tunnel
      chain forward       drops such datagrams of containers; forged sources in packets to peers
      chain leaving       drops both again, when the source is final; marks this host's packets
      set peers           the public addresses of all leases
      set leases          the same with each lease's subnet: which inner source a peer may use

**The mark.** The kernel's VXLAN link puts headers before the packet that was routed to the link,
and keeps the packet's mark and socket. `leaving` sets a bit of the mark on packets that this host
itself sends by the link. `output` sees the same packet again, on its way to the underlay, clears
the bit and lets it pass; forwarded packets pass because they have no socket any more. A
process without CAP_NET_ADMIN or CAP_NET_RAW in this network namespace cannot set the bit, so its
own datagrams to the port do not pass. In the udp backend, flanneld's sockets set the bit (SO_MARK).

Between the two chains, only `tc` on the link and a ``raw`` chain of iptables see the bit. `leaving`
runs after all chains that change marks at postrouting, `output` before mangle, whose rules
(``CONNMARK --restore-mark``) would clear the bit.

**Segments.** A process may hand the kernel several datagrams as one packet (UDP_SEGMENT in udp(7)),
which the kernel splits behind all chains. The chains see the VNI of the first datagram only. So a
packet to a peer's port that is long enough for two datagrams is dropped like one of our VNI, unless
it is an answer.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network
from typing import NamedTuple

from flannel.firewall.peer_addresses import LEASES, PEERS, Element
from flannel.firewall.rules import KUBE_MARK, MULTICAST, Guard, Rules

TABLE = "flannel"
OURS = f"table ip {TABLE}"

_NAME = re.compile(r"[\w.@-]+", re.ASCII)
"""Names of links that nft reads literally: without quotes, and without ``*``, its wildcard."""

TWO_SEGMENTS = 28 + 2 * (8 + 14 + 20)
"""Bytes of the shortest IPv4 packet that is two datagrams of which the second holds the headers of
VXLAN, Ethernet and IPv4. No segment is longer than the first."""


class Counter(NamedTuple):
    """Counts dropped packets."""

    packets: int
    bytes: int


class Abilities(NamedTuple):
    """What a document may contain on this host.

    :ivar pairs: nft supports sets of an address and raw bytes of the packet (1.0 and later).
    :ivar nat: this host translates addresses, so the kernel tracks connections anyway.
    """

    pairs: bool = True
    nat: bool = False


def counter_names(guard: Guard | None) -> tuple[str, ...]:
    """The reasons for which a guard drops packets; ``tx_`` for outgoing packets.

    The packet loop of the udp backend uses the same names for the same reasons.
    """
    if guard is None:
        return ()
    if guard.vni is not None:
        return (
            *("unknown_peer", "wrong_interface", "other_address", "spoofed", "not_mine"),
            *("not_ipv4", "tx_injected", "tx_spoofed", "tx_not_ipv4"),
        )
    return ("wrong_interface", "tx_injected", "tx_spoofed") if guard.port else ("tx_spoofed",)


def set_names(rules: Rules, abilities: Abilities) -> frozenset[str]:
    """The sets that the table of ``rules`` has."""
    guard = rules.guard
    if guard is None or not guard.port:
        return frozenset()
    return frozenset((PEERS, LEASES) if guard.vni is not None and abilities.pairs else (PEERS,))


def document(
    rules: Rules,
    elements: Collection[Element] = (),
    counters: Mapping[str, Counter] | None = None,
    upstream: Collection[tuple[str, str]] = (),
    abilities: Abilities = Abilities(),  # noqa: B008 - a value
) -> str:
    """The input of ``nft -f -`` that replaces the table, in one transaction.

    :param elements: the elements of the sets.
    :param counters: the counters' first values: those of the table that is replaced.
    :param upstream: the existing tables of upstream's daemon, by family and name; deleted.
    """
    lines = [f"add {OURS}", f"delete {OURS}"]
    lines += [f"delete table {family} {name}" for family, name in sorted(upstream)]
    chains = []
    if rules.masquerade:
        chains += _chain("postrouting", "nat hook postrouting priority srcnat", _masquerade(rules))
    if rules.guard is not None:
        chains += _counters(counter_names(rules.guard), counters or {})
        chains += _sets(set_names(rules, abilities), elements)
        if rules.guard.vni is not None:
            chains += _receiving(rules, rules.guard, abilities)
        elif rules.guard.port:
            from_peers = f"udp dport {rules.guard.port} ip saddr @{PEERS}"
            chains += _chain("input", _INPUT, [f"{from_peers} {_from_elsewhere(rules.guard)}"])
        chains += _sending(rules, rules.guard, abilities)
    if chains:
        lines += [f"{OURS} {{", *chains, "}"]
    return "\n".join(lines) + "\n"


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    """:param hook: type, hook and priority of a base chain; "" for any other chain."""
    head = [f"type {hook}; policy accept;"] if hook else []
    return [f"chain {name} {{", *head, *rules, "}"]


def _drop(match: str, counter: str) -> str:
    return f"{match} counter name {counter} drop".lstrip()


def _masquerade(rules: Rules) -> list[str]:
    network, subnet = rules.network, rules.subnet
    how = "masquerade fully-random" if rules.random_ports else "masquerade"
    exempt = ", ".join(map(str, rules.no_masquerade))
    return [
        f"meta mark & {KUBE_MARK:#x} == {KUBE_MARK:#x} return",
        f"ip saddr {network} ip daddr {network} return",
        # To a container here: it sees the sender's address, and the answer passes this host anyway.
        f"ip daddr {subnet} return",
        *([f"ip saddr {network} ip daddr {{ {exempt} }} return"] if exempt else []),
        f"ip saddr {network} ip daddr != {MULTICAST} {how}",
        f"ip saddr != {network} ip daddr {network} {how}",
    ]


def _counters(names: Iterable[str], values: Mapping[str, Counter]) -> list[str]:
    lines = []
    for name in names:
        packets, size = values.get(name, Counter(0, 0))
        lines.append(f"counter {name} {{ packets {packets} bytes {size} }}")
    return lines


_TYPES = {
    PEERS: "type ipv4_addr",
    # The inner source, at byte 42: after 8 of UDP, 8 of VXLAN, 14 of Ethernet, 12 of IPv4
    # (RFC 7348, 5).
    LEASES: "typeof ip saddr . @th,336,32",
}


def _sets(names: Iterable[str], elements: Collection[Element]) -> list[str]:
    lines = []
    for name in sorted(names):
        found = sorted(each.text for each in elements if each.set == name)
        listed = f"elements = {{ {', '.join(found)} }}" if found else ""
        lines.append(f"set {name} {{ {_TYPES[name]}; {listed} }}")
    return lines


_INPUT = "filter hook input priority filter - 10"


def _from_elsewhere(guard: Guard) -> str:
    """The rule that drops packets with a peer's address from where no route leads to the peer.

    A container can forge a peer's address, but not the interface of the route to the peer. If two
    links lead to one network, the kernel's route uses one of them, and peers may use both: hence
    the siblings.
    """
    uplinks = [f'"{each}"' for each in (guard.interface, *guard.siblings) if _NAME.fullmatch(each)]
    elsewhere = f"iifname != {{ {', '.join(uplinks)} }} " if uplinks else ""
    return _drop(f"{elsewhere}fib saddr . iif oif missing", "wrong_interface")


def _receiving(rules: Rules, guard: Guard, abilities: Abilities) -> list[str]:
    # The VNI, after 8 bytes of UDP header and 4 of VXLAN's (RFC 7348, 5).
    ours = f"udp dport {guard.port} @th,96,24 {guard.vni}"
    inner = f"@th,336,32 & {int(rules.subnet.netmask):#x}"
    own = ", ".join(map(str, guard.addresses))
    return [
        # On every interface, as the socket of a VXLAN link receives from all of them. Fragments are
        # reassembled before this hook.
        *_chain("input", _INPUT, [f"{ours} goto received"]),
        *_chain(
            "received",
            "",
            [
                # The inner Ethernet type. A VLAN tag would move the fields of the next rules.
                _drop("@th,224,16 != 0x0800", "not_ipv4"),
                f"ip saddr . ({inner}) != @{LEASES} jump stranger"
                if abilities.pairs
                else _drop(f"ip saddr != @{PEERS}", "unknown_peer"),
                *([_drop(f"ip daddr != {{ {own} }}", "other_address")] if own else []),
                _from_elsewhere(guard),
            ],
        ),
        *_chain(
            "stranger",
            "",
            [_drop(f"ip saddr != @{PEERS}", "unknown_peer"), _drop("", "spoofed")],
        ),
        # Before conntrack, whose table a flood would fill.
        *_chain(
            "overlay",
            "filter hook prerouting priority raw",
            [
                f'iifname != "{guard.device}" accept',
                _drop(f"ip saddr != {rules.network}", "spoofed"),
                _drop(f"ip saddr {rules.subnet}", "spoofed"),
                _drop(f"ip daddr != {rules.subnet}", "not_mine"),
            ],
        ),
    ]


def _sending(rules: Rules, guard: Guard, abilities: Abilities) -> list[str]:
    by_link = [f'oifname "{guard.device}"'] if guard.device else []
    to_peers = [f"ip daddr {rules.network} ip daddr != {rules.subnet}"] if guard.routed else []
    to_port = _to_port(guard)
    forward = [f"{match} goto forwarded" for match in by_link + to_peers]
    forward += [f"{match} goto forwarded_to_port" for match in to_port]
    leaving = [f"{match} goto by_link" for match in by_link]
    leaving += [f"{match} goto by_route" for match in to_peers]
    leaving += [f"{match} goto to_port" for match in to_port]
    if guard.vni is not None:
        segments = f"udp dport {guard.port} @th,96,24 != {guard.vni} ip length >= {TWO_SEGMENTS}"
        forward.append(f"{segments} ip daddr @{PEERS} goto forwarded_segments")
        # The iif of a packet that another VXLAN link of this host sent is that link.
        own = f"{segments} meta iif 0 meta skuid >= 0 ip daddr @{PEERS}"
        leaving.append(f"{own} goto segments")
    chains = [
        *_chain(
            "forwarded",
            "",
            # The route to a container uses the interface from which the container sends.
            [_drop("fib saddr . iif oif missing", "tx_spoofed")],
        ),
        *(_chain("by_link", "", _by_link(rules, guard)) if by_link else ()),
        *(_chain("by_route", "", _by_route(rules)) if to_peers else ()),
    ]
    if to_port:
        output = [f"{match} goto sent" for match in to_port]
        chains += _chain("sent", "", _sent(rules, guard))
        chains += _chain("forwarded_to_port", "", _forwarded_to_port(rules.network))
        chains += _chain("to_port", "", _leaving_to_port(guard, abilities))
        chains += _chain("output", "filter hook output priority raw + 10", output)
    if guard.vni is not None:
        chains += _segments(abilities)
    chains += _chain("forward", "filter hook forward priority filter - 10", forward)
    # After the nat chains, which have the priority srcnat: sources are final here.
    chains += _chain("leaving", "filter hook postrouting priority srcnat + 400", leaving)
    return chains


def _to_port(guard: Guard) -> list[str]:
    """Matches for the tunnel's datagrams to other hosts.

    Other datagrams to that port belong to another tunnel, or to a client that happens to have it.
    """
    if not guard.port:
        return []
    if guard.vni is None:
        return [f"udp dport {guard.port} ip daddr @{PEERS}"]
    return [
        f"udp dport {guard.port} @th,96,24 {guard.vni}",
        # A first fragment too short to contain the VNI: IPv4 header of 60 bytes, 8 of UDP, 7 of
        # VXLAN. No stack makes such a fragment, as no link has so small an MTU.
        f"ip frag-off & 0x2000 != 0 ip length < 76 udp dport {guard.port}",
    ]


def _sent(rules: Rules, guard: Guard) -> list[str]:
    passes = f"meta mark & {rules.mark:#x} != 0 meta mark set meta mark & {_without(rules.mark):#x}"
    if guard.vni is None:
        return [f"{passes} accept", _drop("", "tx_injected")]
    return [
        f"{passes} accept",
        # Matches datagrams from a process' socket. One without a socket comes from a VXLAN link; it
        # may lack the mark, as packets that an nftables flowtable forwards skip `leaving`.
        _drop("meta skuid >= 0", "tx_injected"),
        _drop("@th,224,16 != 0x0800", "tx_not_ipv4"),
    ]


def _forwarded_to_port(network: IPv4Network) -> list[str]:
    return [
        # Between containers: VXLAN of their own.
        f"ip daddr {network} return",
        # From a peer for which this host is a router.
        f"ip saddr @{PEERS} fib saddr . iif oif exists return",
        _drop(f"ip saddr @{PEERS}", "tx_injected"),
        _drop(f"ip daddr @{PEERS}", "tx_injected"),
        _drop(f"ip saddr {network}", "tx_injected"),
    ]


def _segments(abilities: Abilities) -> list[str]:
    """The chains for packets that may be several datagrams; see the head of this file.

    An answer goes to a client that happens to have the port, perhaps by masquerade. The peer tracks
    that client's connection, so no part of the answer reaches its tunnel.
    """
    answer = ["ct direction reply return"] if abilities.nat else []
    return [
        *_chain("segments", "", [*answer, _drop("", "tx_injected")]),
        *_chain(
            "forwarded_segments",
            "",
            [f"ip saddr @{PEERS} fib saddr . iif oif exists return", "goto segments"],
        ),
    ]


def _leaving_to_port(guard: Guard, abilities: Abilities) -> list[str]:
    rules = []
    if abilities.nat:
        # Sent to another port, which was translated to this one after `output` had seen it.
        rules.append(
            _drop(f"meta l4proto udp ct original proto-dst != {guard.port}", "tx_injected")
        )
    if abilities.nat and guard.vni is None:
        # `output` looks for peers' addresses, which another address has been translated to.
        rules.append(
            _drop(f"ct direction original ct original ip daddr != @{PEERS}", "tx_injected")
        )
    # Forwarded from another link, and masqueraded to an address of ours. Before Linux 5.7 this hook
    # has no iif; since then the iif of a packet that the VXLAN link sent is that link.
    forwarded = f'meta iif != 0 iifname != "{guard.device}"'
    return [*rules, _drop(f"{forwarded} fib saddr type local", "tx_injected")]


def _by_link(rules: Rules, guard: Guard) -> list[str]:
    # Only what this host itself sends needs the mark: `sent` lets pass what has no socket, as
    # forwarded packets. A packet with a mark cannot use the route that the link has at hand
    # (ip_tunnel_dst_cache_usable). Before Linux 5.7 there is no iif here, and all are marked.
    bit = f"meta mark set meta mark | {rules.mark:#x}"
    mark = [f"meta iif == 0 {bit}"] if guard.vni is not None else []
    return [
        *mark,
        f"ip saddr {rules.subnet} accept",
        "fib saddr type local accept",
        _drop("", "tx_spoofed"),
    ]


def _by_route(rules: Rules) -> list[str]:
    return [
        f"ip saddr {rules.subnet} accept",
        f"ip saddr {rules.network} fib saddr type != local counter name tx_spoofed drop",
    ]


def _without(mark: int) -> int:
    return ~mark & 0xFFFFFFFF
