"""Ports and addresses of loopback that belong to this process while its tests use them.

Several test processes run at a time, and any other program may open sockets as well. So no test
looks for a free port, closes it, and hopes that it is still free a moment later.
"""

import os
import socket
from ipaddress import IPv4Address, IPv4Network

_number = os.getpid() % (254 * 256)
NETWORK = IPv4Network(f"127.{1 + _number // 256}.{_number % 256}.0/24")
"""Nothing else on this host binds an address of this /24 but with all others, 0.0.0.0."""


def address(n: int) -> IPv4Address:
    """An address of `NETWORK`, of 1 to 254."""
    return NETWORK[n]


def tcp_port() -> int:
    """A port of 127.0.0.1 that no other process gets until this one ends.

    The kernel refuses connections to it, until a server listens there that sets SO_REUSEADDR, as
    etcd, asyncio and `socket.create_server` do: a socket that is bound and does not listen is in
    the way of all others, and not of that.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    holder.detach()  # it stays open
    return port


def udp_holder() -> socket.socket:
    """A socket that keeps a UDP port of `NETWORK` for tests until it is closed.

    It has address 254; at the others, its port is free, and nobody can bind 0.0.0.0 there.
    """
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    holder.bind((str(address(254)), 0))
    return holder
