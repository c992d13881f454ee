"""The main job, shown: containers on different hosts reach each other.

    .venv/bin/python netns-tests/demo.py [--backend vxlan|host-gw|udp] [--hosts 3] [--containers 2]
                                         [--docker]

A real etcd, hosts made of network namespaces on one bridge, the installed flanneld on each, and
containers made of namespaces with the bridge and MTU that docker would take from subnet.env; or,
with --docker, a real dockerd on each host, with its containers. Every container pings every other,
and with --docker reads a page from its web server. Exit status 0 if all answer; 1, and why, if not.
Needs root.
"""

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from docker_host import Docker, DockerContainer
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


def run(world: World, backend: str, n_hosts: int, n_containers: int, docker: bool) -> list[str]:
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
        host.start_flanneld("-iface=eth0", "-ip-masq")
    for host in hosts:
        host.daemon.wait_ready(30)
        print(f"          {host.label} {host.address} leased {host.subnet}")
    containers: Mapping[Host, Sequence[Container | DockerContainer]]
    if docker:
        web = start_dockers(step, hosts, n_containers)
        containers = web
    else:
        step(f"making {n_containers} containers on each host, bridge and MTU from subnet.env")
        containers = {h: [h.add_container(n) for n in range(1, n_containers + 1)] for h in hosts}
    everyone = [each for several in containers.values() for each in several]
    pairs = [(a, b) for a, b in product(everyone, everyone) if a is not b]
    step(f"pinging every container from every other, {len(pairs)} pairs")
    with ThreadPoolExecutor(8) as pool:
        times = list(pool.map(lambda pair: ping(pair[0], pair[1].address, _PING_FOR), pairs))
        if docker:
            step("reading every container's page from every other")
            servers = [each for several in web.values() for each in several]
            couples = [(a, b) for a, b in product(servers, servers) if a is not b]
            read = list(pool.map(lambda pair: reads_page(*pair), couples))
    rtt = {(a.name, b.name): each for (a, b), each in zip(pairs, times, strict=True)}

    title("Round-trip times in ms, from the container in the row to the one in the column")
    show(matrix(containers, rtt))
    title(f"Leases in etcd, below {PREFIX}/subnets/")
    for key, node in world.leases().items():
        print(f"  {key:15} ttl {node.get('ttl', '-'):>5}  {node['value']}")
    show_host(hosts[0])
    title("Result")
    failed = [f"{a.name} to {b.address}" for a, b in pairs if rtt[a.name, b.name] is None]
    print(f"  {len(pairs) - len(failed)} of {len(pairs)} pairs answer")
    if docker:
        print(f"  {sum(read)} of {len(pairs)} pairs get the other's page by HTTP")
        pages = zip(pairs, read, strict=True)
        failed += [f"{a.name} to http://{b.address}/" for (a, b), got in pages if not got]
    return failed


def start_dockers(
    step: Steps, hosts: Sequence[Host], n_containers: int
) -> dict[Host, list[DockerContainer]]:
    """A dockerd on each host with what mk-docker-opts makes of subnet.env, and containers in it."""
    step("starting a dockerd on each, with the options that mk-docker-opts makes of subnet.env")
    dockers = [Docker(host) for host in hosts]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(Docker.start, dockers))
    for docker in dockers:
        print(f"          {docker.host.label} dockerd {' '.join(docker.lease_options())}")
    command = ("httpd", "-f", "-p", "80", "-h", "/www")
    step(f"docker run --detach busybox {' '.join(command)}, {n_containers} on each host")
    jobs = [(docker, number) for docker in dockers for number in range(1, n_containers + 1)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda job: job[0].run(f"web{job[1]}", *command), jobs))
    containers = defaultdict(list)
    for (docker, _), container in zip(jobs, made, strict=True):
        containers[docker.host].append(container)
    return containers


def reads_page(one: DockerContainer, other: DockerContainer) -> bool:
    """Whether one gets by HTTP what the other serves."""
    done = one.try_run("timeout", "3", "wget", "-qO-", f"http://{other.address}/")
    return done.stdout == f"this is {other.name.partition('-')[0]}\n"


def matrix(
    containers: Mapping[Host, Sequence[Container | DockerContainer]],
    rtt: dict[tuple[str, str], float | None],
) -> str:
    """One cell a pair of containers; where that is too wide, of hosts, with the worst time."""
    everyone = [each for several in containers.values() for each in several]
    if len(everyone) <= 10:
        rows = {str(each.address): [each.name] for each in everyone}
    else:
        rows = {str(h.subnet): [each.name for each in several] for h, several in containers.items()}
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
    parser.add_argument("--docker", action="store_true", help="with real dockers")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("demo: cannot make network namespaces: this needs root", file=sys.stderr)
        return 1
    try:
        with World() as world:
            failed = run(
                world,
                arguments.backend,
                arguments.hosts,
                arguments.containers,
                arguments.docker,
            )
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
