"""More than flanneld should have to take, drawn by `chaos`: answers, keys and clients."""

import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from socket import AF_INET, SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET

from cluster import Cluster
from faults import ALL, Fault, Wrong, fault, some_host
from hostile_server import KINDS, hostile_server
from hosts import Host
from world import WorldError

FLOODS: list[Fault] = []
_flood = partial(fault, to=FLOODS)

HEALTHZ_PORT = 9000
FLAGS = (f"-healthz-port={HEALTHZ_PORT}",)
"""What these faults need of a cluster's flanneld."""
_PROBE_LIMIT = 1.0
"""Seconds for an answer of /healthz: the default of Kubernetes' probes."""
_N_PROBES = 5
_MAX_GROWTH = 160 << 20
"""Bytes that flanneld may take meanwhile: some copies of the largest answer it reads, 32 MiB."""
_MAX_LINES = 400
"""Log lines of one flanneld about tens of thousands of junk keys: `Once` names 100, then counts."""
_N_WRITERS = 16

_CLIENTS = """
import resource, selectors, socket, sys
n_clients, kind, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
REQUEST = {
    "idle": b"", "half": b"GET /metrics HTTP/1.1\\r\\n",
    "asking": b"GET /metrics HTTP/1.1\\r\\n\\r\\n",
}[kind]
ready = selectors.DefaultSelector()
def connect():
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    ready.register(client, selectors.EVENT_WRITE)
for _ in range(n_clients):
    connect()
print("connecting", flush=True)
while True:
    for key, events in ready.select():
        client = key.fileobj
        try:
            if events & selectors.EVENT_WRITE:
                client.send(REQUEST)
                ready.modify(client, selectors.EVENT_READ)
                continue
            if client.recv(65536):
                continue
        except OSError:
            pass
        ready.unregister(client)
        client.close()
        connect()
"""
"""Clients that send nothing, half a request or a whole one, and begin again when that is answered
or the connection is closed."""


@_flood(*ALL)
def etcd_answers_without_end(cluster: Cluster, random: Random) -> None:
    """Another program has its address and port for some seconds."""
    world, kind = cluster.world, random.choice(KINDS)
    world.stop_etcd(random.choice([signal.SIGTERM, signal.SIGKILL]))
    listener = world.net.socket(AF_INET, SOCK_STREAM)
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    listener.bind(("192.0.2.1", 2379))
    listener.listen(100)
    try:
        with _bounded_memory(cluster.hosts), hostile_server(kind, listener):
            time.sleep(random.uniform(2, 5))
    except WorldError as why:
        raise WorldError(f"{kind.__name__}: {why}") from None
    finally:
        world.start_etcd()


@_flood(*ALL)
def tens_of_thousands_of_junk_keys_are_written(cluster: Cluster, random: Random) -> Wrong:
    """Beside the leases, and deleted again."""
    prefix = random.choice(["junk", "10.1.300.", "192.0.2."])
    keys = [f"{prefix}{number}-24" for number in range(20_000)]
    n_lines = {host.label: host.daemon.log.count("\n") for host in cluster.hosts}
    with _bounded_memory(cluster.hosts):
        _change_all(cluster, [(key, "junk") for key in keys])
        slowest = [f"{host.label}: {late}" for host in cluster.hosts if (late := _late(host))]
        _change_all(cluster, [(key, None) for key in keys])
    if slowest:
        raise WorldError("; ".join(slowest))

    def wrong() -> str:
        for host in cluster.hosts:
            n_new = host.daemon.log.count("\n") - n_lines[host.label]
            if n_new > _MAX_LINES:
                return f"{host.label} logged {n_new} lines about {len(keys)} keys"
        return ""

    return wrong


@_flood(*ALL)
def a_thousand_clients_are_at_the_healthz_port(cluster: Cluster, random: Random) -> None:
    """Of a user of the host; a probe is answered all the same."""
    host, kind = some_host(cluster, random), random.choice(["idle", "half", "asking"])
    with _bounded_memory([host]), _clients(host, kind):
        if late := _late(host):
            raise WorldError(f"clients that are {kind}: {late}")


@contextmanager
def _clients(host: Host, kind: str) -> Iterator[None]:
    arguments = ("1000", kind, str(HEALTHZ_PORT))
    program = (sys.executable, "-c", _CLIENTS, *arguments)
    with host.popen(*program, stdout=subprocess.PIPE) as clients:
        try:
            assert clients.stdout is not None
            clients.stdout.readline()
            yield
        finally:
            clients.kill()


def _late(host: Host) -> str:
    """What is wrong with /healthz's answers; "" if most come in time, as on a busy machine."""
    took = [_probe(host) for _ in range(_N_PROBES)]
    if statistics.median(took) <= _PROBE_LIMIT:
        return ""
    return f"/healthz took {', '.join(f'{each:.2f}' for each in took)} s"


def _probe(host: Host) -> float:
    """Seconds until /healthz is answered; infinite if it is not."""
    began = time.monotonic()
    with host.socket(AF_INET, SOCK_STREAM) as probe:
        probe.settimeout(10)
        try:
            probe.connect(("127.0.0.1", HEALTHZ_PORT))
            probe.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            is_answered = b" 200 " in probe.recv(4096)
        except OSError:
            is_answered = False
    return time.monotonic() - began if is_answered else float("inf")


@contextmanager
def _bounded_memory(hosts: Sequence[Host]) -> Iterator[None]:
    """In the body no flanneld takes much more memory than before."""
    pids = {host.label: host.daemon.process.pid for host in hosts}
    before = {}
    for label, pid in pids.items():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): the peak begins anew
        before[label] = _peak(pid)
    yield
    for label, pid in pids.items():
        if (more := _peak(pid) - before[label]) > _MAX_GROWTH:
            raise WorldError(f"{label}: flanneld took {more >> 20} MiB more")


def _peak(pid: int) -> int:
    """Bytes of memory that a process has had at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _change_all(cluster: Cluster, changes: list[tuple[str, str | None]]) -> None:
    """Write or delete many keys, by several connections: each alone waits for the disk."""
    parts = [changes[number::_N_WRITERS] for number in range(_N_WRITERS)]
    failed: list[Exception] = []

    def change(part: list[tuple[str, str | None]]) -> None:
        try:
            cluster.world.etcd.change_leases(part)
        except Exception as why:  # it would be lost with the thread
            failed.append(why)

    with ExitStack() as stack:
        for part in parts:
            thread = threading.Thread(target=change, args=(part,))
            thread.start()
            stack.callback(thread.join)
    if failed:
        raise WorldError(f"cannot write junk: {failed[0]}")
