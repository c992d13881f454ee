"""The udp backend: what it reads of the network config, publishes, and makes of leases."""

import asyncio
import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from fake_kernel import FakeNetlink, FakeTables

from flannel.backends import check_config, make_backend
from flannel.backends.udp.dataplane import Settings, pack_route
from flannel.backends.udp.network import UdpNetwork
from flannel.errors import BadLease, BadNetworkConfig
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig

SUBNET, PEER_SUBNET = IPv4Network("10.1.15.0/24"), IPv4Network("10.1.16.0/24")
OWN, PUBLIC = IPv4Address("192.0.2.11"), IPv4Address("203.0.113.11")
PEER = IPv4Address("192.0.2.12")
INTERFACE = ExternalInterface(2, "eth0", 1500, OWN, PUBLIC, ())
DEFAULTS = Settings(IPv4Network("10.1.0.0/16"), SUBNET, 1472, 8285)


def config(**backend: object) -> NetworkConfig:
    return NetworkConfig.from_json(
        json.dumps({"Network": "10.1.0.0/16", "Backend": {"Type": "udp", **backend}})
    )


def start(settings: NetworkConfig) -> UdpNetwork:
    """The network that serves `SUBNET`."""
    backend = make_backend(settings, INTERFACE, Kernel(FakeNetlink(), FakeTables()))
    network = asyncio.run(backend.start(Lease(SUBNET, LeaseAttrs(PUBLIC))))
    assert isinstance(network, UdpNetwork)
    return network


@pytest.fixture
def network() -> UdpNetwork:
    return start(config())


@pytest.mark.parametrize(
    ("backend", "changes", "n_threads"),
    [
        ({}, {}, 1),
        ({"Port": 0, "MTU": 0}, {}, 1),
        ({"Port": 8290, "Threads": 4}, {"port": 8290}, 4),
        ({"MTU": 1400, "ECN": True}, {"mtu": 1372, "ecn": True}, 1),
        ({"SourceCheck": False}, {"check_source": False}, 1),
    ],
)
def test_the_network_config_and_the_lease_become_settings(
    backend: dict[str, object], changes: dict[str, Any], n_threads: int
) -> None:
    network = start(config(**backend))
    wanted = replace(DEFAULTS, **changes)
    assert (network._tunnel.settings, network._tunnel.n_threads) == (wanted, n_threads)
    assert network.mtu == wanted.mtu
    assert check_config(config(**backend)) == wanted.port


@pytest.mark.parametrize(
    "backend",
    [{"Port": 65536}, {"Threads": 0}, {"Threads": 65}, {"ECN": "yes"}, {"SourceCheck": 1}],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(backend: dict[str, object]) -> None:
    (name,) = backend
    with pytest.raises(BadNetworkConfig, match=f"cannot use the network config: Backend.{name} is"):
        check_config(config(**backend))


def test_a_network_without_the_source_check_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start(config())
    assert caplog.messages == []
    start(config(SourceCheck=False))
    (message,) = caplog.messages
    assert message.startswith("Backend.SourceCheck is false: all who reach UDP port 8285 of this")


def test_udp_publishes_the_public_address_and_no_backend_as_upstream_does() -> None:
    backend = make_backend(config(), INTERFACE, Kernel(FakeNetlink(), FakeTables()))
    attrs = asyncio.run(backend.lease_attrs("0123456789abcdef"))
    assert attrs == LeaseAttrs(PUBLIC, "", node_id="0123456789abcdef")


@pytest.mark.parametrize("backend_type", ["", "udp", "vxlan", "host-gw", "something of tomorrow"])
def test_a_lease_of_any_backend_is_taken(network: UdpNetwork, backend_type: str) -> None:
    data = {"VtepMAC": "02:00:00:00:00:01"}
    lease = Lease(PEER_SUBNET, LeaseAttrs(PEER, backend_type, data))
    assert network.plan(lease) == pack_route(PEER_SUBNET, PEER)


@pytest.mark.parametrize("address", [OWN, PUBLIC])
def test_a_lease_with_the_address_of_this_host_is_refused(
    network: UdpNetwork, address: IPv4Address
) -> None:
    with pytest.raises(BadLease, match=f"{address} is the address of this host"):
        network.plan(Lease(PEER_SUBNET, LeaseAttrs(address)))
