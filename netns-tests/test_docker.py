"""Real dockers on hosts that flanneld serves: the bridge, the addresses, the start orders."""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import pytest
from docker_host import Docker, DockerContainer
from flannel_command import status_of
from world import Host, World, ping, wait_for

VXLAN = {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}
HTTPD = ("httpd", "-f", "-vv", "-p", "80", "-h", "/www")  # -vv: says who asks


def all_at_once(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call them side by side: dockerd takes half a second to start."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [each.result() for each in [pool.submit(function) for function in functions]]


def start_flanneld(hosts: Sequence[Host], *flags: str) -> None:
    for host in hosts:
        host.start_flanneld("-iface=eth0", *flags)
    for host in hosts:
        host.daemon.wait_ready()


def start_docker(hosts: Sequence[Host], *options: str) -> list[Docker]:
    dockers = [Docker(host) for host in hosts]
    return all_at_once([partial(docker.start, *options) for docker in dockers])


def run_web(dockers: Sequence[Docker]) -> list[DockerContainer]:
    """A web server in a container on each, which answers."""
    web = all_at_once([partial(docker.run, "web", *HTTPD) for docker in dockers])
    wait_answers(web)
    return web


def wait_answers(web: Sequence[DockerContainer]) -> None:
    """Docker has started the servers; they may not listen yet."""

    def answers(server: DockerContainer) -> bool:
        return server.try_run("wget", "-qO-", "http://127.0.0.1/").returncode == 0

    for each in web:
        wait_for(partial(answers, each), 30, each.name)


@contextmanager
def outside(world: World) -> Iterator[Callable[[], str]]:
    """A web server on the underlay, which knows nothing of the overlay; gives its log."""
    log = world.directory / "outside.log"
    with log.open("wb") as output:
        server = world.net.popen("busybox", *HTTPD[:-1], str(world.directory), stderr=output)
    try:
        wait_for(lambda: ":80 " in world.net.run("ss", "-Hltn"), 30, "the server to listen")
        yield log.read_text
    finally:
        server.kill()
        server.wait()


class Cluster(NamedTuple):
    """What most tests share."""

    world: World
    hosts: list[Host]
    dockers: list[Docker]
    web: list[DockerContainer]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three hosts, flanneld with -ip-masq and then docker on each, a web server in a container.

    A blackhole route for the bridge's subnet must not keep docker from it.
    """
    with World() as world:
        world.start_etcd()
        world.configure(VXLAN)
        hosts = [world.add_host(f"h{number}") for number in (1, 2, 3)]
        start_flanneld(hosts, "-ip-masq", "-ip-blackhole-route")
        dockers = start_docker(hosts)
        yield Cluster(world, hosts, dockers, run_web(dockers))


def test_every_container_reaches_every_other(cluster: Cluster) -> None:
    for host, web in zip(cluster.hosts, cluster.web, strict=True):
        assert web.address in host.subnet
    for one, other in permutations(cluster.web, 2):
        assert ping(one, other.address, 30) is not None
        label = other.name.partition("-")[0]
        assert one.run("wget", "-qO-", f"http://{other.address}/") == f"this is {label}\n"


def test_every_container_has_the_mtu_of_the_overlay(cluster: Cluster) -> None:
    for host, web in zip(cluster.hosts, cluster.web, strict=True):
        assert web.mtu == int(host.subnet_env["FLANNEL_MTU"]) == 1450


def test_another_container_sees_the_address_of_the_container(cluster: Cluster) -> None:
    for one, other in permutations(cluster.web, 2):
        path = f"/from-{one.name}"
        one.try_run("wget", "-qO-", f"http://{other.address}{path}")
        seen = rf"\[::ffff:{one.address}\]:\d+: url:{path}"
        other.wait_log(seen)


def test_a_server_outside_sees_the_address_of_the_host(cluster: Cluster) -> None:
    def has(pattern: str) -> bool:
        return re.search(pattern, log()) is not None

    with outside(cluster.world) as log:
        for host, web in zip(cluster.hosts, cluster.web, strict=True):
            web.try_run("wget", "-qO-", f"http://192.0.2.1/{host.label}")
            seen = rf"\[::ffff:{host.address}\]:\d+: url:/{host.label}"
            wait_for(partial(has, seen), 30, log)


def test_docker_masquerades_where_flanneld_has_no_ip_masq(world: World) -> None:
    world.configure(VXLAN)
    host = world.add_host("h1")
    start_flanneld([host])
    (web,) = run_web(start_docker([host]))
    with outside(world) as log:
        web.try_run("wget", "-qO-", "http://192.0.2.1/")
        wait_for(lambda: f"[::ffff:{host.address}]" in log(), 30, log)


def test_a_docker_that_fits_gives_no_warning(cluster: Cluster) -> None:
    host = cluster.hosts[0]
    host.daemon.stop()
    host.start_flanneld("-iface=eth0", "-ip-masq").wait_ready()
    host.daemon.wait_log("(?s)subnet.env has subnet .*subnet.env has subnet ")
    host.subnet_file.unlink()  # at which it looks again when docker has been looked at
    host.daemon.wait_log("subnet.env was changed or removed")
    assert "docker0" not in host.daemon.log


def test_docker_restarts_while_flanneld_is_down(cluster: Cluster) -> None:
    """With the same subnet, for subnet.env outlives flanneld."""
    host, docker = cluster.hosts[1], cluster.dockers[1]
    host.daemon.stop()
    docker.stop()
    docker.start()
    docker.ctl("start", "web")
    assert ping(cluster.web[1], cluster.web[2].address, 30) is not None
    host.start_flanneld("-iface=eth0", "-ip-masq").wait_ready()


@pytest.mark.parametrize("first", ["flanneld", "docker"])
def test_where_docker_turns_forwarding_on_the_overlay_still_passes(
    world: World, first: str
) -> None:
    """For it makes DROP the policy of FORWARD then."""
    world.configure(VXLAN)
    hosts = [world.add_host(f"h{number}") for number in (1, 2)]
    for host in hosts:
        host.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
    if first == "docker":
        dockers = start_docker(hosts, "--mtu=1450")
        start_flanneld(hosts, "-ip-masq")
        for docker in dockers:  # as flanneld's log asks for
            docker.stop()
        all_at_once([docker.start for docker in dockers])
    else:
        start_flanneld(hosts, "-ip-masq")
        dockers = start_docker(hosts)
    for host in hosts:
        assert "-P FORWARD DROP" in host.run("iptables", "-S", "FORWARD")
    one, other = run_web(dockers)
    assert ping(one, other.address, 30) is not None
    assert one.run("wget", "-qO-", f"http://{other.address}/") == "this is h2\n"


def test_the_udp_defaults_serve_docker_as_on_coreos(world: World) -> None:
    """Config by etcdctl, flanneld, docker with bip and mtu: all defaults, so the udp backend."""
    world.etcdctl("set", "/coreos.com/network/config", '{ "Network": "10.1.0.0/16" }')
    hosts = [world.add_host(f"h{number}") for number in (1, 2)]
    start_flanneld(hosts)
    dockers = []
    for host in hosts:
        env = host.subnet_env
        options = (f"--bip={env['FLANNEL_SUBNET']}", f"--mtu={env['FLANNEL_MTU']}")
        dockers += start_docker([host], *options)
    one, other = run_web(dockers)
    assert (one.mtu, other.mtu) == (1472, 1472)
    assert ping(one, other.address, 30) is not None
    assert ping(other, one.address, 30) is not None
    assert one.run("wget", "-qO-", f"http://{other.address}/") == "this is h2\n"


def test_docker_first_and_flanneld_second_ends_with_a_bridge_that_works(world: World) -> None:
    world.configure(VXLAN)
    hosts = [world.add_host(f"h{number}") for number in (1, 2)]
    dockers = start_docker(hosts, "--mtu=1500")
    web = run_web(dockers)
    assert [str(each.address) for each in web] == ["172.17.0.2"] * 2
    start_flanneld(hosts)
    for host in hosts:
        bridge = host.subnet_env["FLANNEL_SUBNET"]
        host.daemon.wait_log(f"docker0 has 172.17.0.1/16, not {bridge} of the lease: .*restart")
        host.daemon.wait_log("docker0 has containers with MTU 1500, and the overlay carries 1450")
    # What it asks for.
    for docker in dockers:
        docker.stop()
        docker.start()
        docker.ctl("start", "web")
    one, other = (DockerContainer(docker, "web") for docker in dockers)
    wait_answers([one, other])
    assert one.address in hosts[0].subnet
    assert one.mtu == 1450
    assert ping(one, other.address, 30) is not None
    assert one.run("wget", "-qO-", f"http://{other.address}/") == "this is h2\n"


def test_a_bridge_of_an_earlier_lease_is_named_and_a_restart_moves_it(world: World) -> None:
    world.configure(VXLAN)
    hosts = [world.add_host(f"h{number}") for number in (1, 2)]
    start_flanneld(hosts)
    host, docker = hosts[0], *start_docker(hosts[:1])
    before = host.subnet_env["FLANNEL_SUBNET"]
    host.daemon.stop()
    key = str(host.subnet).replace("/", "-")
    world.put_leases({key: world.leases()[str(hosts[1].subnet).replace("/", "-")]["value"]})
    host.start_flanneld("-iface=eth0").wait_ready()
    bridge = host.subnet_env["FLANNEL_SUBNET"]
    host.daemon.wait_log(f"docker0 has {before}, not {bridge} of the lease")
    assert f"docker0 has {before}, " in status_of(host)["conditions"]["docker-subnet"]
    docker.stop()
    docker.start()
    assert f"inet {bridge} " in host.run("ip", "address", "show", "docker0")
    wait_for(lambda: not status_of(host)["conditions"], 20, lambda: str(status_of(host)))
