"""Hosts, containers and an etcd made of network namespaces, for tests, the demo and benchmarks.

    namespace fl<pid>a-net                     192.0.2.1/24
    ┌──────────────────────────────────────────────────────┐
    │ etcd :2379          bridge br0                       │
    └─────────────────┬──────────────────┬─────────────────┘
        veth          │                  │
    ┌─────────────────┴───┐  ┌───────────┴─────────┐
    │ eth0 192.0.2.11/24  │  │ eth0 192.0.2.12/24  │   namespaces fl<pid>a-h1, -h2, ...
    │ flanneld            │  │ flanneld            │
    │ flannel.1           │  │ flannel.1           │
    │ docker0 10.1.x.1/24 │  │ docker0 10.1.y.1/24 │
    └──────┬──────┬───────┘  └──────┬──────┬───────┘
       veth│      │                 │      │
       10.1.x.2  .3             10.1.y.2  .3           namespaces fl<pid>a-h1c1, -h1c2, ...

    with World() as world:
        world.start_etcd()
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0").wait_ready(10)
        container = host.add_container(1)

Everything is named after this process, with a letter for the world, and removed at the end,
however it ends; what a process that died has left is removed by the next World. `docker_host` puts
a real docker on a host.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from ipaddress import IPv4Address
from itertools import cycle
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Self

from etcd_node import ETCD, PREFIX, Etcd
from hosts import FLANNELD, Container, Daemon, Host
from namespaces import (
    Completed,
    Namespace,
    WorldError,
    remove_leftovers,
    remove_namespaces,
    wait_for,
)
from pings import Pinger, ping

# Who builds a world finds all that belongs to it here.
__all__ = [
    "ETCD",
    "FLANNELD",
    "PREFIX",
    "Completed",
    "Container",
    "Daemon",
    "Etcd",
    "Host",
    "Namespace",
    "Pinger",
    "World",
    "WorldError",
    "ping",
    "wait_for",
]

_letters = cycle(ascii_lowercase)


class World:
    """All of it; see the head of this file."""

    def __init__(self) -> None:
        remove_leftovers()
        # One world may stand while others come and go.
        self.tag = f"fl{os.getpid()}{next(_letters)}"
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        # A signal unwinds like any error, so that everything is removed; a second one, or one that
        # reaches us twice, does not keep that from happening.
        self._handlers = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        }
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.tag}-"))
        try:
            self.net = Namespace(f"{self.tag}-net")
            self.etcd = Etcd(self.net, self.directory)
            self.etcds = [self.etcd]
            self.net.ip("link add br0 type bridge", "addr add 192.0.2.1/24 dev br0",
                        "link set br0 up")  # fmt: skip
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        processes = [daemon.process for host in self.hosts for daemon in host.daemons]
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in processes:
            process.wait()
        for etcd in getattr(self, "etcds", []):
            etcd.kill()
        for host in self.hosts:
            for daemon in host.daemons:
                daemon.close()
            for end in host.at_end:
                end()
        remove_namespaces(self.tag)
        shutil.rmtree(self.directory, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start_etcd(self, *flags: str) -> None:
        """Start etcd, or start it again with the data it had."""
        self.etcd.start(*flags)

    def start_etcds(self, n: int) -> list[Etcd]:
        """Start a cluster of ``n`` members, the first of which is `etcd`."""
        self.etcds = [Etcd(self.net, self.directory, number, n) for number in range(1, n + 1)]
        self.etcd = self.etcds[0]
        self.net.ip(*(f"addr add 192.0.2.{number}/24 dev br0" for number in range(2, n + 1)))
        for etcd in self.etcds:
            etcd.launch()
        for etcd in self.etcds:
            etcd.wait_healthy()
        return self.etcds

    def stop_etcd(self, number: int = signal.SIGTERM) -> None:
        """End etcd by a signal; its data stay. SIGSTOP and SIGCONT freeze and thaw it."""
        self.etcd.stop(number)

    def etcdctl(self, *arguments: str) -> str:
        """Run etcdctl for the v2 API."""
        return self.etcd.ctl(*arguments)

    def configure(self, config: dict[str, Any] | str) -> None:
        """Write the network config."""
        self.etcd.configure(config)

    def put_leases(self, values: Mapping[str, str], ttl: int = 86400) -> None:
        """Write many leases at once, by the last part of their keys."""
        self.etcd.put_leases(values, ttl)

    def leases(self) -> dict[str, dict[str, Any]]:
        """The nodes of etcd under subnets/ (value, ttl, ...), by the last part of their keys."""
        return self.etcd.leases()

    def add_host(self, label: str, *, mtu: int = 1500) -> Host:
        """Another host; the first has the address 192.0.2.11."""
        address = IPv4Address("192.0.2.11") + len(self.hosts)
        directory = self.directory / label
        host = Host(self.net, f"{self.tag}-{label}", directory, address, mtu)
        self.hosts.append(host)
        return host
