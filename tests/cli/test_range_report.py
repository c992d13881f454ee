"""What `flannel config check` reports of addresses: on values."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest
from typed_options import typed

from flannel.cli.range_report import docker_report, own_address, range_lines
from flannel.kernel.host import Claim
from flannel.kernel.links import Address, Link
from flannel.kernel.rtmessages import FoundRoute
from flannel.kernel.surroundings import Surroundings
from flannel.network_config import NetworkConfig

DOCKER0 = Link(3, "docker0", "bridge", 1500, True, "")
RESTART = "docker0 has 172.17.0.1/16: restart docker when flanneld is ready"
CLAIM = Claim(NetworkConfig.from_json('{"Network": "172.16.0.0/12"}'), 24)


def host(address: str) -> Surroundings:
    interface = IPv4Interface(address)
    return Surroundings(
        {3: DOCKER0},
        [Address(3, interface, 0)],
        [FoundRoute(interface.network, None, 3, 0)],
    )


@pytest.mark.parametrize(
    ("address", "claim", "expected"),
    [
        ("172.17.0.1/16", CLAIM, RESTART),
        ("172.17.0.1/16", replace(CLAIM, route_len=12),
         f"{RESTART}; packets for 172.17.0.0/16 go to it until then"),
        ("172.17.9.1/24", replace(CLAIM, own=[IPv4Network("172.17.9.0/24")]), ""),
        ("192.168.0.1/16", CLAIM, ""),
    ],
)  # fmt: skip
def test_docker_s_own_address_in_the_network_calls_for_a_restart_of_docker(
    address: str, claim: Claim, expected: str
) -> None:
    assert docker_report(host(address), claim) == expected


def test_a_host_without_docker_needs_nothing() -> None:
    assert docker_report(Surroundings({}, []), CLAIM) == ""


@pytest.mark.parametrize(
    ("address", "flags", "expected"),
    [
        ("172.17.0.9/12", (), "172.17.0.9"),
        ("192.0.2.1/24", ("-public-ip=172.17.0.9",), "172.17.0.9"),
        ("172.17.0.9/12", ("-iface=eth9",), ""),
        ("192.0.2.1/24", (), ""),
    ],
)
def test_the_address_of_a_host_without_a_lease_may_not_be_a_container_s(
    address: str, flags: tuple[str, ...], expected: str
) -> None:
    eth0 = Surroundings(
        {2: Link(2, "eth0", "", 1500, True, "")},
        [Address(2, IPv4Interface(address), 0)],
        [FoundRoute(IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.254"), 2, 0)],
    )
    text = f"its own address {expected} among those that are leased to containers"
    assert own_address(typed(*flags), eth0, CLAIM.config) == (text if expected else "")


def test_each_reason_has_a_line() -> None:
    report = {
        "overlap": "route 10.1.4.0/24 dev eth0",
        "docker0": "docker0 has 172.17.0.1/16: restart docker",
        "refused": ["10.1.9.0/24 of 10.1.4.7"],
    }
    assert range_lines(report) == [
        "  NOT FOR THIS HOST: it has route 10.1.4.0/24 dev eth0, in that network",
        "  docker0 has 172.17.0.1/16: restart docker",
        "  REFUSED: the host of lease 10.1.9.0/24 of 10.1.4.7: a container may get its address",
    ]
    assert range_lines({"overlap": "", "docker0": "", "refused": []}) == []
