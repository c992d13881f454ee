"""The Backend object of the network config, as vxlan reads it."""

import json
from typing import Any

import pytest

from flannel.backends.vxlan import VxlanConfig, check_config
from flannel.errors import BadNetworkConfig
from flannel.network_config import NetworkConfig


def config(**members: Any) -> NetworkConfig:
    backend = {"Type": "vxlan", **members}
    return NetworkConfig.from_json(json.dumps({"Network": "10.5.0.0/16", "Backend": backend}))


def test_absent_members_have_upstreams_defaults() -> None:
    assert VxlanConfig.from_config(config()) == VxlanConfig(1, 8472, 0, False, False, False)


def test_every_member_is_read() -> None:
    read = VxlanConfig.from_config(
        config(VNI=7, Port=4789, MTU=1400, GBP=True, Learning=True, DirectRouting=True)
    )
    assert read == VxlanConfig(7, 4789, 1400, True, True, True)


def test_vni_0_can_be_configured() -> None:
    assert VxlanConfig.from_config(config(VNI=0)).vni == 0


def test_port_0_is_the_default_port() -> None:
    assert check_config(config(Port=0)) == 8472
    assert check_config(config(Port=4789)) == 4789


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("VNI", 10_000_000),  # flannel.<VNI> would not fit a link's name
        ("VNI", -1),
        ("VNI", "1"),
        ("Port", 65536),
        ("MTU", 117),
        ("GBP", 1),
        ("Learning", "yes"),
        ("DirectRouting", "true"),
    ],
)
def test_a_wrong_member_is_named_with_its_value(member: str, value: Any) -> None:
    with pytest.raises(BadNetworkConfig, match=f"Backend.{member} is {json.dumps(value)}: it must"):
        VxlanConfig.from_config(config(**{member: value}))
