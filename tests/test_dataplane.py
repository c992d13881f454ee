import errno
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from flannel.backends.udp import _dataplane, dataplane


def packet(ttl: int) -> bytes:
    return bytes(IP(src="10.1.15.2", dst="10.1.16.2", ttl=ttl) / UDP() / Raw(b"payload"))


def test_a_forwarded_packet_has_a_hop_less_and_loses_what_trailed_it():
    buffer = bytearray(packet(ttl=64) + b"padding")
    length = dataplane.forward(buffer)
    assert bytes(buffer[:length]) == packet(ttl=63)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (packet(ttl=1), errno.ETIME),
        (packet(ttl=64)[:-1], errno.EBADMSG),
        (b"\x60" + bytes(39), errno.EPROTONOSUPPORT),
        (b"", errno.EBADMSG),
    ],
    ids=["ttl has run out", "cut short", "IPv6", "empty"],
)
def test_a_packet_that_cannot_be_forwarded_raises_and_stays_as_it_was(data, error):
    buffer = bytearray(data)
    with pytest.raises(OSError, match="cannot forward packet: ") as failed:
        dataplane.forward(buffer)
    assert failed.value.errno == error
    assert bytes(buffer) == data


def test_bytes_that_cannot_be_changed_are_refused():
    with pytest.raises(BufferError):
        dataplane.forward(packet(ttl=64))  # type: ignore[arg-type]  # that is the mistake


def test_the_tunnel_costs_an_ip_and_a_udp_header():
    assert len(bytes(IP() / UDP())) == dataplane.ENCAP_LEN


def test_the_module_fits_every_python_from_here_on():
    assert Path(_dataplane.__file__).name == "_dataplane.abi3.so"


def test_production_has_no_window_on_internals():
    assert set(dir(_dataplane.lib)) == {"FLANNEL_ENCAP_LEN", "flannel_forward"}
