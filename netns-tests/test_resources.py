"""Nothing that passes ends flanneld: no descriptor, no memory, no room, no right, odd signals.

While it lasts it is a condition and packets flow; when it is over, all that was damaged meanwhile
is repaired, and what has changed in the store is known.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fork_server
import pytest
from flannel_command import status_of
from overlays import UDP, VXLAN, start
from world import Host, Pinger, World, WorldError, ping, wait_for

DEVICES = {"vxlan": "flannel.1", "udp": "flannel0"}
CONFIGS: dict[str, dict[str, Any]] = {"vxlan": VXLAN, "udp": UDP}
LEASES = {
    "vxlan": '{"PublicIP":"192.0.2.99","BackendType":"vxlan",'
    '"BackendData":{"VtepMAC":"02:00:00:00:00:07"}}',
    "udp": '{"PublicIP":"192.0.2.99"}',
}
MEANINGLESS = (
    *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPWR"),
)

SYSCTL = "/proc/sys/net/ipv4/conf/flannel.1/rp_filter"
# What happens to files, as the first host's flanneld sees them: its directory, and a setting of the
# kernel; and what is reported of the latter.
FILES = {
    "Read-only file system": (
        "mount --bind {dir} {dir}; mount -o remount,bind,ro {dir}",
        ("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys", "/proc/sys"),
        "Read-only file system",
    ),
    "Permission denied": (
        "mount -t tmpfs -o uid=65534,mode=0700 none {dir}",
        (
            "mount -t tmpfs none /mnt; touch /mnt/x; chown 65534 /mnt/x; chmod 0 /mnt/x; "
            f"mount --bind /mnt/x {SYSCTL}; umount -l /mnt",
            SYSCTL,
        ),
        "Permission denied",
    ),
    "No space left on device": (
        "mount -t tmpfs -o nr_inodes=1,size=4k none {dir}",
        (f"mount --bind /proc/{{pid}}/mem {SYSCTL}", SYSCTL),  # at its address 0 is nothing
        "Input/output error",
    ),
}


class Rig:
    """Two hosts with a container each, and a ping between these.

    The first one's flanneld has a mount namespace of its own, in which files can become unusable.
    """

    def __init__(self, world: World, backend: str) -> None:
        self.world, self.backend, self.device = world, backend, DEVICES[backend]
        popen = Host.popen

        def with_own_mounts(host: Host, *command: str, **options: Any) -> Any:
            return popen(host, "unshare", "--mount", *command, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Host, "popen", with_own_mounts)
            patch.setattr(fork_server, "is_enabled", False)  # a fork would have everybody's mounts
            self.one, self.other = start(world, CONFIGS[backend], 2)
        self.near, self.far = self.one.add_container(1), self.other.add_container(1)
        assert ping(self.near, self.far.address, 30) is not None
        self._n_damages = 0

    def mount(self, command: str) -> None:
        """Do something to the mounts that flanneld sees."""
        pid = self.one.daemon.process.pid
        command = command.format(dir=self.one.directory, pid=pid)
        done = self.one.try_run("nsenter", f"--mount=/proc/{pid}/ns/mnt", "sh", "-ec", command)
        if done.returncode != 0:
            raise WorldError(f"{command}: {done.stderr}")

    def damage(self) -> None:
        """Do what flanneld has to repair, and what it has to hear of."""
        self._n_damages += 1
        self.one.run("nft", "delete", "table", "ip", "flannel")
        self.one.ip(f"link set {self.device} mtu {1300 + self._n_damages}")
        sysctl = f"/proc/sys/net/ipv4/conf/{self.device}/rp_filter"
        self.one.run("sh", "-c", f"echo 2 > {sysctl}")
        self.world.put_leases({f"10.1.{self._n_damages}.0-24": LEASES[self.backend]})

    @contextmanager
    def outlived(self) -> Iterator[None]:
        """In the body something passes; ping goes on, and afterwards all is as it should be."""
        daemon = self.one.daemon
        n_before = len(daemon.log)
        with Pinger(self.near, self.far.address, 20) as pinger:
            yield
            wait_for(lambda: not self._wrong(), 60, lambda: f"not to have {self._wrong()}")
        assert daemon.is_running
        assert pinger.lost == 0
        lines = daemon.log[n_before:].splitlines()
        assert not any("Traceback" in line for line in lines)
        assert len(lines) < 40

    def _wrong(self) -> list[str]:
        status = status_of(self.one)
        wrong = [f"{name}: {text}" for name, text in status["conditions"].items()]
        if status["peers"] != 1 + self._n_damages:
            wrong.append(f"{status['peers']} peers")
        if "tx_injected" not in self.one.try_run("nft", "list", "table", "ip", "flannel").stdout:
            wrong.append("no table")
        if " mtu 14" not in self.one.run("ip", "link", "show", self.device):
            wrong.append("the damaged MTU")
        return wrong

    def wait_conditions(self, wanted: dict[str, str]) -> None:
        """Wait until flanneld reports these at least, each with its reason."""
        found: dict[str, str] = {}

        def are_reported() -> bool:
            found.update(status_of(self.one)["conditions"])
            return all(reason in found.get(name, "") for name, reason in wanted.items())

        wait_for(are_reported, 60, lambda: f"{wanted}; there are {found}")


@pytest.fixture(scope="module", params=DEVICES)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The hosts of a backend, for all tests."""
    with World() as world:
        world.start_etcd()
        yield Rig(world, request.param)


@contextmanager
def limited(rig: Rig, which: int, value: int) -> Iterator[None]:
    """In the body the first flanneld can have no more of a resource."""
    pid = rig.one.daemon.process.pid
    soft, hard = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (value, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, which, (soft, hard))


def test_flanneld_runs_on_without_a_free_descriptor(rig: Rig) -> None:
    with rig.outlived(), limited(rig, resource.RLIMIT_NOFILE, 3):
        rig.damage()
        for text in ("run nft: Too many open files", "write .*state.json: Too many open files"):
            rig.one.daemon.wait_log(text)


def test_flanneld_runs_on_without_free_memory(rig: Rig) -> None:
    """A thread for which there is none ends before its first line, and must not be waited for."""
    n_before = len(rig.one.daemon.log)

    def is_short() -> bool:
        return "memory" in rig.one.daemon.log[n_before:].lower()

    with rig.outlived(), limited(rig, resource.RLIMIT_AS, 1 << 20):
        rig.damage()
        wait_for(is_short, 60, "memory to be short")


@pytest.mark.parametrize("reason", FILES)
@pytest.mark.parametrize("rig", ["vxlan"], indirect=True)
def test_flanneld_runs_on_while_files_cannot_be_used(rig: Rig, reason: str) -> None:
    of_directory, (of_sysctl, sysctl), why = FILES[reason]
    with rig.outlived():
        rig.mount(f"{of_directory}; {of_sysctl}")
        try:
            rig.damage()
            rig.one.daemon.wait_log(f"cannot write .*state.json: {reason}")
            rig.wait_conditions({"state": reason, "sysctls": why})
        finally:
            rig.mount(f"umount -l {sysctl} {{dir}}")


def test_signals_that_mean_nothing_are_logged_and_end_nothing(rig: Rig) -> None:
    daemon = rig.one.daemon

    with rig.outlived():
        for name in MEANINGLESS:
            daemon.process.send_signal(signal.Signals[name])
            daemon.wait_log(f"ignoring {name}: there is nothing to reload")
