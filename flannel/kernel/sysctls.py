"""What the kernel may do with packets out of our device, beyond the routes that we give it.

rp_filter 1           a source must be one that is reached over the device: strict, for by
                      design every source in the overlay is; where a packet could come and
                      its answer not go back the same way, it is forged or it is lost anyway.
                      Where ``all`` says 2 (loose), as some distributions have it, the kernel
                      takes that; the firewall's guard does not depend on it
accept_redirects 0    nobody in the overlay changes this host's routes
send_redirects 0      nor do we tell peers of ways that are not in their leases
disable_ipv6 1        the overlay carries IPv4; without this the device has a link-local
                      address, at which services that listen at [::] could be reached
accept_ra 0           no router advertisements, should somebody enable IPv6 again
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
    """Set them on a link, where they are not so; return those that were not.

    What a kernel has not got, IPv6 or the link itself, is passed over.

    :raises KernelError: one of them cannot be written.
    """
    return [" ".join(each[:2]) for each in _WANTED if _set(device, *each)]


def refuse_ipv6(device: str) -> None:
    """Set those for IPv6 on a link that is not up yet.

    A kernel without IPv6 has none; where /proc/sys is read-only, `ensure` reports that.
    """
    with suppress(KernelError):
        for family, name, value in _WANTED:
            if family == "ipv6":
                _set(device, family, name, value)


def _set(device: str, family: str, name: str, value: str) -> bool:
    """Set one if it is different; return whether it was."""
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
