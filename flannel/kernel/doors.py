"""Kernel: all through which a backend uses the kernel."""

from dataclasses import dataclass, field

from flannel.kernel.claims import Claims, NoClaims
from flannel.kernel.netlink import Netlink
from flannel.kernel.repairs import Repairs
from flannel.kernel.rtnetlink import RtNetlink
from flannel.systemd import FdStore


@dataclass(frozen=True, slots=True)
class Kernel:
    """The two sockets to the kernel's networking, and the state that goes with them.

    :ivar netlink: reads and writes links, addresses and single routes.
    :ivar tables: reads and writes routes, nexthops, ARP and FDB entries by the thousand.
    :ivar repairs: counts and logs the repairs of entries and devices.
    :ivar descriptors: descriptors that outlive a network, and this process.
    :ivar claims: devices and networks that no other flanneld of this namespace may use.
    :ivar mark: the packet mark that tunnels of ours set; 0 without a guard.
    """

    netlink: Netlink
    tables: RtNetlink
    repairs: Repairs = field(default_factory=Repairs)
    descriptors: FdStore = field(default_factory=lambda: FdStore({}))
    mark: int = 0
    claims: Claims = field(default_factory=NoClaims)
