"""Hosts that boot with the installed units: etcd, flanneld and docker under a real systemd."""

import re
import signal
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from textwrap import dedent

import pytest
from booted_host import Booted
from docker_host import IMAGE, image
from world import Pinger, World, ping, wait_for

CONFIG = '{ "Network": "10.1.0.0/16", "Backend": { "Type": "vxlan" } }'
CONFIG_UNIT = "flannel-network-config.service"
ETCD = """\
ETCD_ENABLE_V2=true
ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379
ETCD_ADVERTISE_CLIENT_URLS=http://192.0.2.11:2379
"""
HTTPD = ("httpd", "-f", "-p", "80", "-h", "/www")
# Takes what nobody before it has claimed, as some distributions' last file does.
GREEDY = """\
[Match]
Name=flannel* br9

[Network]
LinkLocalAddressing=no
KeepConfiguration=no
"""


@pytest.fixture(scope="module")
def hosts(installed: Path) -> Iterator[list[Booted]]:
    """One with etcd, and one that was turned on before it; a web server in docker on each."""
    with World() as world:
        one, other = (Booted(world.add_host(label), installed) for label in ("h1", "h2"))
        one.write("/etc/default/etcd", ETCD)
        one.write(f"/etc/systemd/system/{CONFIG_UNIT}", config_unit(installed))
        other.write("/etc/default/flanneld", "FLANNELD_ETCD_ENDPOINTS=http://192.0.2.11:2379\n")
        other.write("/run/flannel/options.env", "FLANNELD_IFACE=192.0.2.12\n")
        for each in (one, other):
            each.host.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
            each.write("/etc/systemd/network/99-greedy.network", GREEDY)
            each.write("/root/image.tar", image(each.host.label))
        other.boot("flanneld.service", "docker.service")
        one.boot("etcd.service", CONFIG_UNIT, "flanneld.service", "docker.service")
        for each in (one, other):
            each.wait_active("docker.service")
            each.run("docker", "import", "/root/image.tar", IMAGE)
            each.run("docker", "run", "-d", "--name=web", IMAGE, *HTTPD)
        wait_pages(one, other)
        yield [one, other]


def config_unit(installed: Path) -> str:
    """The unit that writes the network config, as the cloud-config has it, but for etcd's place."""
    text = (installed / "usr/share/doc/flannel/cloud-config.yaml").read_text()
    found = re.search(rf"  - path: \S+/{CONFIG_UNIT}\n    content: \|\n((?:      .*\n|\n)+)", text)
    assert found is not None
    endpoints = "http://192.0.2.1:2379,http://192.0.2.2:2379"
    assert endpoints in found[1]
    return dedent(found[1]).replace(endpoints, "http://192.0.2.11:2379")


def subnet(host: Booted) -> str:
    """FLANNEL_SUBNET."""
    found = re.search("FLANNEL_SUBNET=(.*)", host.run("cat", "/run/flannel/subnet.env"))
    assert found is not None
    return found[1]


def page_of(one: Booted, other: Booted) -> str:
    """What a container of one host gets from that of the other."""
    where = other.run("docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web").strip()
    wget = ("timeout", "30", "wget", "-qO-", f"http://{where}/")
    return one.try_run("docker", "exec", "web", *wget).stdout


def wait_pages(one: Booted, other: Booted) -> None:
    """Wait until the containers reach each other.

    Units are active before servers listen and before other hosts know of them.
    """
    wait_for(lambda: page_of(one, other) == "this is h2\n", 60, "the page of h2")
    wait_for(lambda: page_of(other, one) == "this is h1\n", 60, "the page of h1")


def test_containers_of_two_hosts_reach_each_other(hosts: list[Booted]) -> None:
    for each in hosts:
        assert f"inet {subnet(each)} " in each.run("ip", "address", "show", "docker0")
    wait_pages(*hosts)


def test_etcd_flanneld_and_docker_start_in_order(hosts: list[Booted]) -> None:
    units = ("etcd.service", "flanneld.service", "docker.service")
    since = [int(hosts[0].show(unit, "ActiveEnterTimestampMonotonic")) for unit in units]
    assert since == sorted(since)
    began = int(hosts[0].show("docker.service", "ExecMainStartTimestampMonotonic"))
    assert since[1] < began


def test_a_boot_does_not_overwrite_the_network_config(hosts: list[Booted]) -> None:
    def written() -> str:
        show = ("etcdctl", "-o", "extended", "get", "/coreos.com/network/config")
        return hosts[0].run("env", "ETCDCTL_API=2", *show)

    before = written()
    hosts[0].run("systemctl", "start", CONFIG_UNIT)
    assert written() == before


def test_no_unit_fails_and_flanneld_logs_no_warning(hosts: list[Booted]) -> None:
    for each in hosts:
        assert each.run("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    warnings = re.findall(".*WARNING.*", hosts[0].journal("--unit=flanneld"))
    assert [each for each in warnings if ":2379" not in each] == []  # a disk may keep etcd waiting


def test_forwarding_is_on_before_docker_starts(hosts: list[Booted]) -> None:
    """Docker would have turned it on, and dropped what it does not know."""
    for each in hosts:
        assert "-P FORWARD ACCEPT" in each.run("iptables", "-S", "FORWARD")


def test_flanneld_runs_with_the_privileges_it_needs_and_no_more(hosts: list[Booted]) -> None:
    pid = hosts[0].show("flanneld.service", "MainPID")
    status = hosts[0].run("cat", f"/proc/{pid}/status")
    assert re.findall(r"Cap(?:Eff|Bnd):\s*0*(\w+)", status) == ["3000", "3000"]  # NET_ADMIN, _RAW
    assert re.search(r"NoNewPrivs:\s*1", status)
    assert re.search(r"Seccomp:\s*2", status)


def test_networkd_leaves_our_device_alone(hosts: list[Booted]) -> None:
    """And takes another one, without being notified."""
    other = hosts[1]
    other.host.ip("link add br9 type bridge", "link set br9 up")
    before = other.run("ip", "address", "show", "flannel.1")

    def state(device: str) -> str:
        index = other.run("cat", f"/sys/class/net/{device}/ifindex").strip()
        return other.try_run("grep", "ADMIN_STATE", f"/run/systemd/netif/links/{index}").stdout

    other.run("systemctl", "start", "systemd-networkd.service")
    wait_for(lambda: "=conf" in state("br9"), 30, lambda: f"br9 to be networkd's: {state('br9')}")
    unmanaged = "=unmanaged\n"
    wait_for(lambda: unmanaged in state("flannel.1"), 30, lambda: f"not {state('flannel.1')}")
    assert other.run("ip", "address", "show", "flannel.1") == before
    other.run("systemctl", "stop", "systemd-networkd.service", "systemd-networkd.socket")


@pytest.fixture
def udp(hosts: list[Booted]) -> Iterator[None]:
    """While the network config says so; docker keeps its subnet."""
    set_config = ("etcdctl", "set", "/coreos.com/network/config")
    hosts[0].run(*set_config, CONFIG.replace("vxlan", "udp"))
    yield
    hosts[0].run(*set_config, CONFIG)
    for each in hosts:
        wait_kept(each, 0)  # vxlan again
    wait_pages(*hosts)


def n_kept(host: Booted) -> int:
    """How many descriptors of flanneld systemd keeps: with udp, a queue and a socket."""
    return int(host.show("flanneld.service", "NFileDescriptorStore"))


def wait_kept(host: Booted, n: int) -> None:
    wait_for(lambda: n_kept(host) == n, 30, lambda: f"{n} kept descriptors, not {n_kept(host)}")


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_systemd_keeps_the_packets_of_udp_while_flanneld_starts_again(
    hosts: list[Booted], udp: None, end: str
) -> None:
    one, other = hosts[1], hosts[0]  # the other one's unit writes the network config

    for each in hosts:
        wait_kept(each, 2)
    where = other.run("docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", "web").strip()
    web, before = IPv4Address(where), one.show("flanneld.service", "MainPID")
    assert ping(one.host, web, 30) is not None
    # So few that the device has room for them, however long the start takes.
    with Pinger(one.host, web, 20) as pinger:
        if end == "restart":
            one.run("systemctl", "restart", "flanneld.service")
        else:
            one.run("kill", f"-{signal.SIGKILL}", before)
        wait_for(
            lambda: one.show("flanneld.service", "MainPID") not in (before, "0"), 30, "a new one"
        )
        one.wait_active("flanneld.service")
        assert ping(one.host, web, 30) is not None
    assert pinger.lost == 0
    wait_kept(one, 2)


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_docker_does_not_notice_when_flanneld_starts_again(hosts: list[Booted], end: str) -> None:
    one, other = hosts
    docker, before = one.show("docker.service", "MainPID"), one.show("flanneld.service", "MainPID")
    lease = subnet(one)
    if end == "restart":
        one.run("systemctl", "restart", "flanneld.service")
    else:
        one.run("kill", f"-{signal.SIGKILL}", before)
    assert page_of(one, other) == "this is h2\n"
    wait_for(
        lambda: one.show("flanneld.service", "MainPID") not in (before, "0"), 30, "a new flanneld"
    )
    one.wait_active("flanneld.service")
    assert one.show("docker.service", "MainPID") == docker
    assert subnet(one) == lease
    assert page_of(other, one) == "this is h1\n"


def test_a_mistyped_option_is_logged_and_the_unit_is_not_restarted(hosts: list[Booted]) -> None:
    other = hosts[1]
    other.run("sh", "-c", "echo FLANNELD_SUBNET_LEASE_RENEW_MARGIN=often >>/etc/default/flanneld")
    assert other.try_run("systemctl", "restart", "flanneld.service").returncode != 0
    wait_for(lambda: other.show("flanneld.service", "ActiveState") == "failed", 30, "failure")
    assert other.show("flanneld.service", "ExecMainStatus") == "2"
    wait_for(lambda: "often" in other.journal("--unit=flanneld", "--lines=20"), 30, "its reason")
    other.run("sed", "-i", "/RENEW_MARGIN/d", "/etc/default/flanneld")
    other.run("systemctl", "start", "flanneld.service")


def test_docker_takes_the_present_lease_when_it_alone_is_restarted(hosts: list[Booted]) -> None:
    one = hosts[0]
    options = "/run/flannel/docker"
    one.run("sh", "-c", f"echo 'DOCKER_OPT_BIP=\"--bip=10.99.0.1/24\"' >{options}")
    one.run("systemctl", "restart", "docker.service")
    assert f"--bip={subnet(one)}" in one.run("cat", options)
    assert f"inet {subnet(one)} " in one.run("ip", "address", "show", "docker0")
    before = subnet(one)
    # Without subnet.env there is no telling: what flanneld's unit wrote counts.
    one.run("sh", "-c", "systemctl stop flanneld && rm /run/flannel/subnet.env")
    one.run("systemctl", "restart", "docker.service")
    assert f"inet {before} " in one.run("ip", "address", "show", "docker0")
