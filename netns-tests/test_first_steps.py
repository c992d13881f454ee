"""README's five steps, command by command, on three hosts with a real systemd: none hangs."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from booted_host import Booted
from docker_host import IMAGE, image
from world import World, wait_for

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def hosts(installed: Path) -> Iterator[list[Booted]]:
    """Three hosts after `make install`, with forwarding off and no config in etcd (step 1)."""
    with World() as world:
        world.start_etcd()
        made = [Booted(world.add_host(label), installed) for label in ("h1", "h2", "h3")]
        for each in made:
            each.host.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
            each.write("/root/image.tar", image(each.host.label))
            each.boot()
        for each in made:
            each.wait_active("multi-user.target")
        yield made


def step(number: int) -> list[str]:
    """The commands of one of README's steps, in their order."""
    text = README.partition("## Deploy it in five steps")[2].partition("\n## ")[0]
    found = re.search(rf"(?ms)^{number}\. (.*?)(?=^\S)", text)
    assert found is not None
    blocks = re.findall(r"(?m)^ {7}(\S.*)$", found[1])
    return blocks or re.findall(r"`([^`]+ [^`]+)`", found[1].replace("\n   ", " "))


def install_docker(host: Booted) -> None:
    """What apt-get install docker.io does after the files are unpacked, by deb-systemd-invoke."""
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "--quiet", "enable", "docker.service", "docker.socket")
    host.type_in("systemctl start docker.service docker.socket")


def answers(host: Booted, address: str) -> bool:
    """Whether a container of the host gets an answer from this address."""
    ping = ("docker", "exec", "web", "ping", "-c1", "-W2", address)
    return host.try_run(*ping).returncode == 0


def test_the_steps_lead_to_containers_that_reach_each_other(hosts: list[Booted]) -> None:
    early, other, late = hosts
    fetched, installed, *commands = step(2)
    assert fetched.startswith("apt-get install ")
    assert installed == "make install"
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: [host.type_in(command) for command in commands], hosts))
    for each in hosts:
        assert each.show("flanneld", "StatusText").startswith("waiting: ")
        assert each.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"

    # docker before the config.
    for each in (early, other):
        install_docker(each)
        assert each.show("docker", "ActiveState") == "inactive"
        unmet = "ConditionPathExists=|/run/flannel/docker was not met"
        assert unmet in each.try_run("systemctl", "status", "docker").stdout
    # Somebody asks for docker, by its socket.
    refused = early.try_run("timeout", "60", "docker", "ps")
    assert refused.returncode not in (0, 124), refused

    (config,) = step(3)
    early.type_in(config)
    for each in (early, other):
        each.wait_active("docker.service")
    assert late.show("docker", "ActiveState") == "inactive"  # nobody has started it

    install, restart = step(4)
    assert install == "apt-get install docker.io"
    install_docker(late)
    other.type_in(restart)
    for each in hosts:
        lease = re.search("FLANNEL_SUBNET=(.*)", each.run("cat", "/run/flannel/subnet.env"))
        assert lease is not None
        assert f"inet {lease[1]} " in each.run("ip", "address", "show", "docker0")
        each.run("docker", "import", "/root/image.tar", IMAGE)
        each.run("docker", "run", "-d", "--name=web", IMAGE, "sleep", "3600")

    status, check = step(5)
    where = "{{.NetworkSettings.IPAddress}}"
    addresses = [each.run("docker", "inspect", "-f", where, "web").strip() for each in hosts]
    for each in hosts:
        for address in addresses:
            wait_for(partial(answers, each, address), 30, f"an answer of {address}")
        assert "ready" in each.type_in(status)
        each.type_in(check)
