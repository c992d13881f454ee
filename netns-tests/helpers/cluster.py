"""A cluster under observation: what etcd holds against what every host's kernel and files hold.

    with World() as world:
        cluster = Cluster(world, "vxlan", n_hosts=3, n_absent=5)
        ...                                    # something happens to it
        cluster.wait_healed(10)                # or WorldError, which lists what is still wrong

Everything expected is worked out from what is in etcd at that moment, by other means than the
daemon's own: `ip` and `bridge` tell what the kernel has.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import IPv4Address, IPv4Network
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

from flannel_command import status_of
from world import Container, Host, World, WorldError, ping

NETWORK = IPv4Network("10.1.0.0/16")
OVERHEADS = {"vxlan": 50, "host-gw": 0, "udp": 28}
DEVICES = {"vxlan": "flannel.1", "host-gw": "eth0", "udp": "flannel0"}


_LATER = {"resources", "state", "docker-mtu", "docker-subnet"}
"""Conditions that end 15 s and 10 s after the trouble, and those that end when docker is restarted.
"""


class Lease(NamedTuple):
    """A lease as it stands in etcd."""

    subnet: IPv4Network
    host: str
    mac: str


def lease_value(backend: str, number: int) -> str:
    """What a host that is not there, 192.0.2.<number>, would have written."""
    value: dict[str, Any] = {"PublicIP": f"192.0.2.{number}"}
    if backend != "udp":
        value["BackendType"] = backend
    if backend == "vxlan":
        value["BackendData"] = {"VtepMAC": f"02:00:00:00:00:{number:02x}"}
    return json.dumps(value, separators=(",", ":"))


class Cluster:
    """Hosts that serve one network, a container on each, and leases of hosts that are not there."""

    def __init__(
        self,
        world: World,
        backend: str,
        *,
        n_hosts: int,
        n_absent: int,
        flags: tuple[str, ...] = (),
    ) -> None:
        self.world, self.backend, self.flags = world, backend, ("-iface=eth0", *flags)
        self.device, self.overhead = DEVICES[backend], OVERHEADS[backend]
        self.config = json.dumps({"Network": str(NETWORK), "Backend": {"Type": backend}})
        world.configure(self.config)
        absent = range(101, 101 + n_absent)
        world.put_leases({f"10.1.{n}.0-24": lease_value(backend, n) for n in absent})
        self.hosts = [world.add_host(f"h{n}") for n in range(1, n_hosts + 1)]
        self._nft = FailingNft(world.directory / "bin")
        for host in self.hosts:
            self.start_flanneld(host)
        for host in self.hosts:
            host.daemon.wait_ready()
        self._containers: dict[str, tuple[IPv4Network, Container]] = {}
        self.wait_healed(100)

    def start_flanneld(self, host: Host) -> None:
        """Start the host's flanneld with the cluster's flags."""
        host.start_flanneld(*self.flags, env=self._nft.env)

    def nft_fails(self) -> AbstractContextManager[None]:
        """In the body, flanneld's nft fails on every host."""
        return self._nft.fails()

    def container(self, host: Host) -> Container:
        """A container of the host; a new one if the host's subnet has changed.

        An operator would have restarted docker then.
        """
        subnet, container = self._containers.get(host.label, (None, None))
        if subnet != host.subnet or container is None:
            if container is not None:
                host.remove_containers()
            container = host.add_container(1)
            self._containers[host.label] = host.subnet, container
        return container

    def own_keys(self) -> set[str]:
        """The last parts of the keys of the hosts' leases."""
        return {f"{host.subnet.network_address}-24" for host in self.hosts}

    def leases(self) -> list[Lease]:
        """Every lease in etcd that makes sense."""
        found = []
        for key, node in self.world.leases().items():
            try:
                subnet = IPv4Network(key.replace("-", "/"))
                value = json.loads(node["value"])
                mac = (value.get("BackendData") or {}).get("VtepMAC", "")
            except (ValueError, AttributeError):
                continue
            if subnet.prefixlen == 24 and subnet.subnet_of(NETWORK):
                found.append(Lease(subnet, value["PublicIP"], mac))
        return found

    def wait_healed(self, seconds: float, also: Callable[[], str] = lambda: "") -> float:
        """Wait until nothing differs; return how long that took, in seconds.

        :param also: one more thing that is wrong; "" if it is not.
        :raises WorldError: it took too long; the text says what still differs.
        """
        began = time.monotonic()
        is_over = False
        while wrong := [*self.differences(), *filter(None, [also()])]:
            if is_over:
                raise WorldError(f"not healed within {seconds:g} s: {'; '.join(wrong[:6])}")
            time.sleep(0.05)
            is_over = time.monotonic() - began > seconds  # then they are looked at once more
        return time.monotonic() - began

    def differences(self) -> Iterator[str]:
        """What is not as it should be, in plain words."""
        leases = self.leases()
        for host in self.hosts:
            if not host.daemon.is_running:
                yield f"{host.label}: flanneld has ended with {host.daemon.process.returncode}"
                return
            if not host.daemon.is_ready:  # the kernel may look well all the same
                yield f"{host.label}: flanneld is not ready"
                return
            own = [each for each in leases if each.host == str(host.address)]
            if len(own) != 1:
                yield f"{host.label}: {len(own)} leases in etcd"
                return
            wrong = list(self._compare(host, own[0], leases))
            # A flanneld that is stopped would not answer.
            yield from (f"{host.label}: {each}" for each in wrong or _troubles(host))
        for one, other in permutations(self.hosts, 2):
            near, far = self.container(one), self.container(other)
            if ping(near, far.address) is None:
                yield f"no answer from {far.address} to {near.address}"

    def _compare(self, host: Host, own: Lease, leases: list[Lease]) -> Iterator[str]:
        mtu = _json(host, "ip", "-j", "link", "show", "eth0")[0]["mtu"] - self.overhead
        try:
            env = host.subnet_env
        except OSError:
            env = {}
        if env.get("FLANNEL_SUBNET") != f"{own.subnet[1]}/24" or env["FLANNEL_MTU"] != str(mtu):
            yield f"subnet.env is {env}, etcd says {own.subnet}, the MTU is {mtu}"
            return
        if self.backend != "host-gw":
            yield from self._compare_device(host, own, mtu)
        peers = [each for each in leases if each.host != own.host]
        wanted = self._wanted(peers)
        for what, found in self._found(host).items():
            if found != wanted[what]:
                yield f"{what}: {_difference(found, wanted[what])}"

    def _compare_device(self, host: Host, own: Lease, mtu: int) -> Iterator[str]:
        links = _json(host, "ip", "-j", "addr", "show", self.device)
        if not links:
            yield f"there is no {self.device}"
            return
        (link,) = links
        addresses = [each["local"] for each in link["addr_info"] if each["family"] == "inet"]
        if "UP" not in link["flags"] or link["mtu"] != mtu:
            yield f"{self.device} has flags {link['flags']}, MTU {link['mtu']}, wanted is {mtu}"
        if addresses != [str(own.subnet[0])]:
            yield f"{self.device} has addresses {addresses}"
        if own.mac and link["address"] != own.mac:
            yield f"{self.device} has MAC {link['address']}, etcd says {own.mac}"

    def _wanted(self, peers: list[Lease]) -> dict[str, set[tuple[str, ...]]]:
        if self.backend == "udp":
            return {"routes": {(str(NETWORK), "", self.device)}}
        routes: set[tuple[str, ...]]
        if self.backend == "host-gw":
            routes = {(str(each.subnet), each.host, "eth0") for each in peers}
            return {"routes": routes, "nexthops": {route[1:] for route in routes}}
        routes = {(str(each.subnet), str(each.subnet[0]), self.device) for each in peers}
        return {
            "routes": routes,
            "nexthops": {route[1:] for route in routes},
            "neighbours": {(str(each.subnet[0]), each.mac) for each in peers},
            "fdb": {(each.mac, each.host) for each in peers},
        }

    def _found(self, host: Host) -> dict[str, set[tuple[str, ...]]]:
        routes = _json(host, "ip", "-j", "-N", "route", "show", "protocol", "102")
        found: dict[str, set[tuple[str, ...]]] = {}
        found["routes"] = {(each["dst"], each.get("gateway", ""), each["dev"]) for each in routes}
        if self.backend == "udp":
            return found
        nexthops = _json(host, "ip", "-j", "-N", "nexthop", "show", "protocol", "102")
        found["nexthops"] = {(each["gateway"], each["dev"]) for each in nexthops}
        if self.backend == "vxlan":
            neighbours = _json(host, "ip", "-j", "neigh", "show", "dev", self.device)
            fdb = _json(host, "bridge", "-j", "fdb", "show", "dev", self.device)
            found["neighbours"] = {
                (each["dst"], each["lladdr"]) for each in neighbours if "PERMANENT" in each["state"]
            }
            found["fdb"] = {(each["mac"], each["dst"]) for each in fdb if "dst" in each}
        return found


class FailingNft:
    """An nft that works, or fails as the kernel lets it where memory is short."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._mark = directory / "fails"
        script = directory / "nft"
        script.write_text(
            f'#!/bin/sh\n[ -e {self._mark} ] || exec {shutil.which("nft")} "$@"\n'
            "echo 'netlink: Error: cache initialization failed: Cannot allocate memory' >&2\n"
            "exit 1\n"
        )
        script.chmod(0o755)
        self.env = {"PATH": f"{directory}:{os.environ['PATH']}"}

    @contextmanager
    def fails(self) -> Iterator[None]:
        self._mark.touch()
        try:
            yield
        finally:
            self._mark.unlink()


def _troubles(host: Host) -> Iterator[str]:
    """Conditions that flanneld reports, and a guard that is not there."""
    try:
        conditions = status_of(host)["conditions"]
    except (OSError, AssertionError) as why:
        yield f"flanneld does not answer: {why}"
        return
    yield from (f"{name}: {text}" for name, text in conditions.items() if name not in _LATER)
    if "tx_spoofed" not in host.try_run("nft", "list", "table", "ip", "flannel").stdout:
        yield "the guard is not there"


def _json(host: Host, *command: str) -> Any:
    return json.loads(host.try_run(*command).stdout or "[]")


def _difference(found: set[tuple[str, ...]], wanted: set[tuple[str, ...]]) -> str:
    return f"too many {sorted(found - wanted)[:3]}, missing {sorted(wanted - found)[:3]}"


def address_of(number: int) -> IPv4Address:
    """The address of host ``number`` on the underlay."""
    return IPv4Address(f"192.0.2.{number}")
