"""Every exception that this program raises on purpose.

    FlannelError
    ├── BadOption             a flag, a variable or a file it names; exit 2, one line
    ├── AlreadyRunning        another flanneld has what this one would use; exit 2 at a start
    ├── BadNetworkConfig      the document in etcd cannot be used here; say why, wait for another
    ├── NetworkInUse          this host has addresses or routes where the overlay would be
    ├── BadLease              a key or value under subnets/ that is not a lease; skip it
    ├── StoreError
    │   ├── StoreUnavailable    no answer, or none that can be trusted: wait, ask again
    │   ├── StoreDenied         credentials or certificates refused: wait, an operator must act
    │   ├── ConfigConflict      the network config is not what it was when it was read
    │   ├── LeaseTaken          somebody else holds that subnet: choose another
    │   └── LeaseChanged        a compare-and-swap lost: read again
    ├── NoFreeSubnet
    ├── AddressTaken          another host has leased with our public address: wait, say which
    ├── LeaseLost             our subnet belongs to another host now: start over with another
    │   └── IdentityTaken       ...which has our node identity: begin with a new one
    ├── ConfigChanged         the network is to be another now: start over with that
    ├── UnderlayChanged       the external interface is another, or has another address or MTU
    ├── NoInterface           no link fits -iface & co. yet: wait for it
    ├── CannotWrite           subnet.env or a file like it could not be written
    ├── CannotRun             another program cannot be started, or did not end in time
    ├── FirewallError         nft or iptables said no
    ├── Shortage              no descriptor, no memory, no thread: wait, it passes
    └── KernelError           netlink or a file of the kernel said no

Low modules translate a library's exceptions into these (``raise ... from``), the ones in the
middle let them pass, `flannel.daemon.daemon` decides what happens and `flannel.__main__` tells the
operator. Anything else that escapes is a bug: traceback, exit status 1.

Texts read *cannot ⟨do what⟩ ⟨to which⟩: ⟨why⟩*, on one line.
"""

import os


class FlannelError(Exception):
    """The root of the tree."""


class BadOption(FlannelError):
    """A flag, a FLANNELD_* variable, or a file that one of them names cannot be used."""


class AlreadyRunning(FlannelError):
    """Another flanneld of this host uses the files or the device that this one would use."""


class BadNetworkConfig(FlannelError):
    """The network config in the store cannot be used on this host."""


class NetworkInUse(FlannelError):
    """The overlay's range collides with an address or a route of this host."""


class BadLease(FlannelError):
    """A key or a value below ``subnets/`` is not a lease.

    :ivar index: the store's number of the last write to it; 0 where that is not known, or of no
        use.
    """

    index = 0


class StoreError(FlannelError):
    """The lease store did not do what it was asked."""


class StoreUnreachable(StoreError):
    """The store does not serve us now; it may do so another time."""


class StoreUnavailable(StoreUnreachable):
    """No endpoint gave a usable answer; asking again later may help."""


class StoreDenied(StoreUnreachable):
    """The store refuses who we are; asking again helps only after somebody has mended that."""


class ConfigConflict(StoreError):
    """Somebody else has written the network config meanwhile."""


class LeaseTaken(StoreError):
    """Another host holds this subnet."""


class LeaseChanged(StoreError):
    """The lease is not what it was when we read it, or is gone."""


class NoFreeSubnet(FlannelError):
    """Every subnet of the network is leased."""


class AddressTaken(FlannelError):
    """A lease with this host's public address is another host's."""


class LeaseLost(FlannelError):
    """This host's subnet belongs to another host now."""


class IdentityTaken(LeaseLost):
    """A host with another address has this host's node identity: one is a copy of the other."""


class ConfigChanged(FlannelError):
    """The network config that is served is not the cluster's any more."""


class UnderlayChanged(FlannelError):
    """The external interface is another, or has another address or MTU: adapt to that."""


class NoInterface(FlannelError):
    """No link of this host fits what was asked for, or not yet."""


class CannotWrite(FlannelError):
    """A file that we hand to others could not be written; the old one is as it was."""


class CannotRun(FlannelError):
    """Another program cannot be started, or did not end in its time and was killed."""


class FirewallError(FlannelError):
    """nft or iptables refused; the rules are what they were."""


class Shortage(FlannelError):
    """The system has no descriptor, no memory or no thread left for this process."""


class KernelError(FlannelError):
    """The kernel refused.

    :param doing: what was asked of it, e.g. ``add route 10.5.2.0/24 via 10.5.2.0``.
    :param errno: the positive error number.
    """

    def __init__(self, doing: str, errno: int) -> None:
        super().__init__(f"cannot {doing}: {os.strerror(errno)}")
        self.doing = doing
        self.errno = errno
