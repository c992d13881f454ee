"""The Python face of ``csrc/``; the only user of the compiled module.

``csrc/dataplane.cdef`` lists all that can be called there.
"""

import os

from flannel.backends.udp._dataplane import ffi, lib

ENCAP_LEN: int = lib.FLANNEL_ENCAP_LEN
"""Bytes that the tunnel adds to each packet: a device's MTU is the external link's less this."""


def forward(packet: bytearray) -> int:
    """Do to one IPv4 packet, in place, what each end of the tunnel does: count a hop.

    :returns: how many bytes to send on; what follows the packet in the buffer is trimmed.
    :raises OSError: and leaves the buffer as it was: ``EBADMSG`` where the lengths in the header
        are wrong, ``EPROTONOSUPPORT`` where it is not IPv4, ``ETIME`` where the TTL has run out.
    """
    length: int = lib.flannel_forward(ffi.from_buffer(packet, require_writable=True), len(packet))
    if length < 0:
        raise OSError(-length, f"cannot forward packet: {os.strerror(-length)}")
    return length
