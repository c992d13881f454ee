"""A docker network for the lease: made, kept, made again; those of others are left alone."""

import asyncio
from ipaddress import IPv4Interface
from pathlib import Path

import pytest
from fake_docker import FakeDocker

from flannel.errors import BadOption, CannotHandOver
from flannel.handover import docker_api, docker_network
from flannel.handover.docker_api import DockerApi
from flannel.handover.docker_network import DockerNetwork
from flannel.handover.recipients import MARK, Offer, offers

OWNER = "/run/flannel/subnet.env"
(OFFER,) = offers(IPv4Interface("10.5.1.1/24"), 1450, 1)
(NEXT,) = offers(IPv4Interface("10.5.2.1/24"), 1450, 1)
(SMALLER,) = offers(IPv4Interface("10.5.1.1/24"), 1400, 1)


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    return FakeDocker(tmp_path)


def give(docker: FakeDocker, offer: Offer = OFFER, name: str = "fl") -> bool:
    return docker.run(lambda: DockerNetwork(name, OWNER, docker.api).give(offer))


def refusal(docker: FakeDocker, offer: Offer = OFFER) -> str:
    with pytest.raises(CannotHandOver) as raised:
        give(docker, offer)
    assert str(raised.value).isprintable()
    return str(raised.value)


def test_the_network_is_made_once_with_subnet_gateway_and_mtu(docker: FakeDocker) -> None:
    assert give(docker)
    assert not give(docker)
    (network,) = docker.networks.values()
    assert network["IPAM"]["Config"] == [{"Subnet": "10.5.1.0/24", "Gateway": "10.5.1.1"}]
    assert network["Options"] == {
        "com.docker.network.bridge.name": "flannel-br",
        "com.docker.network.driver.mtu": "1450",
        "com.docker.network.bridge.enable_ip_masquerade": "false",
    }
    assert network["Labels"] == {MARK: OWNER}


def test_a_share_of_the_lease_is_a_range_of_addresses(docker: FakeDocker) -> None:
    _, second = offers(IPv4Interface("10.5.1.1/24"), 1450, 2)
    assert give(docker, second)
    assert not give(docker, second)
    (network,) = docker.networks.values()
    assert network["IPAM"]["Config"][0]["IPRange"] == "10.5.1.128/25"


@pytest.mark.parametrize("offer", [NEXT, SMALLER])
def test_another_lease_or_mtu_makes_it_again(docker: FakeDocker, offer: Offer) -> None:
    give(docker)
    assert give(docker, offer)
    (network,) = docker.networks.values()
    assert network["IPAM"]["Config"][0]["Subnet"] == str(offer.gateway.network)
    assert network["Options"]["com.docker.network.driver.mtu"] == str(offer.mtu)


def test_what_docker_adds_to_a_network_is_no_difference(docker: FakeDocker) -> None:
    give(docker)
    (network,) = docker.networks.values()
    network["Options"]["com.docker.network.enable_ipv4"] = "true"
    network["IPAM"]["Config"][0]["AuxiliaryAddresses"] = None
    assert not give(docker)


def test_a_network_with_containers_is_kept_until_they_are_gone(docker: FakeDocker) -> None:
    give(docker)
    (number,) = docker.networks
    docker.containers[number] = ["web", "db", "a", "b"]
    assert refusal(docker, NEXT) == (
        "docker network fl keeps 10.5.1.0/24, MTU 1450 until no container is attached to it: "
        "remove a, b, db and 1 more"
    )
    assert list(docker.networks) == [number]
    docker.containers.clear()
    assert give(docker, NEXT)


def test_a_network_of_somebody_else_is_left_alone(docker: FakeDocker) -> None:
    docker.add(Name="fl", Driver="bridge", IPAM={}, Options=None, Labels=None)
    docker.add(Name="fl2", Driver="bridge", IPAM={"Config": None}, Options=None, Labels={"a": "b"})
    assert refusal(docker) == (
        "cannot take docker network fl for the lease: flanneld has not made it, as it has no label "
        f"{MARK}"
    )
    docker.networks[next(iter(docker.networks))]["Labels"] = {MARK: "/run/other/subnet.env"}
    assert "the flanneld of /run/other/subnet.env made it" in refusal(docker)
    assert set(docker.asked) == {"GET /networks"}


def test_a_network_of_ours_with_an_earlier_name_gives_way(docker: FakeDocker) -> None:
    give(docker, name="before")
    assert give(docker)
    assert set(docker.by_name()) == {"fl"}


def test_a_removed_network_is_made_again(docker: FakeDocker) -> None:
    give(docker)
    docker.networks.clear()
    assert give(docker)


def test_dockers_own_reason_is_shown(docker: FakeDocker) -> None:
    docker.refuses = (403, "Pool overlaps with other one\x1b on this address space")
    assert refusal(docker) == (
        "cannot change docker's network: docker answers: Pool overlaps with other one\\x1b on this "
        "address space"
    )


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"hello\n", "it is not HTTP"),
        (b"HTTP/1.0 200 OK\r\n\r\n{", "it is not JSON"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"[" * 100_000, "it is not JSON"),
        (b"HTTP/1.0 200 OK\r\n\r\n[1]", "it is no list of networks"),
        (b"HTTP/1.0 200 OK\r\n\r\n", "it is no list of networks"),
        (b"HTTP/1.0 500 OK\r\n\r\n[]", "HTTP status 500"),
    ],
)
def test_a_wrong_answer_is_named(docker: FakeDocker, raw: bytes, why: str) -> None:
    docker.raw = raw
    assert why in refusal(docker)


def test_a_docker_that_does_not_run_is_not_asked(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotHandOver, match=r"cannot ask docker at .*docker.sock: No such file"):
        asyncio.run(DockerNetwork("fl", OWNER, docker.api).give(OFFER))
    # systemd listens at the usual socket, and would start it.
    monkeypatch.setattr(docker_api, "SOCKET", docker.api.socket)
    monkeypatch.setattr(docker_api, "PID_FILE", tmp_path / "docker.pid")
    assert "docker does not run: there is no" in refusal(docker)
    assert docker.asked == []
    (tmp_path / "docker.pid").touch()
    assert give(docker)


def test_docker_is_asked_by_a_socket_only() -> None:
    assert DockerApi({}).socket == Path("/run/docker.sock")
    with pytest.raises(BadOption, match=r"cannot use DOCKER_HOST tcp://192\.0\.2\.1: docker is"):
        DockerApi({"DOCKER_HOST": "tcp://192.0.2.1"})


def test_ours_are_found_and_removed(docker: FakeDocker) -> None:
    docker.add(Name="other", Labels={MARK: "/run/other/subnet.env"})
    give(docker)

    async def work() -> None:
        (found,) = await docker_network.list_ours(docker.api, OWNER)
        await docker_network.remove(docker.api, found)
        await docker_network.remove(docker.api, found)

    docker.run(work)
    assert set(docker.by_name()) == {"other"}
