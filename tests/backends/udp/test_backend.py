"""What the udp backend makes of leases."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any, cast

import pytest

from flannel.backends.udp.dataplane import Settings, pack_route
from flannel.backends.udp.network import Tunnel, UdpNetwork
from flannel.errors import BadLease
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs

SUBNET = IPv4Network("10.1.16.0/24")
OWN, PUBLIC = IPv4Address("192.0.2.11"), IPv4Address("203.0.113.11")
PEER = IPv4Address("192.0.2.12")


@pytest.fixture
def network() -> UdpNetwork:
    settings = Settings(IPv4Network("10.1.0.0/16"), IPv4Network("10.1.15.0/24"), 1472, 8285)
    interface = ExternalInterface(2, "eth0", 1500, OWN, PUBLIC, ())
    return UdpNetwork(cast(Any, None), Tunnel(settings, interface, 1))  # plan() asks no kernel


@pytest.mark.parametrize("backend_type", ["", "udp", "vxlan", "host-gw", "something of tomorrow"])
def test_every_lease_is_taken_whatever_backend_it_names(
    network: UdpNetwork, backend_type: str
) -> None:
    lease = Lease(SUBNET, LeaseAttrs(PEER, backend_type, {"VtepMAC": "02:00:00:00:00:01"}))
    assert network.plan(lease) == pack_route(SUBNET, PEER)


@pytest.mark.parametrize("address", [OWN, PUBLIC])
def test_a_lease_with_the_address_of_this_host_is_refused(
    network: UdpNetwork, address: IPv4Address
) -> None:
    with pytest.raises(BadLease, match=f"{address} is the address of this host"):
        network.plan(Lease(SUBNET, LeaseAttrs(address)))
