"""-hand-over=podman and cni: real podmans, and Debian's CNI plugins, take the files."""

import json
from collections.abc import Iterator
from ipaddress import IPv4Interface
from itertools import permutations
from typing import Any

import pytest
from flannel_command import findings, flannel, wait_findings
from namespaces import Namespace
from podman_host import Podman, PodmanContainer, older_backend
from world import Host, World, ping

VXLAN = {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}
# The addresses that host-local has given are in there.
_PRIVATE = "mkdir -p /var/lib/cni && mount --bind {} /var/lib/cni && exec /usr/lib/cni/{}"


@pytest.fixture
def hosts(world: World) -> Iterator[list[Host]]:
    """Three on which podman, podman and CNI have the lease.

    podman's networks have the hosts' own names: their files are in the machine's /etc.
    """
    world.configure(VXLAN)
    made = [world.add_host(f"h{number}") for number in (1, 2, 3)]
    file = made[2].directory / "net.d" / "10-ov.conflist"
    values = [*(f"podman={host.name}" for host in made[:2]), f"cni={file}"]
    try:
        for host, value in zip(made, values, strict=True):
            host.start_flanneld("-iface=eth0", f"-hand-over={value}")
        for host in made:
            host.daemon.wait_ready()
            host.daemon.wait_log(" is made for subnet ")
        yield made
    finally:
        for host in made[:2]:
            host.daemon.stop()
            done = flannel(host, "cleanup", "--yes", "--keep-lease", "--json")
            removed = json.loads(done.stdout)["removed"]
            assert f"file /etc/containers/networks/{host.name}.json" in removed


class CniContainer(Namespace):
    """A namespace that the plugins of a host's file have connected, as a runtime has them do."""

    def __init__(self, host: Host) -> None:
        super().__init__(f"{host.name}c1")
        self._host = host
        self._store = host.directory / "cni"
        self._store.mkdir()
        (file,) = (host.directory / "net.d").iterdir()
        conflist = json.loads(file.read_text())
        result: dict[str, Any] | None = None
        for plugin in conflist["plugins"]:
            request = {**plugin, **{name: conflist[name] for name in ("name", "cniVersion")}}
            result = self._add({**request, **({"prevResult": result} if result else {})})
        assert result is not None
        self.address = IPv4Interface(result["ips"][0]["address"]).ip

    def _add(self, request: dict[str, Any]) -> dict[str, Any]:
        variables = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": self.name,
            "CNI_NETNS": f"/run/netns/{self.name}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/usr/lib/cni",
        }
        file = self._host.directory / "request"
        file.write_text(json.dumps(request))
        command = f"{_PRIVATE.format(self._store, request['type'])} <{file}"
        assignments = (f"{name}={value}" for name, value in variables.items())
        text = self._host.run("env", *assignments, "unshare", "--mount", "sh", "-c", command)
        found: dict[str, Any] = json.loads(text)
        return found


def test_containers_of_netavark_of_cni_and_of_its_plugins_reach_each_other(
    hosts: list[Host],
) -> None:
    near = Podman(hosts[0], "netavark").run("web", hosts[0].name)
    far = Podman(hosts[1], older_backend()).run("web", hosts[1].name)
    containers: tuple[PodmanContainer | CniContainer, ...] = (near, far, CniContainer(hosts[2]))
    for host, container in zip(hosts, containers, strict=True):
        assert container.address in host.subnet
        assert " mtu 1450 " in container.run("ip", "link", "show", "eth0")
        assert f" {host.subnet_env['FLANNEL_SUBNET']} " in host.run(
            "ip", "addr", "show", "flannel-br"
        )
    for one, other in permutations(containers, 2):
        assert ping(one, other.address, 30) is not None
    for host in hosts:
        wait_findings(host)

    # What somebody changes in a file of ours is changed back; what is not ours stays.
    (file,) = (hosts[2].directory / "net.d").iterdir()
    wanted = file.read_text()
    file.write_text(wanted.replace("1450", "1500"))
    hosts[2].daemon.wait_log("CNI network .* was changed or removed; made again")
    assert file.read_text() == wanted
    file.write_text('{"name": "ov"}')
    hosts[2].daemon.wait_log("cannot take .* for the lease: flanneld has not made it")
    assert "hand-over" in findings(hosts[2])
    assert file.read_text() == '{"name": "ov"}'
