"""Traits: the facts about each backend that other parts of flanneld and the command need.

    traits("vxlan").port           # 8472
    traits(lease.attrs.backend)    # of a peer, which may run a backend that we do not know

They are declared here and nowhere else; a new backend adds one `Traits` to `BACKENDS`. Pure.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class Carrier(enum.Enum):
    """The one that carries packets to other hosts."""

    KERNEL = enum.auto()
    """By its own tables: packets pass on while flanneld does not run."""
    FLANNELD = enum.auto()
    """The packet loop in flanneld's process: without it nothing passes, its port is closed."""
    OTHERS = enum.auto()
    """Something that flanneld knows nothing of, such as a cloud's router."""


class SenderCheck(enum.Enum):
    """The one that refuses packets of hosts without a lease."""

    FIREWALL = enum.auto()
    """Rules of ours on the backend's port."""
    PACKET_LOOP = enum.auto()
    NOBODY = enum.auto()


@dataclass(frozen=True, slots=True)
class Traits:
    """One backend.

    :ivar type: its name in the network config.
    :ivar module: the module that serves it; "" for a backend that this version does not know.
    :ivar carrier: None for such a backend.
    :ivar published_as: the BackendType in its leases; upstream writes none for some.
    :ivar port: the UDP port between hosts where the config names none; 0: it needs none.
    :ivar has_tunnel_address: it has a link of its own, with the first address of the subnet.
    :ivar sender_check: who refuses packets of strangers.
    :ivar takes_every_lease: it reaches peers whose lease names another backend.
    :ivar has_one_route: one route leads to all peers, not one to each.
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
)
VXLAN = Traits(
    "vxlan",
    module="flannel.backends.vxlan",
    carrier=Carrier.KERNEL,
    published_as="vxlan",
    port=8472,  # upstream's, and that of Linux' VXLAN before IANA gave it 4789
    has_tunnel_address=True,
    sender_check=SenderCheck.FIREWALL,
)

BACKENDS: Mapping[str, Traits] = {each.type: each for each in (ALLOC, HOST_GW, UDP, VXLAN)}
"""Those that this version serves, by type."""


def traits(backend: str) -> Traits:
    """The traits of a backend by its type; of one that is not known, all empty."""
    return BACKENDS.get(backend) or Traits(backend)
