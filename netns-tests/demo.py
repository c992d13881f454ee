"""The main job, shown: containers on different hosts reach each other.

    .venv/bin/python netns-tests/demo.py [--backend vxlan|host-gw|udp] [--hosts 3] [--containers 2]

A real etcd, hosts made of network namespaces on one bridge, the installed flanneld on each, and
containers made of namespaces with the bridge and MTU that docker would take from subnet.env. Every
container pings every other. Exit status 0 if all answer; 1, and why, if not. Needs root.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from world import PREFIX, Container, Host, World, WorldError, ping

NETWORK = "10.1.0.0/16"
_PING_FOR = 5.0
"""Seconds within which a pair has to answer: the last host's routes may be just being made."""


class Steps:
    """Says what is done, and how far we are in time."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._number = 0

    def __call__(self, text: str) -> None:
        self._number += 1
        print(f"[{time.monotonic() - self._began:5.1f} s] {self._number}. {text}", flush=True)


def title(text: str) -> None:
    """A heading, bold where somebody reads it on a terminal."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{text}{plain}")


def show(text: str) -> None:
    """What a program printed, indented."""
    for line in text.splitlines():
        print(f"  {line.rstrip()}")


def run(world: World, backend: str, n_hosts: int, n_containers: int) -> list[str]:
    """Build it, ping, show; return the pairs that do not answer."""
    step = Steps()
    step("starting etcd (v2 API)")
    world.start_etcd()
    config = {"Network": NETWORK, "Backend": {"Type": backend}}
    step(f"etcdctl set {PREFIX}/config '{json.dumps(config)}'")
    world.configure(config)
    step(f"making {n_hosts} hosts and starting flanneld on each")
    hosts = [world.add_host(f"h{number}") for number in range(1, n_hosts + 1)]
    for host in hosts:
        host.start_flanneld("-iface=eth0")
    for host in hosts:
        host.daemon.wait_ready(30)
        print(f"          {host.label} {host.address} leased {host.subnet}")
    step(f"making {n_containers} containers on each host, bridge and MTU from subnet.env")
    containers = [host.add_container(n) for host in hosts for n in range(1, n_containers + 1)]
    pairs = [(a, b) for a, b in product(containers, containers) if a is not b]
    step(f"pinging every container from every other, {len(pairs)} pairs")
    with ThreadPoolExecutor(8) as pool:
        times = list(pool.map(lambda pair: ping(pair[0], pair[1].address, _PING_FOR), pairs))
    rtt = {(a.name, b.name): each for (a, b), each in zip(pairs, times, strict=True)}

    title("Round-trip times in ms, from the container in the row to the one in the column")
    show(matrix(hosts, containers, rtt))
    title(f"Leases in etcd, below {PREFIX}/subnets/")
    for key, node in world.leases().items():
        print(f"  {key:15} ttl {node.get('ttl', '-'):>5}  {node['value']}")
    show_host(hosts[0])
    title("Result")
    failed = [f"{a.name} to {b.address}" for a, b in pairs if rtt[a.name, b.name] is None]
    print(f"  {len(pairs) - len(failed)} of {len(pairs)} pairs answer")
    return failed


def matrix(
    hosts: Sequence[Host],
    containers: Sequence[Container],
    rtt: dict[tuple[str, str], float | None],
) -> str:
    """One cell a pair of containers; where that is too wide, of hosts, with the worst time."""
    if len(containers) <= 10:
        rows = {str(each.address): [each.name] for each in containers}
    else:
        rows = {str(host.subnet): [each.name for each in host.containers] for host in hosts}
    width = max(map(len, rows)) + 1
    lines = [" " * width + "".join(f"{name:>{width}}" for name in rows)]
    for row, near in rows.items():
        cells = []
        for far in rows.values():
            times = [rtt[a, b] for a, b in product(near, far) if a != b]
            answered = [each for each in times if each is not None]
            if not times:
                cells.append("-")
            elif len(answered) < len(times):
                cells.append("FAILS")
            else:
                cells.append(f"{max(answered):.3f}")
        lines.append(f"{row:<{width}}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def show_host(host: Host) -> None:
    """What flanneld has made on one host."""
    title(f"On host {host.label}: subnet.env, routes, and for vxlan neighbours and FDB")
    show(host.subnet_file.read_text())
    show(host.run("ip", "route"))
    if host.try_run("ip", "link", "show", "flannel.1").returncode == 0:
        show(host.run("ip", "neigh", "show", "dev", "flannel.1"))
        show(host.run("bridge", "fdb", "show", "dev", "flannel.1"))


def number(low: int, high: int) -> Callable[[str], int]:
    """A type for argparse."""

    def parse(text: str) -> int:
        if not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return int(text)

    return parse


def main() -> int:
    """Read the command line, show, clean up."""
    parser = argparse.ArgumentParser(description="containers on different hosts reach each other")
    parser.add_argument("--backend", choices=["vxlan", "host-gw", "udp"], default="vxlan")
    parser.add_argument("--hosts", type=number(2, 20), default=3)
    parser.add_argument("--containers", type=number(1, 10), default=2)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("demo: cannot make network namespaces: this needs root", file=sys.stderr)
        return 1
    try:
        with World() as world:
            failed = run(world, arguments.backend, arguments.hosts, arguments.containers)
    except WorldError as why:
        print(f"\ndemo: {why}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; all is removed", file=sys.stderr)
        return 130
    if failed:
        print(f"demo: no answer from {', '.join(failed)}", file=sys.stderr)
        return 1
    print("  all is removed again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
