"""The overlay's range beside what hosts have in it: wide routes, docker's bridge, themselves."""

import json
from typing import Any

import pytest
from docker_host import Docker
from flannel_command import findings, flannel, wait_findings
from overlays import ALL, UDP, VXLAN, start_pair
from uplinks import published
from world import Host, World, ping, wait_for


def add_vpn_halves(host: Host) -> None:
    """As OpenVPN's redirect-gateway def1 and wg-quick make the default route."""
    host.ip("link add tun9 type veth peer name tun9far", "link set tun9far up",
            "addr add 172.31.9.6/24 dev tun9", "link set tun9 up",
            "route add 0.0.0.0/1 via 172.31.9.1 dev tun9",
            "route add 128.0.0.0/1 via 172.31.9.1 dev tun9")  # fmt: skip


@ALL
def test_wide_routes_are_as_the_default_route(world: World, config: dict[str, Any]) -> None:
    pair = start_pair(world, config)
    one = pair.one
    one.ip("route add 10.0.0.0/8 via 192.0.2.254 dev eth0")
    add_vpn_halves(one)
    one.daemon.stop()
    one.start_flanneld().wait_ready()
    assert ping(pair.near, pair.far.address, 30) is not None
    assert "overlap" not in findings(one)
    assert published(world, one) == "192.0.2.11"


@ALL
def test_a_route_that_takes_packets_is_refused_and_named(
    world: World, config: dict[str, Any]
) -> None:
    world.configure(config)
    one = world.add_host("h1")
    one.ip("route add 10.1.7.0/24 via 192.0.2.254")
    one.start_flanneld("-iface=eth0")
    one.daemon.wait_log(
        r"cannot use network 10\.1\.0\.0/16 on this host: it has route 10\.1\.7\.0/24"
    )
    assert "route 10.1.7.0/24" in findings(one)["overlap"]
    one.ip("route del 10.1.7.0/24 via 192.0.2.254")
    one.daemon.wait_ready()
    assert "overlap" not in findings(one)


def test_as_wide_a_route_is_in_the_way_of_udp_alone(world: World) -> None:
    world.configure(UDP)
    one = world.add_host("h1")
    one.ip("route add 10.1.0.0/16 via 192.0.2.254")
    one.start_flanneld("-iface=eth0")
    one.daemon.wait_log(r"on this host: it has route 10\.1\.0\.0/16 via 192\.0\.2\.254 dev eth0")
    world.configure(VXLAN)
    one.daemon.wait_ready()
    assert "10.1.0.0/16 via 192.0.2.254 dev eth0" in one.run("ip", "route")


@pytest.mark.parametrize("backend", ["vxlan", "udp", "host-gw"])
def test_hosts_inside_the_network_outside_the_leasable_range_are_served(
    world: World, backend: str
) -> None:
    # The hosts' own 192.0.2.0/24 is in it.
    config = {"Network": "192.0.0.0/16", "SubnetMin": "192.0.100.0", "SubnetMax": "192.0.200.0"}
    pair = start_pair(world, {**config, "Backend": {"Type": backend}})
    assert ping(pair.far, pair.near.address, 30) is not None
    wait_for(lambda: findings(pair.one).keys() <= {"peer-silent"}, 30, "nothing to be found")
    pair.one.daemon.stop()
    pair.one.start_flanneld("-iface=eth0").wait_ready()
    assert ping(pair.near, pair.far.address, 30) is not None


def test_a_host_whose_address_a_container_may_get_waits_for_another_config(world: World) -> None:
    around = {"Network": "192.0.0.0/16", "Backend": {"Type": "vxlan"}}
    world.configure(around)
    one, other = world.add_host("h1"), world.add_host("h2")
    for host in (one, other):
        host.start_flanneld()
        host.daemon.wait_log(
            r"cannot use network 192\.0\.0\.0/16 on this host: its own address 192\.0\.2\.1[12] is "
        )
    world.configure({**around, "SubnetMin": "192.0.100.0"})
    for host in (one, other):
        host.daemon.wait_ready()
    near, far = one.add_container(1), other.add_container(1)
    assert ping(near, far.address, 30) is not None
    done = flannel(one, "config", "check", json.dumps(around))
    assert "NOT FOR THIS HOST: it has address 192.0.2.11/24 of eth0" in done.stdout
    assert f"REFUSED: the host of lease {other.subnet} of 192.0.2.12" in done.stdout
    # Nor is a network taken over that would do the same to a host that serves.
    world.configure(around)
    one.daemon.wait_log(
        r"its own address 192\.0\.2\.11 is among .*; still serving the previous one"
    )
    assert ping(near, far.address, 30) is not None


def test_a_public_address_that_a_container_may_get_is_refused(world: World) -> None:
    world.configure(VXLAN)
    one = world.add_host("h1")
    one.start_flanneld("-public-ip=10.1.7.7")
    one.daemon.wait_log(r"on this host: its own address 10\.1\.7\.7 is among those that are leased")
    assert not one.daemon.is_ready


def test_vni_0_is_served(world: World) -> None:
    pair = start_pair(world, {**VXLAN, "Backend": {"Type": "vxlan", "VNI": 0}})
    assert "vxlan id 0 " in pair.one.run("ip", "-d", "link", "show", "flannel.0")
    wait_findings(pair.one)


# Both around 172.17.0.1/16, which docker takes when it is installed.
@pytest.mark.parametrize(
    ("backend", "network"), [("vxlan", "172.17.0.0/16"), ("udp", "172.16.0.0/12")]
)
def test_docker_at_its_own_address_is_accepted_and_moves_when_it_is_restarted(
    world: World, backend: str, network: str
) -> None:
    hosts = [world.add_host(f"h{number}") for number in (1, 2)]
    dockers = [Docker(host).start("--mtu=1400") for host in hosts]
    before = [docker.run("before") for docker in dockers]
    assert [str(each.address) for each in before] == ["172.17.0.2"] * 2
    config: dict[str, Any] = {"Network": network, "Backend": {"Type": backend}}
    # All that is leased is in docker's 172.17.0.0/16.
    config |= {"SubnetMin": "172.17.64.0", "SubnetMax": "172.17.127.0"}
    world.configure(config)
    checked = flannel(hosts[0], "config", "check", json.dumps(config)).stdout
    assert "docker0 has 172.17.0.1/16: restart docker when flanneld is ready" in checked
    assert "NOT FOR" not in checked
    for host in hosts:
        host.start_flanneld("-iface=eth0")
    for host in hosts:
        host.daemon.wait_ready()
        host.daemon.wait_log("docker0 has 172.17.0.1/16, not .* of the lease: .*restart docker")
        if backend == "udp":
            host.daemon.wait_log("packets for 172.17.0.0/16 go to docker0, not to other hosts")
        assert "dev docker0" in host.run("ip", "route", "get", "172.17.0.2")  # its containers work
        assert "docker0" in findings(host)
        assert "overlap" not in findings(host)
    for docker in dockers:
        docker.stop()
        docker.start()
    near, far = (docker.run("after") for docker in dockers)
    wait_for(lambda: ping(near, far.address, 1) is not None, 30, lambda: words(hosts[0]))
    assert ping(far, near.address, 30) is not None
    if backend == "udp":
        hosts[0].daemon.wait_log("packets of the whole network go to other hosts")
    wait_for(lambda: findings(hosts[0]) == {}, 30, lambda: f"all well, not {findings(hosts[0])}")


def words(host: Host) -> str:
    return f"an answer: {host.run('ip', 'route')}; {host.daemon.last_words()}"
