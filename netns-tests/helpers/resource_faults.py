"""What a host lacks for a while, drawn by `chaos`: programs, threads, descriptors, time."""

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from cluster import Cluster, lease_value
from faults import ALL, Fault, Wrong, fault, some_host
from world import Host

RESOURCES: list[Fault] = []
_lack = partial(fault, to=RESOURCES)

_MEANINGLESS = (
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE),
    *(signal.SIGALRM, signal.SIGIO, signal.SIGPWR),
)


def _damage(cluster: Cluster, host: Host, random: Random) -> None:
    """Something to repair and something to hear of, that costs no packet."""
    host.try_run("nft", "delete", "table", "ip", "flannel")
    if cluster.backend != "host-gw":
        host.try_run("ip", "link", "set", cluster.device, "mtu", str(random.randrange(1200, 1300)))
    value = lease_value(cluster.backend, random.randrange(100, 200))
    key = f"10.1.{random.randrange(200, 240)}.0-24"
    if key not in cluster.own_keys():
        cluster.world.put_leases({key: value})


def _no_traceback(host: Host) -> Wrong:
    n_before = len(host.daemon.log)
    return lambda: "a traceback" if "Traceback" in host.daemon.log[n_before:] else ""


@_lack(*ALL)
def nft_fails_for_a_while(cluster: Cluster, random: Random) -> None:
    with cluster.nft_fails():
        _damage(cluster, some_host(cluster, random), random)
        time.sleep(random.uniform(0.5, 3))


@_lack(*ALL)
def no_thread_and_no_process_can_be_started(cluster: Cluster, random: Random) -> Wrong:
    host = some_host(cluster, random)
    wrong = _no_traceback(host)
    with _limited_processes(cluster, host, random.randrange(2)):
        _damage(cluster, host, random)
        time.sleep(random.uniform(0.5, 3))
    return wrong


@_lack(*ALL)
def no_descriptor_can_be_opened(cluster: Cluster, random: Random) -> Wrong:
    host = some_host(cluster, random)
    wrong = _no_traceback(host)
    pid = host.daemon.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (random.randrange(3, 20), before[1]))
    try:
        _damage(cluster, host, random)
        time.sleep(random.uniform(0.5, 3))
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    return wrong


@_lack(*ALL, loses_packets=True)
def a_host_is_paused_and_much_changes_meanwhile(cluster: Cluster, random: Random) -> None:
    """As a virtual machine: when it goes on, damage is repaired at once."""
    host = some_host(cluster, random)
    with host.daemon.frozen():
        _damage(cluster, host, random)
        host.try_run("ip", "route", "flush", "proto", "102")
        time.sleep(random.uniform(1, 6))
    host.try_run("ip", "route", "flush", "proto", "102")


@_lack(*ALL, loses_packets=True)
def more_changes_in_the_kernel_than_netlink_can_report(cluster: Cluster, random: Random) -> None:
    """The socket's buffer overflows (ENOBUFS), and our routes are among what was not reported."""
    host = some_host(cluster, random)
    routes = [f"198.18.{n // 256}.{n % 256}/32 dev lo" for n in range(5000)]
    with host.daemon.frozen():
        host.ip(*(f"route add {each}" for each in routes))
        host.try_run("ip", "route", "flush", "proto", "102")
        host.ip(*(f"route del {each}" for each in routes))


@_lack(*ALL)
def signals_come_that_mean_nothing(cluster: Cluster, random: Random) -> None:
    host = some_host(cluster, random)
    for number in random.sample(_MEANINGLESS, 3):
        host.daemon.process.send_signal(number)


@contextmanager
def _limited_processes(cluster: Cluster, host: Host, n_more: int) -> Iterator[None]:
    """In the body flanneld may have ``n_more`` threads and processes; see cgroups(7)."""
    top = Path("/sys/fs/cgroup/pids")
    pid = host.daemon.process.pid
    group = (top if top.is_dir() else top.parent) / f"{cluster.world.tag}-{pid}"
    group.mkdir(exist_ok=True)  # the end of the world removes it
    (group / "cgroup.procs").write_text(str(pid))
    n_threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
    (group / "pids.max").write_text(str(n_threads + n_more))
    try:
        yield
    finally:
        (group / "pids.max").write_text("max")
