"""The Debian package on two hosts that boot: install, upgrade under traffic, purge.

    make deb-trial SUITE=bookworm
    .venv/bin/python netns-tests/deb_trial.py trixie [--root DIR] [--wheelhouse DIR]

The hosts are a clean Debian, which debootstrap makes; with --root it is kept there for the next
time. Each has its own systemd, docker and flanneld; the first has etcd as well. All is done as
docs/deploy.md has it, and by apt alone. Exit status 1, and why, at the first thing that is wrong.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "helpers"))

from booted_host import Booted
from demo import Steps
from docker_host import IMAGE, image
from pings import Pinger, ping
from world import World, WorldError, wait_for

CHECKOUT = Path(__file__).parent.parent
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    "ca-certificates systemd systemd-sysv dbus procps iproute2 iputils-ping python3 nftables "
    "iptables kmod udev man-db python3-cffi-backend etcd-server etcd-client docker.io "
    "busybox-static"
)
LATER = {"trixie": "docker-cli"}
"""Packages that one release has besides."""
NO_SERVICES = (
    "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d"
)
ETCD = """\
ETCD_ENABLE_V2=true
ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379
ETCD_ADVERTISE_CLIENT_URLS=http://192.0.2.11:2379
"""
VARIABLES = "FLANNELD_ETCD_ENDPOINTS=http://192.0.2.11:2379\nFLANNELD_IP_MASQ=true\n"
CONFIG = '{{"Network": "10.1.0.0/16", "Backend": {{"Type": "{}"}}}}'
# What programs write by themselves.
OTHERS = "/etc/docker /opt /root /tmp /var/cache /var/log /var/lib/apt /var/lib/dpkg /var/lib/etcd "
OTHERS += "/var/lib/containerd /var/lib/docker /var/lib/systemd/catalog /var/lib/systemd/timers "
OTHERS += "/var/lib/systemd/random-seed"


class Wrong(Exception):
    """One line: what is not as it should be."""


def check(holds: object, text: str) -> None:
    """Raise `Wrong` unless it holds."""
    if not holds:
        raise Wrong(text)


def make_root(suite: str, root: Path) -> None:
    """A clean Debian with what the hosts need beside flannel, and no service that has run."""
    bootstrap = ("debootstrap", "--variant=minbase", suite, str(root), MIRROR)
    packages = f"{PACKAGES} {LATER.get(suite, '')}"
    install = (
        f"{NO_SERVICES}; apt-get update -q; apt-get install -qy --no-install-recommends {packages}"
    )
    tidy = "apt-get clean; rm /usr/sbin/policy-rc.d"
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
    inside = ("chroot", str(root), "sh", "-ec", f"{install}; {tidy}")
    for command in (bootstrap, inside):
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        check(
            done.returncode == 0, f"cannot make {root}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def make_debs(into: Path, wheelhouse: Path | None) -> tuple[Path, Path]:
    """The package twice: as it is, and as a later version."""
    made: list[Path] = []
    for version in ("1.0~trial1", "1.0~trial2"):
        given = wheelhouse or (into / "wheelhouse" if made else None)
        command = [sys.executable, str(CHECKOUT / "dist/make_deb.py"), f"--into={into}"]
        command += [f"--version={version}", *([f"--wheelhouse={given}"] if given else [])]
        done = subprocess.run(command, capture_output=True, text=True)
        check(done.returncode == 0, done.stdout + done.stderr)
        made.append(next(into.glob(f"flannel_{version}_*.deb")))
    return made[0], made[1]


class Trial:
    """The two hosts."""

    def __init__(self, world: World, root: Path, debs: tuple[Path, Path]) -> None:
        empty = world.directory / "nothing"
        empty.mkdir()
        self.one, self.other = (
            Booted(world.add_host(label), empty, root) for label in ("h1", "h2")
        )
        self.first, self.second = (f"/opt/{each.name}" for each in debs)
        self.one.write("/etc/default/etcd", ETCD)
        for host in (self.one, self.other):
            for deb in debs:
                host.write(f"/opt/{deb.name}", deb.read_bytes())
            host.write("/opt/image.tar", image(host.host.label))
        self.one.boot("etcd.service")
        self.other.boot()
        self.one.wait_active("etcd.service")
        self.other.wait_active("dbus.service")
        self.hosts = (self.one, self.other)

    def apt(self, host: Booted, *words: str) -> str:
        """apt-get, which may not hang."""
        command = (
            "env",
            "DEBIAN_FRONTEND=noninteractive",
            "timeout",
            "300",
            "apt-get",
            "-qy",
            *words,
        )
        done = host.try_run(*command)
        check(done.returncode == 0, f"apt-get {words}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def install(self) -> None:
        """Installed, it waits for the operator, and docker does not wait for it."""
        for host in self.hosts:
            self.apt(host, "install", self.first)
            for name, value in (("ActiveState", "inactive"), ("UnitFileState", "disabled")):
                found = host.show("flanneld.service", name)
                check(found == value, f"flanneld is {found} after its installation")
            host.run("timeout", "120", "systemctl", "enable", "--now", "docker.service")
            check("172.17." in docker0(host), "docker has no subnet of its own choice")
            host.run(
                "sh", "-c", "man -w flanneld flannel && test -s /usr/share/doc/flannel/copyright"
            )

    def configure(self) -> None:
        """README's steps, from /etc/default/flanneld on."""
        for host in self.hosts:
            host.run("sh", "-c", f"printf '{VARIABLES}' >>/etc/default/flanneld")
            host.run("timeout", "60", "systemctl", "enable", "flanneld.service")
            host.run("timeout", "60", "systemctl", "start", "--no-block", "flanneld.service")
        self.set_config("vxlan")
        for host in self.hosts:
            self.join(host)
        self.wait_pages()

    def join(self, host: Booted) -> None:
        """Wait for the lease, and give it to docker."""
        # A host that has lost its identity asks the holder of its lease for a minute.
        has_subnet = ("test", "-e", "/run/flannel/subnet.env")
        wait_for(lambda: host.try_run(*has_subnet).returncode == 0, 150, "a subnet")
        host.wait_active("flanneld.service")
        restart_docker(host)
        found = docker0(host)
        check(f"inet {subnet(host)} " in found, f"docker0 has not the lease: {found}")
        host.try_run("docker", "rm", "-f", "web")
        host.run("docker", "import", "/opt/image.tar", IMAGE)
        host.run(
            "docker", "run", "-d", "--name=web", IMAGE, "httpd", "-f", "-p", "80", "-h", "/www"
        )

    def set_config(self, backend: str) -> None:
        """Let the whole network use another backend."""
        config = CONFIG.format(backend)
        self.one.run("timeout", "60", "flannel", "config", "set", "--yes", config)

    def wait_pages(self) -> None:
        """Containers of both hosts read each other's page."""
        for host, peer in (self.hosts, self.hosts[::-1]):
            wget = ("timeout", "20", "wget", "-qO-", f"http://{web(peer)}/")
            wait_page(host, wget, f"this is {peer.host.label}\n")

    def upgrade(self, host: Booted, deb: str) -> int:
        """Install a package while pings go from this host to the other's container: those lost."""
        target = web(self.hosts[host is self.one])
        wait_for(lambda: ping(host.host, target) is not None, 60, "a ping")
        before = host.show("flanneld.service", "MainPID")
        # Few enough that udp's device has room for those that wait for the next flanneld.
        with Pinger(host.host, target, 5) as pinger:
            self.apt(host, "install", "--reinstall", deb)
            wait_for(
                lambda: host.show("flanneld.service", "MainPID") not in (before, "0"),
                120,
                "a restart",
            )
            host.wait_active("flanneld.service")
            wait_for(lambda: ping(host.host, target) is not None, 60, "a ping")
        kept = host.run("cat", "/etc/default/flanneld")
        check(VARIABLES in kept, "the upgrade has changed /etc/default/flanneld")
        return pinger.lost

    def purge(self, host: Booted, before: set[str]) -> None:
        """Nothing is left: no file, no device, no route, no rule."""
        done = self.apt(host, "purge", "flannel")
        left = files(host) - before
        check(not left, f"the purge has left {sorted(left)}")
        check(not before - files(host), f"it has taken {sorted(before - files(host))}")
        commands = ("ip -o link", "ip route show proto 102", "ip nexthop", "nft list ruleset",
                    "iptables-save", "systemctl list-unit-files", "ls /run", "dpkg -l")  # fmt: skip
        for command in commands:
            found = host.run(*command.split())
            check("flannel" not in found.lower(), f"{command} has: {found}\n{done}")
            check("10.1." not in found or command != "ip route show proto 102", found)


def wait_page(host: Booted, wget: tuple[str, ...], wanted: str) -> None:
    """Wait until the container of a host gets that page."""
    wait_for(
        lambda: host.try_run("docker", "exec", "web", *wget).stdout == wanted,
        90,
        f"page {wanted!r}",
    )


def restart_docker(host: Booted) -> None:
    """Restart it, as often as a trial does: its unit allows three starts a minute."""
    host.run("systemctl", "reset-failed", "docker.service")
    host.run("timeout", "120", "systemctl", "restart", "docker.service")


def docker0(host: Booted) -> str:
    """The addresses of docker's bridge."""
    return host.try_run("ip", "address", "show", "docker0").stdout


def subnet(host: Booted) -> str:
    """FLANNEL_SUBNET."""
    found = re.search("FLANNEL_SUBNET=(.*)", host.run("cat", "/run/flannel/subnet.env"))
    check(found, "subnet.env has no subnet")
    assert found is not None
    return found[1]


def web(host: Booted) -> IPv4Address:
    """The address of its container."""
    where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return IPv4Address(host.run("docker", "inspect", "-f", where, "web").strip())


def files(host: Booted) -> set[str]:
    """All files of a host that no program changes by itself."""
    paths = " -o ".join(f"-path {each}" for each in OTHERS.split()).split()
    prune = ("(", *paths, ")", "-prune")
    return set(
        host.run("find", "/", "-xdev", *prune, "-o", "!", "-type", "d", "-print").splitlines()
    )


def run(world: World, root: Path, debs: tuple[Path, Path]) -> None:
    """All of it.

    :raises Wrong: at the first fault.
    """
    step = Steps()
    step("two hosts boot")
    trial = Trial(world, root, debs)
    trial.one.run("timeout", "120", "systemctl", "start", "docker.service")
    trial.other.run("timeout", "120", "systemctl", "start", "docker.service")
    for host in trial.hosts:
        host.run("systemctl", "enable", "docker.service")
    before = files(trial.other)
    step("apt-get install ./flannel_*.deb")
    trial.install()
    step("the steps of the README")
    trial.configure()
    lease = subnet(trial.other)
    actions: list[tuple[str, Callable[[], int]]] = [
        ("upgrade under vxlan", lambda: trial.upgrade(trial.other, trial.second)),
        ("upgrade under udp", lambda: trial.upgrade(trial.other, trial.second)),
    ]
    for backend, (text, action) in zip(("vxlan", "udp"), actions, strict=True):
        trial.set_config(backend)
        trial.wait_pages()
        lost = action()
        step(f"{text}: {lost} pings lost")
        check(lost == 0, f"{text}: {lost} pings lost")
    check(subnet(trial.other) == lease, "the upgrade has changed the lease")
    trial.set_config("vxlan")
    trial.wait_pages()
    step("uninstalled, as docs/deploy.md has it: nothing is left")
    trial.other.run("timeout", "60", "systemctl", "disable", "--now", "flanneld.service")
    cleaned = trial.other.run("timeout", "60", "flannel", "cleanup", "--yes")
    check(re.search(r"released 10\.1\.\S+ of 192\.0\.2\.12", cleaned), cleaned)
    bip = "echo DOCKER_OPT_BIP=--bip=172.17.0.1/16 >/run/flannel/docker"
    trial.other.run("sh", "-ec", bip)
    restart_docker(trial.other)
    trial.purge(trial.other, before)
    restart_docker(trial.other)
    check("172.17.0.1/16" in docker0(trial.other), f"docker0 has {docker0(trial.other)}")
    for text in ("over docker's own subnet", "over an old lease, which docker remembers"):
        step(f"installed again {text}")
        trial.apt(trial.other, "install", trial.second)
        trial.other.run("sh", "-c", f"printf '{VARIABLES}' >>/etc/default/flanneld")
        trial.other.run("timeout", "60", "systemctl", "enable", "--now", "flanneld.service")
        trial.join(trial.other)
        trial.wait_pages()
        if text.startswith("over docker"):
            trial.purge(trial.other, before)  # of a host in use
            restart_docker(trial.other)
            check("inet 10.1." in docker0(trial.other), f"docker0 has {docker0(trial.other)}")
    step("done")


def main() -> int:
    """Run with the command line of this process."""
    parser = argparse.ArgumentParser(description="try the Debian package on booted hosts")
    parser.add_argument("suite", choices=("bookworm", "trixie"))
    parser.add_argument("--root", type=Path, help="keep the clean Debian there")
    parser.add_argument("--wheelhouse", type=Path, help="the wheels of `make dist`")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="flannel-deb-", dir="/var/tmp") as name,
        World() as world,
    ):
        root = (arguments.root or Path(name) / "root").resolve()
        try:
            if not (root / "etc/debian_version").exists():
                print(f"making a clean {arguments.suite} in {root}", flush=True)
                make_root(arguments.suite, root)
            (Path(name) / "debs").mkdir()
            debs = make_debs(Path(name) / "debs", arguments.wheelhouse)
            run(world, root, debs)
        except (Wrong, WorldError) as why:
            print(f"wrong: {why}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
