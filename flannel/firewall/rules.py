"""What the firewall should do, as values; `nft_table` and `iptables_text` put it into words."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

MULTICAST = "224.0.0.0/4"

KUBE_MARK = 0x4000
"""kube-proxy's mark of packets that it masquerades itself; upstream leaves them alone as well."""


@dataclass(frozen=True, slots=True)
class Guard:
    """How packets of the overlay reach this host and leave it.

    :ivar device: the overlay's link; "" if all peers are reached by plain routes.
    :ivar interface: the name of the external interface.
    :ivar addresses: the addresses of this host that peers send to.
    :ivar port: the UDP port of the tunnel, the same on all hosts; 0: there is no tunnel.
    :ivar vni: of a VXLAN tunnel, for which the kernel takes packets from any sender, and whose
        port other tunnels of this host may share; None: no VXLAN.
    :ivar siblings: other links on which packets of peers may arrive.
    :ivar routed: peers, or some of them, are reached by plain routes.
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
    """All of it. What is false or None is not only left out: rules for it are removed.

    :ivar network: the overlay.
    :ivar subnet: this host's lease.
    :ivar masquerade: what leaves the overlay gets an address of this host, and what enters it from
        elsewhere one of the overlay, for otherwise answers would not come back this way.
    :ivar random_ports: masquerade with random source ports, against a race in conntrack that
        drops packets of connections begun at the same time.
    :ivar no_masquerade: networks that see containers with their own addresses; they do not overlap.
    :ivar forward: let packets from and to the overlay pass, whatever the policy for others is.
    :ivar mark: the bit of the packet mark that the guard gives to the tunnel's own packets.
    """

    network: IPv4Network
    subnet: IPv4Network
    masquerade: bool = False
    random_ports: bool = True
    no_masquerade: tuple[IPv4Network, ...] = ()
    forward: bool = False
    guard: Guard | None = None
    mark: int = 0x10000000
