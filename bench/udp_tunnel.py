"""How fast the udp backend is, beside a plain packet loop, kernel VXLAN and no tunnel at all.

    .venv/bin/python bench/udp_tunnel.py [--rounds 5] [--seconds 2] [--modes on,nic,off]

Two hosts, joined by one veth pair, and four ways from one to the other, taken in turn round by
round, so that what else the machine does falls on all of them:
  direct  the veth pair itself
  vxlan   the kernel's VXLAN device over it
  plain   bench/udp/plain_tunnel.c: the same wire format as ours, one packet a system call, which is
          how upstream's udp backend works
  ours    flanneld with the udp backend, as installed, leases in a real etcd
The veth pair is a network card of one of three kinds:
  on      super-packets of 64 kB cross it whole
  nic     packets of the MTU cross it and the receiver merges them (GRO), as most real cards do
  off     packets of the MTU, not merged: the worst case
What is measured: TCP by iperf3 with one stream and with four, and what CPU time the whole machine
took for a GB of the former; datagrams of 64 bytes that arrived, sent by sendmmsg() in
bench/udp/packet_rate.c and one by one by iperf3; the median round trip of ping.

Prints medians, and medians of each round's ratios; with --chart draws them. Needs root.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "netns-tests/helpers"))

from udp_chart import draw  # noqa: E402 # both are found by way of the line above
from world import Host, World  # noqa: E402

WAYS = ("direct", "vxlan", "plain", "ours")
MODES = {
    "on": "tso on gso on gro on tx-udp-segmentation on",
    "nic": "tso off gso off gro on tx-udp-segmentation off",
    "off": "tso off gso off gro off tx-udp-segmentation off",
}
PORT = 5201
TICKS = os.sysconf("SC_CLK_TCK")


class Measure(NamedTuple):
    """One column of the table: its name, unit, and whether more is better."""

    name: str
    unit: str
    more_is_better: bool = True


MEASURES = (
    Measure("tcp1", "Gb/s"),
    Measure("tcp4", "Gb/s"),
    Measure("cpu", "s/GB", False),
    Measure("pps64", "k/s"),
    Measure("udp64", "k/s"),
    Measure("ping", "us", False),
)
# What the ratio of ours to each other way has to be at least (or at most, where less is better).
GOALS: dict[str, dict[str, dict[str, float]]] = {
    "on": {
        "plain": {"tcp1": 9, "tcp4": 10, "cpu": 1 / 9, "pps64": 3, "ping": 0.85},
        "vxlan": {"tcp1": 0.45, "tcp4": 0.45, "cpu": 2, "pps64": 2},
        "direct": {"pps64": 1.3},
    },
    "nic": {
        "plain": {"tcp1": 6, "tcp4": 7, "cpu": 1 / 6, "pps64": 3, "ping": 0.85},
        "vxlan": {"tcp1": 0.85, "tcp4": 0.85, "cpu": 1.4, "pps64": 2},
        "direct": {"pps64": 1.7},
    },
    "off": {
        "plain": {"tcp1": 3, "tcp4": 4, "cpu": 1 / 3, "pps64": 3, "ping": 0.85},
        "vxlan": {"tcp1": 0.65, "tcp4": 0.65, "cpu": 1.6, "pps64": 2},
        "direct": {"pps64": 1.0},
    },
}

Figures = dict[str, float]


def compile_tools(directory: Path) -> None:
    """The two C programs beside this one."""
    for name in ("plain_tunnel", "packet_rate"):
        source = HERE / "udp" / f"{name}.c"
        subprocess.run(["gcc", "-O2", "-Wall", "-o", directory / name, source], check=True)


def join(near: Host, far: Host) -> None:
    """The veth pair, and the VXLAN device over it on both sides."""
    near.ip(f"link add eth1 type veth peer name eth1 netns {far.name}")
    for host, own, other in ((near, 1, 2), (far, 2, 1)):
        host.ip(f"addr add 198.51.100.{own}/24 dev eth1", "link set eth1 up",
                f"link add vxlan7 type vxlan id 7 dev eth1 dstport 8472 nolearning "
                f"local 198.51.100.{own} remote 198.51.100.{other}",
                f"addr add 10.7.0.{own}/24 dev vxlan7", "link set vxlan7 up")  # fmt: skip


@contextmanager
def plain_tunnels(near: Host, far: Host, program: Path) -> Iterator[None]:
    """The baseline on both hosts."""
    running = []
    try:
        for host, own, other in ((near, 1, 2), (far, 2, 1)):
            host.ip("tuntap add plain0 mode tun", "link set plain0 mtu 1472 up",
                    f"addr add 10.9.0.{own}/24 dev plain0")  # fmt: skip
            addresses = f"198.51.100.{own}", f"198.51.100.{other}"
            running.append(host.popen(str(program), "plain0", *addresses, "8286"))
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def busy_ticks() -> int:
    """What all CPUs have worked since boot, whoever it was for."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return user + nice + system + irq + softirq


class Bench:
    """The two hosts and what is run on them."""

    def __init__(self, near: Host, far: Host, tools: Path, seconds: float) -> None:
        self.near, self.far, self.tools, self.seconds = near, far, tools, seconds

    def round(self, address: str) -> Figures:
        """All measures, one way."""
        before = busy_ticks()
        one = self.iperf(address, "-P1")["end"]
        busy = (busy_ticks() - before) / TICKS
        four = self.iperf(address, "-P4")["end"]
        small = self.iperf(address, "-u", "-b0", "-l64")["end"]["sum"]
        received = small["packets"] - small["lost_packets"]
        return {
            "tcp1": one["sum_received"]["bits_per_second"] / 1e9,
            "tcp4": four["sum_received"]["bits_per_second"] / 1e9,
            "cpu": busy / (one["sum_received"]["bytes"] / 1e9),
            "pps64": self.packet_rate(address) / 1e3,
            "udp64": received / small["seconds"] / 1e3,
            "ping": self.ping(address),
        }

    def iperf(self, address: str, *flags: str) -> dict[str, Any]:
        """One run; cubic, since bbr, a default on some hosts, paces by timers."""
        tcp = () if "-u" in flags else ("-C", "cubic")
        server = self.far.popen("iperf3", "-s", "-1", "-B", address, "--forceflush",
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        assert server.stdout is not None
        for line in server.stdout:
            if b"listening" in line:
                break
        command = ("iperf3", "-J", "-c", address, f"-t{self.seconds:g}", *tcp, *flags)
        shown: dict[str, Any] = json.loads(self.near.run(*command))
        server.communicate(timeout=10)
        return shown

    def packet_rate(self, address: str) -> float:
        """Datagrams of 64 bytes that arrive in a second."""
        program, rest = str(self.tools / "packet_rate"), (address, "7777", f"{self.seconds:g}")
        receiver = self.far.popen(program, "receive", *rest, stdout=subprocess.PIPE, text=True)
        assert receiver.stdout is not None
        receiver.stdout.readline()  # it is ready
        self.near.run(program, "send", *rest)
        return float(receiver.communicate(timeout=20)[0])

    def ping(self, address: str) -> float:
        """The median round trip in us."""
        shown = self.near.run("ping", "-n", "-i0.005", "-c300", address)
        return statistics.median(float(ms) * 1e3 for ms in re.findall(r"time=([\d.]+)", shown))


def set_mode(hosts: tuple[Host, Host], mode: str) -> None:
    """Make the veth pair that kind of card."""
    for host in hosts:
        host.run("ethtool", "-K", "eth1", *MODES[mode].split())


def measure(rounds: int, seconds: float, modes: list[str], ways: list[str]) -> Any:
    """The figures of every round, by mode and way."""
    with World() as world:
        compile_tools(world.directory)
        world.start_etcd()
        world.configure({"Network": "10.1.0.0/16", "Backend": {"Type": "udp"}})
        near, far = world.add_host("h1"), world.add_host("h2")
        join(near, far)
        for host in (near, far):
            host.start_flanneld("-iface=eth1")
        for host in (near, far):
            host.daemon.wait_ready()
        address = {"direct": "198.51.100.2", "vxlan": "10.7.0.2", "plain": "10.9.0.2",
                   "ours": str(far.subnet.network_address)}  # fmt: skip
        bench = Bench(near, far, world.directory, seconds)
        found: dict[str, dict[str, list[Figures]]] = {}
        with plain_tunnels(near, far, world.directory / "plain_tunnel"):
            for mode in modes:
                set_mode((near, far), mode)
                found[mode] = {way: [] for way in ways}
                for number in range(rounds):
                    for way in ways:
                        print(f"\r  {mode}: round {number + 1}, {way:8}", end="", file=sys.stderr)
                        found[mode][way].append(bench.round(address[way]))
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
        return found


def show(mode: str, found: dict[str, list[Figures]]) -> bool:
    """Print one mode's table; return whether all goals are reached."""
    print(f"\nveth {mode}" + "".join(f"{m.name + ' ' + m.unit:>13}" for m in MEASURES))
    for way, rounds in found.items():
        medians = (statistics.median(each[m.name] for each in rounds) for m in MEASURES)
        print(f"  {way:8}" + "".join(f"{value:13.3g}" for value in medians))
    reached = True
    for way in found.keys() - {"ours"}:
        cells = []
        for m in MEASURES:
            pairs = zip(found["ours"], found[way], strict=True)
            ratio = statistics.median(ours[m.name] / other[m.name] for ours, other in pairs)
            goal = GOALS[mode].get(way, {}).get(m.name)
            mark = " "
            if goal is not None:
                good = ratio >= goal if m.more_is_better else ratio <= goal
                reached &= good
                mark = "+" if good else "-"
            cells.append(f"{ratio:12.3g}{mark}")
        print(f"  /{way:7}" + "".join(cells))
    return reached


def main() -> int:
    """Read the command line, measure, print, draw."""
    parser = argparse.ArgumentParser(description="how fast the udp backend is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--modes", default="on,nic,off")
    parser.add_argument("--ways", default=",".join(WAYS), help="which to take; ours always")
    parser.add_argument("--chart", type=Path, help="draw this file, of all modes")
    arguments = parser.parse_args()
    ways = [way for way in WAYS if way in arguments.ways.split(",") or way == "ours"]
    found = measure(arguments.rounds, arguments.seconds, arguments.modes.split(","), ways)
    version = subprocess.run(["iperf3", "-v"], capture_output=True, text=True).stdout.split("\n")[0]
    today = f"{datetime.now().astimezone():%Y-%m-%d}"
    print(f"{today}, Linux {platform.release()}, {os.cpu_count()} cores, {version}")
    print(f"medians of {arguments.rounds} alternating rounds of {arguments.seconds:g} s a figure;")
    print("/x: median of the rounds' ratios ours/x; + reaches its goal, - does not")
    reached = [show(mode, rounds) for mode, rounds in found.items()]
    if arguments.chart:
        draw(arguments.chart, found)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
