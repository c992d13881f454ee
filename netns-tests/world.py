"""Hosts, containers and an etcd made of network namespaces, for tests, the demo and benchmarks.

    namespace fl<pid>-net                      192.0.2.1/24
    ┌──────────────────────────────────────────────────────┐
    │ etcd :2379          bridge br0                       │
    └─────────────────┬──────────────────┬─────────────────┘
        veth          │                  │
    ┌─────────────────┴───┐  ┌───────────┴─────────┐
    │ eth0 192.0.2.11/24  │  │ eth0 192.0.2.12/24  │   namespaces fl<pid>-h1, -h2, ...
    │ flanneld            │  │ flanneld            │
    │ flannel.1           │  │ flannel.1           │
    │ docker0 10.1.x.1/24 │  │ docker0 10.1.y.1/24 │
    └──────┬──────┬───────┘  └──────┬──────┬───────┘
       veth│      │                 │      │
       10.1.x.2  .3             10.1.y.2  .3           namespaces fl<pid>-h1c1, -h1c2, ...

    with World() as world:
        world.start_etcd()
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0").wait_ready(10)
        container = host.add_container(1)

Everything is named after this process and removed at the end, however it ends; what a process
that died has left is removed by the next World.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, Self

PREFIX = "/coreos.com/network"
ETCD = "http://192.0.2.1:2379"
FLANNELD = Path(sys.executable).parent / "flanneld"

Completed = subprocess.CompletedProcess[str]


class WorldError(Exception):
    """Something of the world did not come about; the text says what and why."""


def wait_for(condition: Callable[[], Any], seconds: float, what: str | Callable[[], str]) -> Any:
    """Poll until ``condition()`` is true and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            text = what if isinstance(what, str) else what()
            raise WorldError(f"waited {seconds:g} s for {text}")
        time.sleep(0.02)
    return value


class Namespace:
    """A network namespace in which programs can be run."""

    def __init__(self, name: str) -> None:
        self.name = name
        _run("ip", "netns", "add", name)
        self.ip("link set lo up")

    def run(self, *command: str) -> str:
        """What a program prints; it has to succeed."""
        return _run("nsenter", f"--net=/run/netns/{self.name}", *command)

    def try_run(self, *command: str) -> Completed:
        """A program that may fail."""
        return subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.name}", *command], capture_output=True, text=True
        )

    def popen(self, *command: str, **options: Any) -> subprocess.Popen[Any]:
        """A program that goes on running."""
        return subprocess.Popen(["nsenter", f"--net=/run/netns/{self.name}", *command], **options)

    def ip(self, *commands: str) -> None:
        """Several ``ip`` commands, in one batch."""
        _run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(commands) + "\n")


class Daemon:
    """A running flanneld, as systemd would start it: it tells us when it is ready."""

    def __init__(self, host: "Host", flags: tuple[str, ...], env: Mapping[str, str]) -> None:
        self.log_file = host.directory / "flanneld.log"
        self._notify = host.directory / "notify"
        self._notify.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(str(self._notify))
        self._ready = False
        if not any("etcd-endpoints" in flag for flag in flags):
            flags = (f"-etcd-endpoints={ETCD}", *flags)
        clean = {name: value for name, value in os.environ.items() if "FLANNELD" not in name}
        with self.log_file.open("ab") as log:
            self.process = host.popen(
                str(FLANNELD),
                f"-subnet-file={host.subnet_file}",
                *flags,
                stdout=log,
                stderr=log,
                env={**clean, "NOTIFY_SOCKET": str(self._notify), **env},
            )

    @property
    def log(self) -> str:
        """What this and earlier daemons of the host have said."""
        return self.log_file.read_text()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it has sent READY=1."""
        with suppress(BlockingIOError):
            while not self._ready:
                self._ready = b"READY=1" in self._socket.recv(4096).split(b"\n")
        return self._ready

    def wait_ready(self, seconds: float = 15) -> Self:
        """Wait for READY=1."""
        wait_for(
            lambda: self.is_ready or not self.is_running,
            seconds,
            lambda: f"flanneld to be ready; its last words: {self.last_words()}",
        )
        if not self.is_ready:
            raise WorldError(f"flanneld ended with {self.process.returncode}: {self.last_words()}")
        return self

    def wait_log(self, pattern: str, seconds: float = 15) -> re.Match[str]:
        """Wait until the log matches."""
        found: re.Match[str] = wait_for(
            lambda: re.search(pattern, self.log),
            seconds,
            lambda: f"{pattern!r} in the log of flanneld, which ends: {self.last_words()}",
        )
        return found

    def last_words(self) -> str:
        """The end of the log, on one line."""
        return " | ".join(self.log.strip().splitlines()[-3:])

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return its exit status."""
        if self.is_running:
            self.process.send_signal(number)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise WorldError(f"flanneld did not end within 10 s of signal {number}") from None
        finally:
            self.close()

    def close(self) -> None:
        """Hear nothing more from it."""
        self._socket.close()

    def kill(self) -> None:
        """End it without a chance to do anything."""
        self.stop(signal.SIGKILL)


class Container(Namespace):
    """What docker would make: a namespace on the host's bridge."""

    def __init__(self, host: "Host", number: int) -> None:
        super().__init__(f"{host.name}c{number}")
        env = host.subnet_env
        subnet = IPv4Interface(env["FLANNEL_SUBNET"])
        self.address = subnet.network[1 + number]
        mtu, peer = env["FLANNEL_MTU"], f"veth{number}"
        host.ip(f"link add {peer} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {self.name}",
                f"link set {peer} master docker0 up")  # fmt: skip
        self.ip(f"addr add {self.address}/{subnet.network.prefixlen} dev eth0", "link set eth0 up",
                f"route add default via {subnet.ip}")  # fmt: skip


class Host(Namespace):
    """A machine of the cluster, with eth0 on the common bridge."""

    daemon: Daemon

    def __init__(self, world: "World", label: str, address: IPv4Address, mtu: int) -> None:
        super().__init__(f"{world.tag}-{label}")
        self.label = label
        self.address = address
        self.directory = world.directory / label
        self.directory.mkdir()
        self.subnet_file = self.directory / "subnet.env"
        self.daemons: list[Daemon] = []
        self.containers: list[Container] = []
        port = f"p{int(address) & 0xFF}"
        veth = f"link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {self.name}"
        world.net.ip(veth, f"link set {port} master br0 up")
        self.ip(f"addr add {address}/24 dev eth0", "link set eth0 up",
                "route add default via 192.0.2.1")  # fmt: skip
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    @property
    def subnet_env(self) -> dict[str, str]:
        """The lines of subnet.env."""
        lines = self.subnet_file.read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    @property
    def subnet(self) -> IPv4Network:
        """The subnet that was leased, as subnet.env tells docker."""
        return IPv4Interface(self.subnet_env["FLANNEL_SUBNET"]).network

    def start_flanneld(self, *flags: str, env: Mapping[str, str] | None = None) -> Daemon:
        """Start the installed flanneld here."""
        self.daemon = Daemon(self, flags, env or {})
        self.daemons.append(self.daemon)
        return self.daemon

    def add_container(self, number: int) -> Container:
        """A container with the subnet's address ``number`` + 1; makes docker0 if need be."""
        if not self.containers:
            env = self.subnet_env
            self.ip(f"link add docker0 mtu {env['FLANNEL_MTU']} type bridge",
                    f"addr add {env['FLANNEL_SUBNET']} dev docker0",
                    "link set docker0 up")  # fmt: skip
        container = Container(self, number)
        self.containers.append(container)
        return container


class World:
    """All of it; see the head of this file."""

    def __init__(self) -> None:
        _remove_leftovers()
        self.tag = f"fl{os.getpid()}"
        self.hosts: list[Host] = []
        self._etcd: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        # A signal unwinds like any error, so that everything is removed; a second one, or one that
        # reaches us twice, does not keep that from happening.
        self._handlers = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        }
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.tag}-"))
        try:
            self.net = Namespace(f"{self.tag}-net")
            self.net.ip("link add br0 type bridge", "addr add 192.0.2.1/24 dev br0",
                        "link set br0 up")  # fmt: skip
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for number in self._handlers:
            signal.signal(number, signal.SIG_IGN)
        processes = [daemon.process for host in self.hosts for daemon in host.daemons]
        if self._etcd is not None:
            processes.append(self._etcd)
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in processes:
            process.wait()
        for host in self.hosts:
            for daemon in host.daemons:
                daemon.close()
        _remove_namespaces(self.tag)
        shutil.rmtree(self.directory, ignore_errors=True)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start_etcd(self, *flags: str) -> None:
        """Start etcd, or start it again with the data it had."""
        peer = "http://127.0.0.1:2380"
        with (self.directory / "etcd.log").open("ab") as log:
            self._etcd = self.net.popen(
                "etcd", "--enable-v2", f"--data-dir={self.directory / 'etcd'}",
                f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}", "--logger=zap", *flags, stdout=log, stderr=log,
            )  # fmt: skip
        health = ("env", "ETCDCTL_API=2", "etcdctl", f"--endpoints={ETCD}", "cluster-health")
        wait_for(
            lambda: self.net.try_run(*health).returncode == 0,
            15,
            lambda: f"etcd; it says: {(self.directory / 'etcd.log').read_text()[-300:]}",
        )

    def stop_etcd(self, number: int = signal.SIGTERM) -> None:
        """End etcd by a signal; its data stay. SIGSTOP and SIGCONT freeze and thaw it."""
        assert self._etcd is not None
        self._etcd.send_signal(number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._etcd.wait()

    def etcdctl(self, *arguments: str) -> str:
        """Run etcdctl for the v2 API."""
        return self.net.run("env", "ETCDCTL_API=2", "etcdctl", f"--endpoints={ETCD}", *arguments)

    def configure(self, config: dict[str, Any] | str) -> None:
        """Write the network config."""
        text = config if isinstance(config, str) else json.dumps(config)
        self.etcdctl("set", f"{PREFIX}/config", text)

    def put_leases(self, values: Mapping[str, str], ttl: int = 86400) -> None:
        """Write many leases at once, by the last part of their keys."""
        script = (
            "import http.client, json, sys, urllib.parse\n"
            "connection = http.client.HTTPConnection('192.0.2.1', 2379)\n"
            "for key, value in json.load(sys.stdin).items():\n"
            f"    body = urllib.parse.urlencode({{'value': value, 'ttl': {ttl}}})\n"
            f"    connection.request('PUT', '/v2/keys{PREFIX}/subnets/' + key, body,\n"
            "        {'Content-Type': 'application/x-www-form-urlencoded'})\n"
            "    answer = connection.getresponse()\n"
            "    assert answer.status in (200, 201), answer.read()\n"
            "    answer.read()\n"
        )
        _run(
            "nsenter", f"--net=/run/netns/{self.net.name}", sys.executable, "-c", script,
            stdin=json.dumps(dict(values)),
        )  # fmt: skip

    def leases(self) -> dict[str, dict[str, Any]]:
        """etcd's nodes under subnets/ (value, ttl, ...), by the last part of their keys."""
        script = (
            "import sys, urllib.request\n"
            f"url = '{ETCD}/v2/keys{PREFIX}/subnets?quorum=true&sorted=true'\n"
            "print(urllib.request.urlopen(url).read().decode())\n"
        )
        done = self.net.try_run(sys.executable, "-c", script)
        if done.returncode != 0:
            return {}
        nodes = json.loads(done.stdout)["node"].get("nodes", [])
        return {node["key"].rpartition("/")[2]: node for node in nodes}

    def add_host(self, label: str, *, mtu: int = 1500) -> Host:
        """Another host; the first has the address 192.0.2.11."""
        address = IPv4Address("192.0.2.11") + len(self.hosts)
        host = Host(self, label, address, mtu)
        self.hosts.append(host)
        return host


def ping(container: Namespace, address: IPv4Address, seconds: float = 0) -> float | None:
    """The round-trip time in ms; None if there is no answer, tried again for ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        done = container.try_run("ping", "-n", "-c1", "-W1", str(address))
        found = re.search(r"time=([\d.]+) ms", done.stdout)
        if found:
            return float(found[1])
        if time.monotonic() >= deadline:
            return None


class Pinger:
    """A ping that goes on while the body runs, 100 a second; then tells what was lost."""

    def __init__(self, container: Namespace, address: IPv4Address) -> None:
        self._command = ("ping", "-n", "-i0.01", "-W1", str(address))
        self._container = container
        self.sent = self.received = 0

    @property
    def lost(self) -> int:
        """Pings without an answer."""
        return self.sent - self.received

    def __enter__(self) -> Self:
        self._process = self._container.popen(*self._command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=10)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found is not None, output
        self.sent, self.received = int(found[1]), int(found[2])


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, capture_output=True, text=True, input=stdin)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise WorldError(f"{' '.join(command)}: {said}")
    return done.stdout


def _namespaces() -> list[str]:
    names = Path("/run/netns")
    return [path.name for path in names.iterdir()] if names.is_dir() else []


def _remove_namespaces(tag: str) -> None:
    for name in _namespaces():
        if name.startswith(f"{tag}-"):
            subprocess.run(["ip", "netns", "del", name], check=False)


def _remove_leftovers() -> None:
    """Remove the namespaces and files of processes that are gone."""
    files = Path(tempfile.gettempdir())
    for name in [*_namespaces(), *(path.name for path in files.glob("fl*-*"))]:
        found = re.match(r"(fl(\d+))-", name)
        if found is not None and not Path("/proc", found[2]).exists():
            _remove_namespaces(found[1])
            shutil.rmtree(files / name, ignore_errors=True)
