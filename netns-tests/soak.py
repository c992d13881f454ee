"""A long time of traffic while leases come, move and go: nothing may be lost, nothing may leak.

    .venv/bin/python netns-tests/soak.py [--minutes 60] [--backend vxlan] [--leases 50]

Two hosts with a container each; one pings the other 100 times a second. Once a second the lease of
one of many absent hosts is written, moved or deleted. Once a minute the figures are printed: pings
lost, each daemon's resident memory, descriptors and threads, against those after the first minute.
At the end etcd, kernel and files have to agree. Exit status 1 if a ping was lost, memory grew by
more than 5 MB, or a descriptor or thread is left over.
"""

import argparse
import os
import socket
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from typing import NamedTuple
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from cluster import Cluster, lease_value
from faults import ALL
from world import PREFIX, Host, Pinger, World, WorldError

MAX_GROWTH_KB = 5 * 1024


class Held(NamedTuple):
    """What a daemon holds."""

    memory_kb: int
    descriptors: int
    threads: int


def held(host: Host) -> Held:
    """Read from /proc."""
    process = Path("/proc", str(host.daemon.process.pid))
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Held(
        int(status["VmRSS"].split()[0]),
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
    )


class Writer:
    """Writes leases of absent hosts over one connection: the soak must not be a load itself."""

    def __init__(self, cluster: Cluster, n_leases: int) -> None:
        self._backend, self._n_leases = cluster.backend, n_leases
        self._random = Random(n_leases)
        self._connection = HTTPConnection("192.0.2.1", 2379)
        self._connection.sock = cluster.world.net.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._connection.sock.connect(("192.0.2.1", 2379))

    def change(self) -> None:
        """Make, move or delete one lease."""
        random = self._random
        key = f"{PREFIX}/subnets/10.1.{random.randrange(100, 100 + self._n_leases)}.0-24"
        if random.random() < 0.3:
            self._connection.request("DELETE", f"/v2/keys{key}")
        else:
            value = lease_value(self._backend, random.randrange(100, 250))
            body = urlencode({"value": value, "ttl": 86400})
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            self._connection.request("PUT", f"/v2/keys{key}", body, headers)
        answer = self._connection.getresponse()
        answer.read()
        if answer.status not in (200, 201, 404):  # 404: deleted before
            raise WorldError(f"etcd answers {answer.status}")


def soak(backend: str, minutes: int, n_leases: int) -> list[str]:
    """Run it; return what went wrong."""
    wrong = []
    with World() as world:
        world.start_etcd()
        cluster = Cluster(world, backend, n_hosts=2, n_absent=n_leases)
        near, far = map(cluster.container, cluster.hosts)
        writer = Writer(cluster, n_leases)
        began = time.monotonic()
        first: list[Held] = []
        lost = sent = 0
        for minute in range(minutes):
            with Pinger(near, far.address) as pinger:
                while time.monotonic() < began + 60 * (minute + 1):
                    writer.change()
                    time.sleep(1)
            sent, lost = sent + pinger.sent, lost + pinger.lost
            now = [held(host) for host in cluster.hosts]
            first = first or now
            print(f"{minute + 1:4} min: {sent} pings, {lost} lost; kB, descriptors, threads: "
                  f"{', '.join(str(tuple(each)) for each in now)}", flush=True)  # fmt: skip
        cluster.wait_healed(10)
        if lost:
            wrong.append(f"{lost} of {sent} pings were lost")
        for host, before, after in zip(cluster.hosts, first, map(held, cluster.hosts), strict=True):
            if after.memory_kb - before.memory_kb > MAX_GROWTH_KB:
                wrong.append(f"{host.label}: memory grew from {before.memory_kb} kB to "
                             f"{after.memory_kb} kB")  # fmt: skip
            # A request that is under way has a thread and a descriptor: look a moment later again.
            for _ in range(20):
                if (after := held(host))[1:] <= before[1:]:
                    break
                time.sleep(0.1)
            else:
                wrong.append(f"{host.label}: {after} after {before}")
    return wrong


def main() -> int:
    """Read the command line, run, judge."""
    parser = argparse.ArgumentParser(description="a long time of traffic and changing leases")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--backend", choices=ALL, default="vxlan")
    parser.add_argument("--leases", type=int, default=50)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("soak: cannot make network namespaces: this needs root", file=sys.stderr)
        return 1
    wrong = soak(arguments.backend, arguments.minutes, arguments.leases)
    for each in wrong:
        print(f"soak: {each}", file=sys.stderr)
    print("soak: nothing lost, nothing leaked" if not wrong else "soak: failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
