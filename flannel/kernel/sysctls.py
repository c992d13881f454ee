"""Sysctls of the overlay's device: how the kernel treats packets that arrive on it.

rp_filter 1           strict: the route to a packet's source must lead over the device, as the
                      routes to all sources in the overlay do. A packet whose answer would
                      leave by a different interface is forged, or its answer is lost anyway.
                      If ``all`` is 2 (loose), as on some distributions, the kernel uses that;
                      the firewall's guard does not depend on it
accept_redirects 0    no peer changes this host's routes
send_redirects 0      this host does not send peers routes that are not in their leases
disable_ipv6 1        the overlay carries IPv4; with IPv6 the device has a link-local
                      address, at which services that listen at [::] can be reached
accept_ra 0           no router advertisements, if somebody enables IPv6 again
"""

from contextlib import suppress
from pathlib import Path

from flannel.errors import KernelError

_WANTED = (
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
    ("ipv6", "disable_ipv6", "1"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv6", "accept_ra", "0"),
)


def ensure(device: str) -> list[str]:
    """Set the sysctls of a link; return the names of those that differed.

    A sysctl that the kernel does not have is skipped: a kernel without IPv6, a missing link.

    :raises KernelError: a sysctl cannot be written.
    """
    return [" ".join(each[:2]) for each in _WANTED if _set(device, *each)]


def refuse_ipv6(device: str) -> None:
    """Set the sysctls for IPv6 on a link that is not up yet.

    Errors are ignored: if /proc/sys is read-only, `ensure` reports that later.
    """
    with suppress(KernelError):
        for family, name, value in _WANTED:
            if family == "ipv6":
                _set(device, family, name, value)


def _set(device: str, family: str, name: str, value: str) -> bool:
    """Set one sysctl; return whether it differed."""
    path = Path(f"/proc/sys/net/{family}/conf/{device}/{name}")
    try:
        if path.read_text().strip() == value:
            return False
        path.write_text(value)
    except FileNotFoundError:
        return False
    except OSError as why:
        raise KernelError(f"set {path} to {value}", why.errno or 0) from why
    return True
