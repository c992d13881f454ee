"""Messages that a kernel sent about changes (Linux 6.18, x86_64).

The host had eth0, link 3, with 192.0.2.1/24; flannel.1, link 4, with 10.5.1.0/32; and a bridge
called other, link 5. The commands were iproute2's. Payloads about links are cut after the name.
"""

import struct

from flannel.kernel.subscription import Notice

ETH0, FLANNEL_1, OTHER = 3, 4, 5

_HEADER = struct.Struct("=IHHII")  # nlmsghdr


def _notice(kind: int, port: int, payload: str) -> Notice:
    return Notice(kind, port, bytes.fromhex(payload))


def datagram(notice: Notice) -> bytes:
    """A message as the kernel sends it."""
    length = _HEADER.size + len(notice.payload)
    return _HEADER.pack(length, notice.kind, 0, 0, notice.port) + notice.payload


NOTICES = {
    "route added by us": (
        _notice(
            24,
            29030,
            "02180000fe6600010400000008000f00fe000000080001000a050200080005000a05020008000400"
            "04000000",
        ),
    ),
    "route removed": (
        _notice(
            25,
            29032,
            "02180000fe6600010400000008000f00fe000000080001000a050200080005000a05020008000400"
            "04000000",
        ),
    ),
    "route into the network by others": (
        _notice(
            24,
            29033,
            "02180000fe0300010000000008000f00fe000000080001000a05090008000500c000020908000400"
            "03000000",
        ),
    ),
    "route elsewhere": (
        _notice(
            24,
            29034,
            "02180000fe0300010000000008000f00fe00000008000100c633640008000500c000020908000400"
            "03000000",
        ),
    ),
    "route over the device": (
        _notice(
            24, 29035, "02180000fe03fd010000000008000f00fe00000008000100c63365000800040004000000"
        ),
    ),
    "blackhole": (_notice(24, 29036, "02180000fe0300060000000008000f00fe000000080001000a054d00"),),
    "route of another table": (
        _notice(
            24,
            29037,
            "02180000070300010000000008000f0007000000080001000a054e0008000500c000020908000400"
            "03000000",
        ),
    ),
    "default route": (
        _notice(
            24, 29038, "02000000fe0300010000000008000f00fe00000008000500c00002fe0800040003000000"
        ),
    ),
    "nexthop of ours": (
        _notice(104, 29039, "02fd000000000000080001000002050a080005000300000008000600c0000209"),
    ),
    "nexthop of others": (
        _notice(104, 29040, "02fd0000000000000800010005000000080005000300000008000600c0000209"),
    ),
    "nexthop removed": (
        _notice(105, 29041, "02fd000000000000080001000002050a080005000300000008000600c0000209"),
    ),
    "neighbour added": (
        _notice(
            28,
            29042,
            "020000000400000080000001080001000a0502000a00020002000000000200000800040000000000"
            "1400030000000000000000000000000001000000",
        ),
    ),
    "neighbour removed": (
        _notice(
            28,
            29043,
            "020000000400000020000001080001000a0502000800040000000000140003000a0000000a000000"
            "0a00000001000000",
        ),
        _notice(
            29,
            0,
            "020000000400000020000001080001000a0502000800040000000000140003000a0000000a000000"
            "0a00000000000000",
        ),
    ),
    "neighbour of eth0": (
        _notice(
            28,
            29044,
            "02000000030000008000000108000100c00002090a00020002000000000900000800040000000000"
            "1400030000000000000000000000000001000000",
        ),
    ),
    "fdb added": (
        _notice(
            28,
            0,
            "0700000004000000c00002010a000200020000000002000008000100c00002021400030000000000"
            "000000000000000000000000",
        ),
    ),
    "fdb removed": (
        _notice(
            29,
            0,
            "0700000004000000c00002010a000200020000000002000008000100c00002021400030000000000"
            "0a0000000a00000000000000",
        ),
    ),
    "address added to device": (
        _notice(
            20,
            29047,
            "0220800004000000080001000a050909080002000a0509090e000300666c616e6e656c2e31000000"
            "080008008000000014000600ffffffffffffffff1e2104001e210400",
        ),
    ),
    "address added to eth0": (
        _notice(
            20,
            29048,
            "021881000300000008000100c000024d08000200c000024d09000300657468300000000008000800"
            "8100000014000600ffffffffffffffff2921040029210400",
        ),
    ),
    "address added to other": (
        _notice(
            20,
            29049,
            "021880000500000008000100cb00710108000200cb0071010a0003006f7468657200000008000800"
            "8000000014000600ffffffffffffffff3421040034210400",
        ),
    ),
    "device down": (
        _notice(16, 0, "000001000400000002100000010000000e000300666c616e6e656c2e31000000"),
    ),
    "eth0 mtu": (_notice(16, 0, "00000100030000004310010000000000090003006574683000000000"),),
    "other down": (_notice(16, 0, "000001000500000002100000010000000a0003006f74686572000000"),),
    "other renamed": (_notice(16, 0, "000001000500000002100000000000000c000300616e6f7468657200"),),
    "device deleted": (
        _notice(17, 0, "000001000400000002100000ffffffff0e000300666c616e6e656c2e31000000"),
    ),
    "device made": (
        _notice(16, 0, "000001000600000002100000ffffffff0e000300666c616e6e656c2e31000000"),
    ),
}
