"""-hand-over=docker-network: a real docker's network has the lease, and docker0 is left alone."""

import json
from typing import Any

import pytest
from docker_host import Docker
from flannel_command import findings, flannel, status_of
from world import Host, World, ping, wait_for

VXLAN = {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}
HAND_OVER = "-hand-over=docker-network=overlay"


def start_flanneld(docker: Docker) -> None:
    docker.host.start_flanneld("-iface=eth0", HAND_OVER, env={"DOCKER_HOST": docker.url})
    docker.host.daemon.wait_ready()


def network_of(docker: Docker, name: str = "overlay") -> dict[str, Any]:
    """The network as docker shows it; empty if there is none."""
    done = docker.try_ctl("network", "inspect", name)
    found: list[dict[str, Any]] = json.loads(done.stdout) if done.returncode == 0 else []
    return found[0] if found else {}


def wait_network(docker: Docker) -> None:
    """Wait until docker has the network with this host's lease."""

    def fits() -> bool:
        found = network_of(docker)
        return bool(found) and found["IPAM"]["Config"][0]["Subnet"] == str(docker.host.subnet)

    wait_for(fits, 60, lambda: f"a network, not {network_of(docker)}; {words(docker.host)}")


def words(host: Host) -> str:
    return host.daemon.last_words()


def test_a_docker_network_has_the_lease_and_follows_it_without_a_restart_of_docker(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.configure(VXLAN)
    dockers = [Docker(world.add_host(f"h{number}")) for number in (1, 2)]
    docker, host = dockers[0], dockers[0].host
    for each in dockers:
        start_flanneld(each)  # which does not wait for docker
    host.daemon.wait_log("cannot ask docker at .*: No such file or directory")
    for each in dockers:
        each.start("--mtu=1400")  # docker0 is docker's own
        wait_network(each)
    near, far = (each.run("web", network="overlay") for each in dockers)
    assert near.address in host.subnet
    assert near.mtu == far.mtu == 1450
    assert ping(near, far.address, 30) is not None
    assert ping(far, near.address, 30) is not None
    wait_for(lambda: not status_of(host)["conditions"], 30, lambda: str(status_of(host)))
    assert findings(host) == {}
    assert "inet 172.17.0.1/16 " in host.run("ip", "address", "show", "docker0")
    assert "restart docker" not in host.daemon.log

    # docker restarts, and has its network again.
    docker.stop()
    docker.start("--mtu=1400")
    docker.ctl("start", "web")
    assert ping(far, near.address, 30) is not None

    lose_lease(world, docker, dockers[1].host)
    docker.ctl("rm", "web")
    wait_network(docker)
    assert ping(docker.run("again", network="overlay"), far.address, 30) is not None
    docker.ctl("rm", "--force", "again")
    clean_up(docker, monkeypatch)
    leave_alone(docker)


def lose_lease(world: World, docker: Docker, other: Host) -> None:
    """Another host takes the lease while flanneld is down; the network waits for its container."""
    host, before = docker.host, docker.host.subnet
    host.daemon.stop()
    key = str(before).replace("/", "-")
    world.put_leases({key: world.leases()[str(other.subnet).replace("/", "-")]["value"]})
    start_flanneld(docker)
    assert host.subnet != before
    host.daemon.wait_log(
        f"docker network overlay keeps {before}, MTU 1450 until no container is attached to it: "
        "remove web"
    )
    assert "keeps" in findings(host)["hand-over"]
    docker.ctl("kill", "web")  # stopped, it would not start again without its network
    assert network_of(docker)["IPAM"]["Config"][0]["Subnet"] == str(before)


def clean_up(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removes the network, and not that of others."""
    host = docker.host
    docker.ctl("network", "create", "mine")
    host.daemon.stop()
    monkeypatch.setenv("DOCKER_HOST", docker.url)
    done = flannel(host, "cleanup", "--yes", "--json")
    assert "docker network overlay" in json.loads(done.stdout)["removed"], done
    assert not network_of(docker)
    assert network_of(docker, "mine")
    assert host.try_run("ip", "link", "show", "flannel-br").returncode != 0


def leave_alone(docker: Docker) -> None:
    """A network of that name which somebody else has made stays until its owner removes it."""
    docker.ctl("network", "create", "overlay")
    found = network_of(docker)
    start_flanneld(docker)
    docker.host.daemon.wait_log("cannot take docker network overlay for the lease: flanneld has")
    assert network_of(docker) == found
    docker.ctl("network", "rm", "overlay")
    wait_network(docker)
