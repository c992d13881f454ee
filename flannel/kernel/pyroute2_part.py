"""The part of pyroute2 that is used; the only file that imports it.

Imported by `flannel.kernel.netlink` when a socket is opened: the commands of `flannel` that ask
flanneld alone do without it.
"""

from flannel.imports import bare_package

with bare_package("pyroute2"):
    from pyroute2.iproute.linux import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["AsyncIPRoute", "NetlinkError"]
