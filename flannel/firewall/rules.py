"""What the firewall should do, as values; `nftables` and `iptables` put it into their languages."""

from dataclasses import dataclass
from ipaddress import IPv4Network

MULTICAST = "224.0.0.0/4"

KUBE_MARK = 0x4000
"""kube-proxy's mark of packets that it masquerades itself; upstream leaves them alone as well."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A port at which the kernel takes packets for the overlay from whoever sends them.

    :ivar device: the VXLAN link they come out of.
    :ivar port: the UDP port; other VXLAN networks of this host may have the same.
    """

    device: str
    port: int
    vni: int


@dataclass(frozen=True, slots=True)
class Rules:
    """All of it. What is false or None is not only left out: what was there of it is removed.

    :ivar network: the overlay.
    :ivar subnet: this host's lease.
    :ivar masquerade: what leaves the overlay gets an address of this host, and what enters it from
        elsewhere one of the overlay, for otherwise answers would not come back this way.
    :ivar random_ports: masquerade with random source ports, against a race in conntrack that
        drops packets of connections begun at the same time.
    :ivar no_masquerade: networks that see containers with their own addresses; they do not overlap.
    :ivar forward: let packets from and to the overlay pass, whatever the policy for others is.
    """

    network: IPv4Network
    subnet: IPv4Network
    masquerade: bool = False
    random_ports: bool = True
    no_masquerade: tuple[IPv4Network, ...] = ()
    forward: bool = False
    guard: Guard | None = None
