"""Asks the kernel about nf_tables, without the program nft.

Numbers are from linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h.

generation()     # bytes that differ after each change of any rule
list_tables()    # {("ip", "flannel"), ("inet", "firewalld"), ...}
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from flannel.errors import FirewallError

_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES, _NFT_MSG_GETTABLE, _NFT_MSG_GETGEN = 10, 1, 16
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NFTA_TABLE_NAME, _NFTA_GEN_ID = 1, 1
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_TYPE_MASK = 0x3FFF
"""The bits of an attribute's type; the two bits above are flags (linux/netlink.h)."""

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR = struct.Struct("=i")

_ABSENT = errno.EPROTONOSUPPORT, errno.EINVAL
"""The errors of a kernel without nfnetlink, and of one with nfnetlink but without nf_tables."""
_TIMEOUT = 1.0
"""Seconds. The kernel answers before send() returns, or not at all."""
_LARGEST = 1 << 16
"""Bytes of one datagram of an answer; the kernel sends at most 32 KiB (netlink_dump)."""


def generation() -> bytes | None:
    """Bytes that differ after every change of any rule in nf_tables, iptables-nft's included.

    None if the kernel does not answer.
    """
    try:
        for body in _ask(_NFT_MSG_GETGEN, _NLM_F_REQUEST):
            return dict(_attributes(body)).get(_NFTA_GEN_ID)
    except OSError:
        pass
    return None


def list_tables() -> set[tuple[str, str]]:
    """The family and name of each table in nf_tables; empty if the kernel has no nf_tables.

    :raises FirewallError: the kernel refuses.
    """
    try:
        return {
            (
                _FAMILIES.get(body[0], str(body[0])),
                dict(_attributes(body))[_NFTA_TABLE_NAME].rstrip(b"\0").decode(errors="replace"),
            )
            for body in _ask(_NFT_MSG_GETTABLE, _NLM_F_REQUEST | _NLM_F_DUMP)
        }
    except OSError as why:
        if why.errno in _ABSENT:
            return set()
        raise FirewallError(f"cannot list the tables of nf_tables: {why.strerror or why}") from why


def _ask(message: int, flags: int) -> Iterator[bytes]:
    """Send one request; yield the bodies of the answers, each with its nfgenmsg.

    :raises OSError: the kernel refuses, or does not answer.
    """
    kind = _NFNL_SUBSYS_NFTABLES << 8 | message
    request = _HEADER.pack(_HEADER.size + _GENERIC.size, kind, flags, 1, 0) + _GENERIC.pack(0, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_TIMEOUT)
        kernel.send(request)
        while True:
            for kind, body in _messages(kernel.recv(_LARGEST)):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -_ERROR.unpack_from(body)[0]
                    raise OSError(number, os.strerror(number))
                yield body
            if not flags & _NLM_F_DUMP:
                return


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and body of each message of one datagram."""
    while len(data) >= _HEADER.size:
        size, kind, _, _, _ = _HEADER.unpack_from(data)
        size = max(size, _HEADER.size)
        yield kind, data[_HEADER.size : size]
        data = data[size + 3 & ~3 :]


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The type and value of each attribute after an nfgenmsg."""
    data = body[_GENERIC.size :]
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        size = max(size, _ATTRIBUTE.size)
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : size]
        data = data[size + 3 & ~3 :]
