"""The wanted rules as values; `nft_table` and `iptables_text` write them as text."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

MULTICAST = "224.0.0.0/4"

KUBE_MARK = 0x4000
"""kube-proxy's mark of packets that it masquerades itself; like upstream, we leave them alone."""


@dataclass(frozen=True, slots=True)
class Guard:
    """How packets of the overlay reach this host and leave it.

    :ivar device: the overlay's link; "" if plain routes lead to all peers.
    :ivar interface: the name of the external interface.
    :ivar addresses: the addresses of this host that peers send to.
    :ivar port: the UDP port of the tunnel, the same on all hosts; 0: there is no tunnel.
    :ivar vni: the VNI of a VXLAN tunnel; None: no VXLAN. The kernel accepts VXLAN packets of any
        sender, and other tunnels of this host may share the port.
    :ivar routed: plain routes lead to peers, or to some of them.
    :ivar siblings: other links on which packets of peers may arrive.
    """

    device: str
    interface: str
    addresses: tuple[IPv4Address, ...] = ()
    port: int = 0
    vni: int | None = None
    routed: bool = False
    siblings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """All wanted rules. For a member that is False or None, existing rules are deleted.

    :ivar network: the overlay.
    :ivar subnet: this host's lease.
    :ivar masquerade: packets that leave the overlay get an address of this host as source; packets
        that enter it from outside get one of the overlay, so that answers come back to this host.
    :ivar random_ports: masquerade with random source ports, against a race in conntrack that
        drops packets of connections that start at the same time.
    :ivar no_masquerade: networks that see the containers' own addresses; they do not overlap.
    :ivar forward: accept packets from and to the overlay, with any policy of FORWARD.
    :ivar mark: the bit of the packet mark that the guard sets on the tunnel's own packets.
    """

    network: IPv4Network
    subnet: IPv4Network
    masquerade: bool = False
    random_ports: bool = True
    no_masquerade: tuple[IPv4Network, ...] = ()
    forward: bool = False
    guard: Guard | None = None
    mark: int = 0x10000000
