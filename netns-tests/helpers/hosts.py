"""A machine of the cluster: a namespace with flanneld, docker0 and containers."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, Self

import fork_server
from etcd_node import ETCD
from kept_fds import KeptFds
from namespaces import Namespace, WorldError, is_paused, wait_for

FLANNELD = Path(sys.executable).parent / "flanneld"


class Daemon:
    """A running flanneld, as systemd would start it: it tells us when it is ready."""

    def __init__(self, host: "Host", flags: tuple[str, ...], env: Mapping[str, str]) -> None:
        self.log_file = host.directory / "flanneld.log"
        self._notify = host.directory / f"notify{len(host.daemons)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._notify))
        self._kept = host.kept_fds
        self._ready = threading.Event()
        self._heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        if not any("etcd-endpoints" in flag for flag in flags):
            flags = (f"-etcd-endpoints={ETCD}", *flags)
        clean = {name: value for name, value in os.environ.items() if "FLANNELD" not in name}
        argv = [str(FLANNELD), f"-subnet-file={host.subnet_file}", f"-state-dir={host.state_dir}"]
        argv += flags
        prefix, kept_env, pass_fds = self._kept.handed_over()
        variables = {**clean, "NOTIFY_SOCKET": str(self._notify), **kept_env, **env}
        self.process: subprocess.Popen[Any] | fork_server.Forked
        with self.log_file.open("ab") as log:
            if fork_server.is_wanted({**kept_env, **env}):
                number = log.fileno()
                self.process = fork_server.start(host.name, argv, variables, number, number)
            else:
                self.process = host.popen(
                    *prefix, *argv, stdout=log, stderr=log, env=variables, pass_fds=pass_fds
                )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def log(self) -> str:
        """The log of this and earlier daemons of the host."""
        return self.log_file.read_text()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it has sent READY=1 with a lease."""
        return self._ready.is_set()

    def heard(self) -> bytes:
        """The next message to systemd; empty if there is none."""
        with suppress(queue.Empty):
            return self._heard.get_nowait()
        return b""

    def _listen(self) -> None:
        while True:
            message, fds, _, _ = socket.recv_fds(self._socket, 4096, 253)
            if not message:  # from close()
                return
            self._kept.hear(message, fds)
            if b"\nSTATUS=waiting: " in message:  # started, without a subnet
                continue
            if b"READY=1" in message.split(b"\n"):
                self._ready.set()
            self._heard.put(message)

    def wait_ready(self, seconds: float = 60) -> Self:
        """Wait for READY=1."""
        wait_for(
            lambda: self.is_ready or not self.is_running,
            seconds,
            lambda: f"flanneld to be ready; its last words: {self.last_words()}",
        )
        if not self.is_ready:
            raise WorldError(f"flanneld ended with {self.process.returncode}: {self.last_words()}")
        return self

    def wait_log(self, pattern: str, seconds: float = 30) -> re.Match[str]:
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

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it while the body runs, so that it sees the changes of the body as one."""
        self.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: is_paused(self.process.pid), 30, "flanneld to stop")
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return its exit status."""
        if self.is_running:
            self.process.send_signal(number)
        try:
            return self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise WorldError(f"flanneld did not end within 120 s of signal {number}") from None
        finally:
            self.close()

    def close(self) -> None:
        """Read its last messages, then close the socket."""
        if self._socket.fileno() >= 0:
            self._socket.sendto(b"", str(self._notify))
            self._listener.join()
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
        mtu, self._peer = env["FLANNEL_MTU"], f"veth{number}"
        self._host, peer = host, self._peer
        host.ip(f"link add {peer} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {self.name}",
                f"link set {peer} master docker0 up")  # fmt: skip
        self.ip(f"addr add {self.address}/{subnet.network.prefixlen} dev eth0", "link set eth0 up",
                f"route add default via {subnet.ip}")  # fmt: skip

    def remove(self) -> None:
        """Remove it; the kernel would remove its link some time after its namespace."""
        self._host.ip(f"link del {self._peer}")
        super().remove()


class Host(Namespace):
    """A machine of the cluster, with eth0 on the bridge br0 in the namespace ``net``.

    :param directory: made here, for its files; its last part is the host's label.
    """

    daemon: Daemon

    def __init__(
        self, net: Namespace, name: str, directory: Path, address: IPv4Address, mtu: int
    ) -> None:
        super().__init__(name)
        self.label = directory.name
        self.address = address
        self.directory = directory
        self.directory.mkdir()
        self.subnet_file = self.directory / "subnet.env"
        self.state_dir = self.directory / "state"
        self.daemons: list[Daemon] = []
        self.kept_fds = KeptFds()
        self.at_end: list[Callable[[], None]] = [self.kept_fds.clear]
        """Called when the host goes: what ends the other programs that it runs."""
        self.containers: list[Container] = []
        port = f"p{int(address) & 0xFF}"
        veth = f"link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {self.name}"
        net.ip(veth, f"link set {port} master br0 up")
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

    def remove_containers(self) -> None:
        """Stop docker, as one would say: its bridge and all containers are gone."""
        for container in self.containers:
            container.remove()
        self.containers = []
        self.ip("link del docker0")
