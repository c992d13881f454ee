"""The MTU of a network with a tunnel: the underlay's, less the bytes around each packet. Pure."""

from flannel.document import Members

LEAST = 68
"""Of an IPv4 link (RFC 791)."""
_GREATEST = 65535


def read(members: Members, overhead: int) -> int:
    """``Backend.MTU``: the underlay's MTU; 0, also where it is absent: the external interface's.

    :param overhead: bytes that the tunnel adds to each packet.
    :raises BadDocument: it leaves no room for packets in the tunnel.
    """
    mtu = members.integer("MTU", 0, 0, _GREATEST)
    if 0 < mtu < LEAST + overhead:
        raise members.bad("MTU", f"must be 0 or {LEAST + overhead} to {_GREATEST}")
    return mtu


def of_overlay(configured: int, interface: int, overhead: int) -> int:
    """The largest packet that fits into the tunnel.

    :param configured: as `read` returns it.
    :param interface: the external interface's MTU.
    """
    return (configured or interface) - overhead
