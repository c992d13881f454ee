"""How long it takes to program the kernel for all peers, beside iproute2; and a whole start.

    .venv/bin/python bench/program_peers.py [--peers 1000,10000] [--rounds 5]

1. From empty tables, in one namespace, rounds alternating:
     ours      leases -> plan -> compare -> write, the daemon's own path (PeerTables)
     classic   `bridge -batch` and `ip -batch` with upstream's three entries a peer: FDB, ARP, and
               a route with its own gateway
     nexthop   the same with a nexthop object for each route, written by `ip -batch`
   The batch files are made before the clock starts. The entries of every round are counted.
2. From the start of the flanneld process to the last entry, with the leases in a real etcd: for
   a host with empty tables, and for one where a killed daemon left them full.
3. What one changed lease costs flanneld that serves so many: 300 hosts a second get another
   address, for five seconds. CPU of flanneld itself and of the programs that it runs (nft).

Prints medians and ratios. Needs root.
"""

import argparse
import asyncio
import gc
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "netns-tests/helpers"))

from namespaces import wait_for
from private_network import ip, link_index, private_network, run
from world import Host, World

from flannel.backends.vxlan.network import VxlanNetwork
from flannel.firewall.rules import Guard
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.lease import Lease, LeaseAttrs, subnet_key

NETWORK = IPv4Network("10.0.0.0/8")
UNDERLAY = IPv4Interface("172.16.0.1/12")

CHANGES, CHANGES_A_SECOND = 1500, 300
SETTLED = 12.0
"""Seconds after which flanneld has done with its start, the collector's last look included."""


def leases(n: int) -> list[Lease]:
    """``n`` peers; their hosts need not exist for their entries to be programmed."""
    first = int(NETWORK.network_address) + (1 << 16)
    made = []
    for i in range(n):
        subnet = IPv4Network((first + (i << 8), 24))
        mac = (0x02_00_00_00_00_00 + i).to_bytes(6, "big").hex(":")
        attrs = LeaseAttrs(IPv4Address("172.17.0.0") + i, "vxlan", {"VtepMAC": mac})
        made.append(Lease(subnet, attrs, 86400))
    return made


def count() -> tuple[int, int, int]:
    """Routes, neighbours and FDB entries that the kernel has now."""
    with RtNetlink() as tables:
        link = link_index("flannel.1")
        routes = [entry for entry in tables.list_own(NETWORK, link) if hasattr(entry, "dst")]
        return len(routes), len(tables.list_neighbours(link)), len(tables.list_fdb(link))


def make_links() -> None:
    """The underlay and the VXLAN link of one host."""
    ip("link add eth0 type veth peer name far0")
    ip(f"addr add {UNDERLAY} dev eth0")
    ip("link set far0 up")
    ip("link set eth0 up")
    ip("link add flannel.1 type vxlan id 1 dev eth0 local 172.16.0.1 dstport 8472 nolearning")
    ip("addr add 10.0.0.0/32 dev flannel.1")
    ip("link set flannel.1 up")


def ours(peers: list[Lease]) -> float:
    """Seconds for the daemon's own path."""
    table = {lease.subnet: lease for lease in peers}
    eth0 = link_index("eth0")
    link = Link(link_index("flannel.1"), "flannel.1", "vxlan", 1450, True, "")

    async def ensure_link() -> Link:
        return link

    with RtNetlink() as tables:
        network = VxlanNetwork(
            kernel=Kernel(Netlink.__new__(Netlink), tables),  # no link is changed
            network=NETWORK,
            interface=ExternalInterface(eth0, "eth0", 1500, UNDERLAY.ip, UNDERLAY.ip, (UNDERLAY,)),
            mtu=1450,
            guard=Guard("flannel.1", "eth0", port=8472, vni=1),
            direct_routing=False,
            ensure_link=ensure_link,
        )
        began = time.perf_counter()
        asyncio.run(network.apply(table))
        return time.perf_counter() - began


def iproute2(peers: list[Lease], directory: Path, *, nexthops: bool) -> float:
    """Seconds for `bridge -batch` and `ip -batch`."""
    fdb, entries = [], []
    for number, lease in enumerate(peers, 1):
        via, mac = lease.subnet.network_address, lease.attrs.backend_data["VtepMAC"]
        fdb.append(f"fdb add {mac} dev flannel.1 dst {lease.attrs.public_ip} self permanent")
        entries.append(f"neigh add {via} lladdr {mac} dev flannel.1 nud permanent")
        if nexthops:
            entries.append(f"nexthop add id {number} via {via} dev flannel.1 onlink")
            entries.append(f"route add {lease.subnet} nhid {number}")
        else:
            entries.append(f"route add {lease.subnet} via {via} dev flannel.1 onlink")
    (directory / "fdb").write_text("\n".join(fdb) + "\n")
    (directory / "entries").write_text("\n".join(entries) + "\n")
    began = time.perf_counter()
    run("bridge", "-batch", str(directory / "fdb"))
    run("ip", "-batch", str(directory / "entries"))
    return time.perf_counter() - began


def program(n: int, rounds: int) -> None:
    """Part 1 for ``n`` peers."""
    peers = leases(n)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        contestants: dict[str, Callable[[], float]] = {
            "ours": lambda: ours(peers),
            "classic": lambda: iproute2(peers, directory, nexthops=False),
            "nexthop": lambda: iproute2(peers, directory, nexthops=True),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, contestant in contestants.items():
                with private_network():
                    make_links()
                    seconds[name].append(contestant())
                    assert count() == (n, n, n), f"{name} left the tables incomplete"
    median = {name: statistics.median(times) for name, times in seconds.items()}
    for name, label in (
        ("ours", "flannel"),
        ("classic", "ip/bridge -batch, classic routes"),
        ("nexthop", "ip/bridge -batch, nexthop objects"),
    ):
        ratio = median[name] / median["ours"]
        spread = f"{min(seconds[name]):.3f} - {max(seconds[name]):.3f}"
        print(f"  {n:6}  {label:34} {median[name]:7.3f} s  ({spread})  {ratio:5.1f}x")


def start(n: int, rounds: int) -> None:
    """Part 2 for ``n`` peers."""
    cold: list[float] = []
    warm: list[float] = []
    with World() as world:
        world.start_etcd()
        world.configure({"Network": str(NETWORK), "Backend": {"Type": "vxlan"}})
        world.put_leases({subnet_key(each.subnet): each.attrs.to_json() for each in leases(n)})
        for number in range(rounds):
            host = world.add_host(f"h{number}")
            for times in (cold, warm):
                began = time.perf_counter()
                daemon = host.start_flanneld("-iface=eth0")
                daemon.wait_ready(60)
                times.append(time.perf_counter() - began)
                shown = host.run("ip", "route", "show", "root", str(NETWORK)).splitlines()
                assert len(shown) >= n, f"{len(shown)} of {n} routes"
                daemon.kill()
    for label, times in (("empty tables", cold), ("full tables", warm)):
        spread = f"{min(times):.3f} - {max(times):.3f}"
        print(f"  {n:6}  {label:34} {statistics.median(times):7.3f} s  ({spread})")


def cpu(host: Host) -> tuple[float, float]:
    """Seconds of CPU that flanneld has taken, and those that programs it ran have (proc(5))."""
    fields = Path(f"/proc/{host.daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = [int(each) for each in fields[11:15]]
    second = os.sysconf("SC_CLK_TCK")
    return sum(ticks[:2]) / second, sum(ticks[2:]) / second


def change(n: int) -> None:
    """Part 3 for ``n`` peers."""
    peers = leases(n)
    moved = []
    for number in range(CHANGES):
        lease = peers[number % n]
        attrs = replace(lease.attrs, public_ip=IPv4Address("172.24.0.0") + number)
        moved.append((subnet_key(lease.subnet), attrs.to_json()))
    last = str(attrs.public_ip)
    with World() as world:
        world.start_etcd()
        world.configure({"Network": str(NETWORK), "Backend": {"Type": "vxlan"}})
        world.put_leases({subnet_key(each.subnet): each.attrs.to_json() for each in peers})
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0").wait_ready(60)
        time.sleep(SETTLED)
        before = cpu(host)
        world.etcd.change_leases(moved, pause=1 / CHANGES_A_SECOND)
        get = ("nft", "get", "element", "ip", "flannel", "peers", f"{{ {last} }}")
        wait_for(lambda: host.try_run(*get).returncode == 0, 30, "the last address in the guard")
        wait_for(
            lambda: last in host.run("bridge", "fdb", "show", "dev", "flannel.1"), 30, "its entry"
        )
        after = cpu(host)
    own, programs = (1000 * (b - a) / CHANGES for a, b in zip(before, after, strict=True))
    print(f"  {n:6}  flanneld {own:6.2f} ms  programs {programs:6.2f} ms")


def main() -> None:
    """Read the command line, run all parts, print."""
    parser = argparse.ArgumentParser(description="time to program all peers")
    parser.add_argument("--peers", default="1000,10000", help="numbers of peers, with commas")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--changes", action="store_true", help="part 3 alone")
    arguments = parser.parse_args()
    gc.set_threshold(100_000)  # as flannel.__main__ has it
    sizes = [int(each) for each in arguments.peers.split(",")]
    version = subprocess.run(["ip", "-V"], capture_output=True, text=True).stdout.strip()
    print(f"{datetime.now().astimezone():%Y-%m-%d}, Linux {platform.release()}, {version}")
    if not arguments.changes:
        print(f"medians of {arguments.rounds} alternating rounds (lowest - highest)\n")
        print("from empty tables to all peers programmed")
        for n in sizes:
            program(n, arguments.rounds)
        print("\nfrom the start of flanneld to all peers programmed, leases in etcd")
        for n in sizes:
            start(n, arguments.rounds)
    print(f"\nCPU for each lease that changes, {CHANGES_A_SECOND} in a second")
    for n in sizes:
        change(n)


if __name__ == "__main__":
    main()
