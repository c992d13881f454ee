"""The MTU rule of the backends with a tunnel."""

from collections.abc import Callable

import pytest

from flannel.backends import check_config, mtu
from flannel.backends.udp import UdpConfig
from flannel.backends.vxlan import VxlanConfig
from flannel.document import BadDocument, Members
from flannel.errors import BadNetworkConfig
from flannel.network_config import NetworkConfig


def config(backend: str, configured: int) -> NetworkConfig:
    text = f'{{"Network":"10.5.0.0/16","Backend":{{"Type":"{backend}","MTU":{configured}}}}}'
    return NetworkConfig.from_json(text)


def test_without_a_configured_mtu_the_overlay_takes_that_of_the_interface() -> None:
    assert mtu.read(Members({}), 50) == 0
    assert mtu.of_overlay(0, 1500, 50) == 1450
    assert mtu.of_overlay(1400, 1500, 50) == 1350


@pytest.mark.parametrize("configured", [1, 117, 65536, -1])
def test_an_mtu_without_room_for_packets_is_refused(configured: int) -> None:
    with pytest.raises(BadDocument, match=rf"MTU is {configured}: it must be"):
        mtu.read(Members({"MTU": configured}), 50)


@pytest.mark.parametrize("configured", [0, 118, 1500, 65535])
def test_an_mtu_with_room_for_the_least_packet_is_taken(configured: int) -> None:
    assert mtu.read(Members({"MTU": configured}), 50) == configured


@pytest.mark.parametrize(
    ("backend", "overhead", "read"),
    [("vxlan", 50, VxlanConfig.from_config), ("udp", 28, UdpConfig.from_config)],
)
def test_each_tunnel_counts_its_own_bytes(
    backend: str, overhead: int, read: Callable[[NetworkConfig], VxlanConfig | UdpConfig]
) -> None:
    least = 68 + overhead
    assert read(config(backend, least)).mtu == least
    with pytest.raises(
        BadNetworkConfig, match=f"Backend.MTU is {least - 1}: it must be 0 or {least}"
    ):
        check_config(config(backend, least - 1))
