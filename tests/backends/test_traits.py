"""The table of facts about the backends agrees with the backends themselves."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from flannel import backends
from flannel.backends.traits import BACKENDS, Carrier, SenderCheck, traits
from flannel.errors import BadNetworkConfig
from flannel.lease import LeaseAttrs
from flannel.network_config import NetworkConfig

NETWORK = IPv4Network("10.5.0.0/16")


def config(backend: str) -> NetworkConfig:
    return NetworkConfig.from_json(f'{{"Network":"{NETWORK}","Backend":{{"Type":"{backend}"}}}}')


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_default_port_is_the_one_that_the_backend_uses(backend: str) -> None:
    assert backends.check_config(config(backend)) == (traits(backend).port or None)


def test_a_backend_that_nobody_serves_is_refused_with_the_ones_that_are() -> None:
    known = "Backend.Type is 'ipip', and this version serves alloc, host-gw, udp, vxlan"
    with pytest.raises(BadNetworkConfig, match=known):
        backends.check_config(config("ipip"))


def test_the_traits_of_an_unknown_backend_are_empty() -> None:
    unknown = traits("ipip")
    assert (unknown.type, unknown.module, unknown.carrier, unknown.port) == ("ipip", "", None, 0)
    assert not unknown.has_tunnel_address
    assert not unknown.takes_every_lease
    assert unknown.sender_check is SenderCheck.NOBODY


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_leases_of_a_backend_name_it_or_nothing_as_upstreams_do(backend: str) -> None:
    attrs = LeaseAttrs(IPv4Address("192.0.2.1"), traits(backend).published_as)
    assert attrs.backend == ("udp" if backend == "alloc" else backend)


def test_only_the_packet_loop_stops_with_flanneld() -> None:
    assert [each.type for each in BACKENDS.values() if each.carrier is Carrier.FLANNELD] == ["udp"]


def test_backends_with_a_port_have_a_tunnel_and_a_check_of_senders() -> None:
    for each in BACKENDS.values():
        has_tunnel = each.port != 0
        assert each.has_tunnel_address == has_tunnel
        assert (each.sender_check is not SenderCheck.NOBODY) == has_tunnel
