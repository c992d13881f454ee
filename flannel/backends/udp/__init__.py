"""The udp backend: packets cross between hosts inside UDP datagrams, by way of a TUN device.

Not a backend yet: there is no packet loop. What there is are its first bricks, the checksum and
the checked view of a packet, in ``csrc/``, and `dataplane`, their Python face.
"""
