"""Kernel: what a backend is given to work with."""

from dataclasses import dataclass, field

from flannel.kernel.claims import Claims, NoClaims
from flannel.kernel.netlink import Netlink
from flannel.kernel.repairs import Repairs
from flannel.kernel.rtnetlink import RtNetlink
from flannel.systemd import FdStore


@dataclass(frozen=True, slots=True)
class Kernel:
    """The two doors to the kernel's networking, and what belongs to whoever goes through them.

    :ivar netlink: links, addresses and rules.
    :ivar tables: routes, nexthops, ARP and FDB entries.
    :ivar repairs: what had to be restored behind them.
    :ivar descriptors: those that outlive a network, and this process.
    :ivar claims: what no other flanneld of this network namespace may use.
    :ivar mark: the packet mark of what a tunnel of ours sends; 0 if nobody looks at it.
    """

    netlink: Netlink
    tables: RtNetlink
    repairs: Repairs = field(default_factory=Repairs)
    descriptors: FdStore = field(default_factory=lambda: FdStore({}))
    mark: int = 0
    claims: Claims = field(default_factory=NoClaims)
