"""The text of our table in nftables. Pure: rules in, a document for ``nft -f -`` out.

    table ip flannel
      chain postrouting   masquerade
      chain input         VXLAN packets that no peer can have sent are dropped (`received`)
      chain overlay       so are packets out of the tunnel that do not belong here
      chain output        datagrams to the tunnel's port that the tunnel has not sent are dropped
      chain forward       so are those of containers, and packets to peers with a forged source
      chain leaving       the same once more when the final source is known; marks the tunnel's own
      set peers           the public addresses of all leases
      set leases          each with its subnet: which inner source a peer may use

**The mark.** What the kernel's VXLAN link sends is the packet that was routed to the link, with
headers before it, and the mark stays. `leaving` sets a bit of the mark on what leaves by the link;
`output` sees the same packet again, on its way to the underlay, clears the bit and lets it pass. A
process without CAP_NET_ADMIN or CAP_NET_RAW in this network namespace cannot set the bit, so its
own datagrams to the port do not pass. With the udp backend flanneld's sockets set it (SO_MARK).

Between the two places only `tc` on the link and a ``raw`` chain of iptables see the bit. `leaving`
comes after all that change marks at postrouting, `output` before mangle, whose rules
(``CONNMARK --restore-mark``) would take the bit away.
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
"""Names of links that nft reads as they are: no quotes, no ``*`` for all that begin alike."""


class Counter(NamedTuple):
    """Of packets that were dropped."""

    packets: int
    bytes: int


class Abilities(NamedTuple):
    """What a document may contain on this host.

    :ivar pairs: nft reads a set of which one half is raw bytes of the packet (1.0 and later).
    :ivar nat: somebody translates addresses here, so that the kernel tracks connections anyway.
    """

    pairs: bool = True
    nat: bool = False


def counter_names(guard: Guard | None) -> tuple[str, ...]:
    """The reasons for which a guard drops, ``tx_`` on the way out.

    Where the packet loop of the udp backend has the same reason, it has the same name.
    """
    if guard is None:
        return ()
    if guard.vni is not None:
        return (
            *("unknown_peer", "wrong_interface", "other_address", "spoofed", "not_mine"),
            *("not_ipv4", "tx_injected", "tx_spoofed", "tx_not_ipv4"),
        )
    return ("tx_injected", "tx_spoofed") if guard.port else ("tx_spoofed",)


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
    """What ``nft -f -`` reads to replace the table, whatever is there; one transaction.

    :param elements: of the sets.
    :param counters: values to begin with, so that those of a table that is replaced go on.
    :param upstream: tables of upstream's daemon that are there, by family and name.
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
        chains += _sending(rules, rules.guard, abilities)
    if chains:
        lines += [f"{OURS} {{", *chains, "}"]
    return "\n".join(lines) + "\n"


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    """:param hook: type, hook and priority of a base chain; "" for one that others jump to."""
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
        # From elsewhere to a container here: it sees who sends, and the answer comes by here.
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
    # 42 bytes into UDP: its header, VXLAN's, Ethernet's, and 12 of IPv4's (RFC 7348, 5).
    LEASES: "typeof ip saddr . @th,336,32",
}


def _sets(names: Iterable[str], elements: Collection[Element]) -> list[str]:
    lines = []
    for name in sorted(names):
        found = sorted(each.text for each in elements if each.set == name)
        listed = f"elements = {{ {', '.join(found)} }}" if found else ""
        lines.append(f"set {name} {{ {_TYPES[name]}; {listed} }}")
    return lines


def _receiving(rules: Rules, guard: Guard, abilities: Abilities) -> list[str]:
    # The VNI: RFC 7348, 5; 8 bytes of UDP header and 4 of VXLAN's are before it.
    ours = f"udp dport {guard.port} @th,96,24 {guard.vni}"
    inner = f"@th,336,32 & {int(rules.subnet.netmask):#x}"
    own = ", ".join(map(str, guard.addresses))
    uplinks = [f'"{each}"' for each in (guard.interface, *guard.siblings) if _NAME.fullmatch(each)]
    elsewhere = f"iifname != {{ {', '.join(uplinks)} }} " if uplinks else ""
    return [
        # On every interface: the socket of a VXLAN link hears them all. Reassembled by here.
        *_chain("input", "filter hook input priority filter - 10", [f"{ours} jump received"]),
        *_chain(
            "received",
            "",
            [
                # The Ethernet type within. A VLAN tag, too, would move what is looked at below.
                _drop("@th,224,16 != 0x0800", "not_ipv4"),
                f"ip saddr . ({inner}) != @{LEASES} jump stranger"
                if abilities.pairs
                else _drop(f"ip saddr != @{PEERS}", "unknown_peer"),
                *([_drop(f"ip daddr != {{ {own} }}", "other_address")] if own else []),
                # A container may forge a peer's address, but not the way by which it is reached. On
                # two links to one network the kernel knows one way only, and peers may use both.
                _drop(f"{elsewhere}fib saddr . iif oif missing", "wrong_interface"),
            ],
        ),
        *_chain(
            "stranger",
            "",
            [_drop(f"ip saddr != @{PEERS}", "unknown_peer"), _drop("", "spoofed")],
        ),
        # Before conntrack, which a flood would fill.
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
    forward += [f"{match} jump forwarded_to_port" for match in to_port]
    leaving = [f"{match} goto by_link" for match in by_link]
    leaving += [f"{match} goto by_route" for match in to_peers]
    leaving += [f"{match} jump to_port" for match in to_port]
    chains = [
        *_chain(
            "forwarded",
            "",
            # A container's source is reached by the interface that the container sends from.
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
    chains += _chain("forward", "filter hook forward priority filter - 10", forward)
    # After the nat chains, which have the priority srcnat: sources are final here.
    chains += _chain("leaving", "filter hook postrouting priority srcnat + 400", leaving)
    return chains


def _to_port(guard: Guard) -> list[str]:
    """Matches for datagrams to the tunnel's port on other hosts.

    Others at that port belong to another tunnel, or to a client that happens to have the port.
    """
    if not guard.port:
        return []
    if guard.vni is None:
        return [f"udp dport {guard.port} ip daddr @{PEERS}"]
    return [
        f"udp dport {guard.port} @th,96,24 {guard.vni}",
        # A first fragment too short to show its VNI: 60 bytes of IPv4 header, UDP's 8, VXLAN's 7.
        # No stack makes such a fragment, for no link has so small an MTU.
        f"ip frag-off & 0x2000 != 0 ip length < 76 udp dport {guard.port}",
    ]


def _sent(rules: Rules, guard: Guard) -> list[str]:
    passes = f"meta mark & {rules.mark:#x} != 0 meta mark set meta mark & {_without(rules.mark):#x}"
    if guard.vni is None:
        return [f"{passes} accept", _drop("", "tx_injected")]
    return [
        f"{passes} accept",
        # Matches whatever has a process' socket. What has none comes out of a VXLAN link, perhaps
        # past the chain `leaving`, as packets do that a flowtable of nftables forwards.
        _drop("meta skuid >= 0", "tx_injected"),
        _drop("@th,224,16 != 0x0800", "tx_not_ipv4"),
    ]


def _forwarded_to_port(network: IPv4Network) -> list[str]:
    return [
        # Between containers, to which VXLAN is a protocol as any other.
        f"ip daddr {network} return",
        # A peer's own, for which this host is a router.
        f"ip saddr @{PEERS} fib saddr . iif oif exists return",
        _drop(f"ip saddr @{PEERS}", "tx_injected"),
        _drop(f"ip daddr @{PEERS}", "tx_injected"),
        _drop(f"ip saddr {network}", "tx_injected"),
    ]


def _leaving_to_port(guard: Guard, abilities: Abilities) -> list[str]:
    rules = []
    if abilities.nat:
        # Another destination has been translated to this one, after `output` had seen it.
        rules.append(
            _drop(f"meta l4proto udp ct original proto-dst != {guard.port}", "tx_injected")
        )
    # Forwarded from another link, and now with an address of ours. Before Linux 5.7 there is no iif
    # here; since then what the VXLAN link has sent has that link for one.
    forwarded = f'meta iif != 0 iifname != "{guard.device}"'
    return [*rules, _drop(f"{forwarded} fib saddr type local", "tx_injected")]


def _by_link(rules: Rules, guard: Guard) -> list[str]:
    mark = f"meta mark set meta mark | {rules.mark:#x} " if guard.vni is not None else ""
    return [
        f"ip saddr {rules.subnet} {mark}accept",
        f"fib saddr type local {mark}accept",
        _drop("", "tx_spoofed"),
    ]


def _by_route(rules: Rules) -> list[str]:
    return [
        f"ip saddr {rules.subnet} accept",
        f"ip saddr {rules.network} fib saddr type != local counter name tx_spoofed drop",
    ]


def _without(mark: int) -> int:
    return ~mark & 0xFFFFFFFF
