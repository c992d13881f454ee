"""A flanneld that was forked is what one that was started would be."""

import os
from contextlib import suppress
from pathlib import Path

import fork_server
import pytest
from flannel_command import flannel
from world import Host, World, wait_for

DIFFERS = ("Pid", "Tgid", "Ngid", "NSpid", "NStgid", "PPid", "Vm", "Rss", "HugetlbPages", "Threads",
           "SigQ", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches", "Cpus_allowed",
           "Mems_allowed", "State", "FDSize", "NSpgid", "NSsid")  # fmt: skip


def seen(host: Host) -> dict[str, object]:
    """What the kernel knows of the host's flanneld that does not differ from one to the next."""
    process = Path(f"/proc/{host.daemon.process.pid}")
    fields = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    kinds = []
    for fd in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            kinds.append(str(fd.readlink()).partition(":")[0].replace(f"/{host.label}/", "/HOST/"))
    stat = (process / "stat").read_text().rpartition(")")[2].split()
    return {
        "status": {name: text for name, text in fields.items() if not name.startswith(DIFFERS)},
        "limits": (process / "limits").read_text(),
        "descriptors": sorted(kinds),
        "directory": (process / "cwd").readlink(),
        "program": (process / "exe").readlink(),
        "oom": (process / "oom_score_adj").read_text(),
        "session": stat[2:4],
        "priority": stat[16],
    }


@pytest.fixture
def host(world: World) -> Host:
    world.configure({"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}})
    return world.add_host("h1")


def test_a_fork_differs_in_nothing_that_the_kernel_knows(
    world: World, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {True: host, False: world.add_host("h2")}
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, before - 1)  # the server may have been started with another
    try:
        for is_enabled, each in hosts.items():
            monkeypatch.setattr(fork_server, "is_enabled", is_enabled)
            daemon = each.start_flanneld("-iface=eth0", "-healthz-port=8080").wait_ready()
            assert isinstance(daemon.process, fork_server.Forked) == is_enabled
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
    # Both open sockets and run programs for a moment.
    wait_for(
        lambda: seen(hosts[True]) == seen(hosts[False]),
        60,
        lambda: f"{seen(hosts[True])} to be {seen(hosts[False])}",
    )
    for each in hosts.values():
        assert each.daemon.stop() == 0
        assert each.daemon.log.count("stopped; device and routes stay") == 1


@pytest.mark.parametrize("arguments", [("status",), ("config", "get"), ("explain", "nonsense")])
def test_a_command_prints_and_ends_as_one_that_was_started(
    host: Host, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    forked = flannel(host, *arguments)
    monkeypatch.setattr(fork_server, "is_enabled", False)
    started = flannel(host, *arguments)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode, started.stdout, started.stderr,
    )  # fmt: skip
    assert forked.stdout or forked.stderr


def test_how_it_ended_is_known_as_of_any_program(host: Host) -> None:
    daemon = host.start_flanneld("-nosuch")
    assert daemon.process.wait(60) == 2
    assert "there is no such flag" in daemon.log
    host.start_flanneld("-iface=eth0").wait_ready()
    host.daemon.process.kill()
    assert host.daemon.process.wait(60) == -9
    host.daemon.process.kill()  # of one that has ended
