"""What the guard costs: TCP and small datagrams through vxlan, with and without it.

    bench/guard_cost.py [--rounds N] [--seconds S]

Two hosts in namespaces, a container each, real flannelds. In turn the table of the guard is there
as flanneld makes it, there with the rules for what arrives alone, and not there at all. The turns
of one round come right after each other; what is printed are medians over the rounds, and the ratio
to "none". Its worth depends on nothing else running.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "netns-tests/helpers")]

from pings import ping  # noqa: E402
from world import Container, Host, World, wait_for  # noqa: E402

from flannel.firewall.nft_table import TABLE  # noqa: E402

_SENDING = ("forwarded", "by_link", "sent", "forwarded_to_port", "to_port")
_SENDING_HOOKS = ("output", "forward", "leaving")
KINDS = ("none", "arriving", "all")


def arriving_only(host: Host) -> str:
    """Commands of nft that take the rules for what leaves away."""
    lines = [f"flush chain ip {TABLE} {name}" for name in (*_SENDING_HOOKS, *_SENDING)]
    return "\n".join(
        lines + [f"delete chain ip {TABLE} {name}" for name in (*_SENDING_HOOKS, *_SENDING)]
    )


def nft(host: Host, document: str) -> None:
    subprocess.run(
        ["nsenter", f"--net=/run/netns/{host.name}", "nft", "-f", "-"],
        input=document, text=True, check=True,
    )  # fmt: skip


def have(kind: str, hosts: list[Host], tables: dict[str, str]) -> None:
    """Replace the guard of all hosts by one of `KINDS`."""
    for host in hosts:
        nft(host, f"add table ip {TABLE}\ndelete table ip {TABLE}\n")
        if kind != "none":
            nft(host, tables[host.name])
        if kind == "arriving":
            # The link's own packets have no mark then, and nobody looks for it.
            nft(host, arriving_only(host))


def measure(near: Container, far: Container, seconds: float) -> tuple[float, float]:
    """Gb/s of one TCP stream, and thousands of 64-byte datagrams a second that arrive."""
    client = ("iperf3", "-J", "-c", str(far.address), "-t", str(seconds))
    tcp = json.loads(near.run(*client))["end"]["sum_received"]["bits_per_second"]
    small = json.loads(near.run(*client, "-u", "-b", "0", "-l", "64"))["end"]["sum"]
    arrived = (small["packets"] - small["lost_packets"]) / small["seconds"]
    return tcp / 1e9, arrived / 1e3


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2)
    args = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    with World() as world:
        world.start_etcd()
        world.configure({"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}})
        hosts = [world.add_host("h1"), world.add_host("h2")]
        for host in hosts:
            host.start_flanneld("-iface=eth0", "-iptables-resync=86400")
        for host in hosts:
            host.daemon.wait_ready()
        near, far = (host.add_container(1) for host in hosts)
        assert ping(near, far.address, 30) is not None
        listed = ("nft", "list", "table", "ip", TABLE)
        wait_for(lambda: all(str(hosts[1 - n].address) in host.run(*listed)
                             for n, host in enumerate(hosts)), 30, "the peers")  # fmt: skip
        tables = {host.name: host.run(*listed) for host in hosts}
        server = far.popen("iperf3", "-s", stdout=subprocess.DEVNULL)
        try:
            for number in range(args.rounds):
                for kind in (*KINDS[number % 3 :], *KINDS[: number % 3]):
                    have(kind, hosts, tables)
                    found[kind].append(measure(near, far, args.seconds))
        finally:
            server.kill()
            server.wait()
    print(f"{datetime.now(UTC):%Y-%m-%d}, kernel {platform.release()}, {args.rounds} rounds")
    base = found["none"]
    for kind in KINDS:
        for unit, at in (("Gb/s TCP", 0), ("k datagrams/s", 1)):
            value = statistics.median(each[at] for each in found[kind])
            ratio = statistics.median(
                each[at] / other[at] for each, other in zip(found[kind], base, strict=True)
            )
            print(f"{kind:9} {value:8.2f} {unit:14} {ratio:6.3f}")


if __name__ == "__main__":
    main()
