"""Traits: the facts about each backend that other parts of flanneld and the command need.

    traits("vxlan").port           # 8472
    traits(lease.attrs.backend)    # a peer may run a backend that this version does not know

Only this file declares them; a new backend adds one `Traits` to `BACKENDS`. Pure.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Carrier(enum.Enum):
    """Which part carries packets to other hosts."""

    KERNEL = enum.auto()
    """The kernel, by its own tables: packets flow on while flanneld does not run."""
    FLANNELD = enum.auto()
    """The packet loop in flanneld's process: while it does not run, no packet passes."""
    OTHERS = enum.auto()
    """A system that flanneld does not control, such as a cloud's router."""


class SenderCheck(enum.Enum):
    """Which part refuses packets of hosts without a lease."""

    FIREWALL = enum.auto()
    """Our rules for the backend's port."""
    PACKET_LOOP = enum.auto()
    NOBODY = enum.auto()


@dataclass(frozen=True, slots=True)
class Traits:
    """One backend.

    :ivar type: its name in the network config.
    :ivar module: the module that serves it; "" for a backend that this version does not know.
    :ivar carrier: None for such a backend.
    :ivar published_as: the BackendType in its leases; upstream writes none for some.
    :ivar port: the UDP port between hosts if the config names none; 0: it needs none.
    :ivar has_tunnel_address: it has its own link, with the first address of the subnet.
    :ivar sender_check: which part refuses packets of hosts without a lease.
    :ivar takes_every_lease: it reaches peers whose lease names another backend.
    :ivar has_one_route: one route leads to all peers, instead of one to each.
    :ivar members: those of the config's Backend object that it reads, beside ``Type``.
    """

    type: str
    module: str = ""
    carrier: Carrier | None = None
    published_as: str = ""
    port: int = 0
    has_tunnel_address: bool = False
    sender_check: SenderCheck = SenderCheck.NOBODY
    takes_every_lease: bool = False
    has_one_route: bool = False
    members: tuple[str, ...] = ()


ALLOC = Traits(
    "alloc",
    module="flannel.backends.alloc",
    carrier=Carrier.OTHERS,
    takes_every_lease=True,
)
HOST_GW = Traits(
    "host-gw",
    module="flannel.backends.hostgw",
    carrier=Carrier.KERNEL,
    published_as="host-gw",
)
UDP = Traits(
    "udp",
    module="flannel.backends.udp",
    carrier=Carrier.FLANNELD,
    port=8285,  # upstream's
    has_tunnel_address=True,
    sender_check=SenderCheck.PACKET_LOOP,
    takes_every_lease=True,
    has_one_route=True,
    members=("Port", "MTU", "Threads", "SourceCheck", "ECN"),
)
VXLAN = Traits(
    "vxlan",
    module="flannel.backends.vxlan",
    carrier=Carrier.KERNEL,
    published_as="vxlan",
    port=8472,  # upstream's, and that of Linux' VXLAN before IANA gave it 4789
    has_tunnel_address=True,
    sender_check=SenderCheck.FIREWALL,
    members=("VNI", "Port", "MTU", "GBP", "Learning", "DirectRouting"),
)

BACKENDS: Mapping[str, Traits] = {each.type: each for each in (ALLOC, HOST_GW, UDP, VXLAN)}
"""The backends that this version serves, by type."""


def traits(backend: str) -> Traits:
    """The traits of a backend by its type; of an unknown one, all empty."""
    return BACKENDS.get(backend) or Traits(backend)
