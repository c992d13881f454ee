"""Misspelled members of a network config, and the known ones that are like them."""

from typing import Any

import pytest

from flannel import backends
from flannel.backends.traits import BACKENDS
from flannel.cli.unknown_members import Unknown, find_unknown
from flannel.errors import BadNetworkConfig
from flannel.network_config import MEMBERS, NetworkConfig

NETWORK = '"Network": "10.1.0.0/16"'


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ('"Bakend": {"Type": "vxlan"}', [Unknown("Bakend", "Backend")]),
        ('"subnetlength": 24', [Unknown("subnetlength", "SubnetLen")]),
        ('"Backend": {"Type": "vxlan", "Vnid": 7}', [Unknown("Backend.Vnid", "Backend.VNI")]),
        ('"VNI": 7, "Backend": {"Type": "vxlan"}', [Unknown("VNI", "Backend.VNI")]),
        ('"Backend": {"Type": "VXLAN", "SubnetMin": "10.1.2.0"}',
         [Unknown("Backend.SubnetMin", "SubnetMin")]),
        ('"Backend": {"Type": "host-gw", "Port": 1}', [Unknown("Backend.Port", "")]),
        ('"Comment": "ours"', [Unknown("Comment", "")]),
        ('"backend": {"type": "vxlan", "vni": 7, "PORT": 1}, "enableipv4": true', []),
        ('"Backend": null', []),
    ],
)  # fmt: skip
def test_the_unknown_ones_are_found(text: str, unknown: list[Unknown]) -> None:
    assert find_unknown(f"{{{NETWORK}, {text}}}") == unknown


def test_each_is_one_line_that_names_what_may_be_meant() -> None:
    assert str(Unknown("Bakend\n", "Backend")) == (
        r"Bakend\n is unknown and has no effect; perhaps Backend is meant"
    )
    assert str(Unknown("x", "")) == "x is unknown and has no effect"


@pytest.mark.parametrize(
    ("path", "document"),
    [
        *((name, {"Network": "10.1.0.0/16", name: []}) for name in MEMBERS),
        *((f"Backend.{name}", {"Network": "10.1.0.0/16", "Backend": {"Type": kind, name: []}})
          for kind, each in BACKENDS.items() for name in each.members),
    ],
)  # fmt: skip
def test_each_known_one_is_read(path: str, document: dict[str, Any]) -> None:
    text = str(document).replace("'", '"')
    with pytest.raises(BadNetworkConfig, match=rf"{path} is \[\]"):
        backends.check_config(NetworkConfig.from_json(text))
