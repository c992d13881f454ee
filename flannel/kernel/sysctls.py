"""What the kernel may do with what comes out of our device, beyond the routes that we give it.

rp_filter 1           a source must be one that is reached over the device: strict, for by
                      design every source in the overlay is; where a packet could come and
                      its answer not go back the same way, it is forged or it is lost anyway.
                      Where ``all`` says 2 (loose), as some distributions have it, the kernel
                      takes that; the firewall's guard does not depend on it
accept_redirects 0    nobody in the overlay changes this host's routes
send_redirects 0      nor do we tell peers of ways that are not in their leases
accept_ra 0           no router advertisements, and no addresses by them
"""

from contextlib import suppress
from pathlib import Path

from flannel.errors import KernelError

_WANTED = (
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv6", "accept_ra", "0"),
)


def ensure(device: str) -> list[str]:
    """Set them on a link, where they are not so; return those that were not.

    What a kernel has not got, IPv6 or the link itself, is passed over.

    :raises KernelError: one of them cannot be written.
    """
    changed = []
    for family, name, value in _WANTED:
        path = Path(f"/proc/sys/net/{family}/conf/{device}/{name}")
        with suppress(FileNotFoundError):
            if path.read_text().strip() == value:
                continue
            try:
                path.write_text(value)
            except FileNotFoundError:
                raise
            except OSError as why:
                raise KernelError(f"set {path} to {value}", why.errno or 0) from why
            changed.append(f"{family} {name}")
    return changed
