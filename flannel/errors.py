"""Every exception that this program raises on purpose.

    FlannelError
    ├── BadOption             a flag, a variable or a file it names; exit 2, one line
    ├── AlreadyRunning        another flanneld has what this one would use; exit 2 at a start
    ├── BadNetworkConfig      the document in etcd cannot be used here; log why, wait for another
    ├── NetworkInUse          this host has addresses or routes in the overlay's range
    ├── BadLease              a key or value under subnets/ is not a lease; skip it
    ├── StoreError
    │   ├── StoreUnreachable
    │   │   ├── StoreUnavailable  no answer, or no trustworthy one: wait, ask again
    │   │   └── StoreDenied       credentials or certificates refused: wait, an operator must act
    │   ├── ConfigConflict      the network config has changed since it was read
    │   ├── LeaseTaken          another host holds that subnet: choose another
    │   └── LeaseChanged        a compare-and-swap failed: read again
    ├── NoFreeSubnet          every subnet of the network is leased
    ├── AddressTaken          another host has leased with our public address: wait, log which
    ├── LeaseLost             our subnet belongs to another host now: start over with another
    │   └── IdentityTaken       ...which has our node identity: begin with a new one
    ├── ConfigChanged         the network config has changed: start over with the new one
    ├── UnderlayChanged       the external interface, its address or its MTU has changed
    ├── NoInterface           no link fits -iface & co. yet: wait for one
    ├── CannotWrite           subnet.env or a file like it could not be written
    ├── CannotHandOver        a container program does not take the lease: try again
    ├── CannotRun             another program cannot be started, or did not end in time
    ├── FirewallError         nft or iptables refused
    ├── Shortage              no descriptor, memory or thread left: wait until there is
    └── KernelError           the kernel refused, by netlink or in one of its files

Low modules translate a library's exceptions into these (``raise ... from``), the modules in the
middle let them pass, `flannel.daemon.reactions` says what each leads to, and `flannel.__main__`
reports what ends flanneld. Any other exception that escapes is a bug: traceback, exit status 1.

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

    :ivar index: the store's number of the last write to it; 0 where it is unknown or useless.
    """

    index = 0


class StoreError(FlannelError):
    """The lease store did not do what we asked for."""


class StoreUnreachable(StoreError):
    """The store does not serve us now; it may do so later."""


class StoreUnavailable(StoreUnreachable):
    """No endpoint gave a usable answer; asking again later may help."""


class StoreDenied(StoreUnreachable):
    """The store refuses our credentials; asking again helps only after an operator has acted."""


class ConfigConflict(StoreError):
    """The network config was written by somebody else since it was read."""


class LeaseTaken(StoreError):
    """Another host holds this subnet."""


class LeaseChanged(StoreError):
    """The lease was changed or deleted since we read it."""


class NoFreeSubnet(FlannelError):
    """Every subnet of the network is leased."""


class AddressTaken(FlannelError):
    """Another host has leased a subnet with this host's public address."""


class LeaseLost(FlannelError):
    """This host's subnet belongs to another host now."""


class IdentityTaken(LeaseLost):
    """A host with a different address has this host's node identity: one is a copy of the other."""


class ConfigChanged(FlannelError):
    """The cluster's network config differs from the one that is served."""


class UnderlayChanged(FlannelError):
    """The external interface, its address or its MTU has changed."""


class NoInterface(FlannelError):
    """No link of this host fits the options, at least not yet."""


class CannotWrite(FlannelError):
    """A file for other programs could not be written; the old one is unchanged."""


class CannotHandOver(FlannelError):
    """The network of a container program cannot be made what the lease wants, at least not yet."""


class CannotRun(FlannelError):
    """Another program cannot be started, or did not end in time and was killed."""


class FirewallError(FlannelError):
    """nft or iptables refused; the rules are unchanged."""


class Shortage(FlannelError):
    """The system has no descriptor, no memory or no thread left for this process."""


class KernelError(FlannelError):
    """The kernel refused a request.

    :param doing: the request, e.g. ``add route 10.5.2.0/24 via 10.5.2.0``.
    :param errno: the positive error number.
    :param words: its own explanation, if it gave one.
    """

    def __init__(self, doing: str, errno: int, words: str = "") -> None:
        super().__init__(f"cannot {doing}: {refusal(errno, words)}")
        self.doing = doing
        self.errno = errno
        self.words = words


def refusal(errno: int, words: str = "") -> str:
    """The text of an error number; in parentheses the kernel's own explanation, if it gave one."""
    return f"{os.strerror(errno)} ({words})" if words else os.strerror(errno)
