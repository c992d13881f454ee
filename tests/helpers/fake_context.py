"""A host of a small vxlan network, in memory, as the commands of `flannel` see it.

    world = World(tmp_path, monkeypatch)
    done = world.run("leases", "--json")
    done.status, done.lines, done.document

flanneld runs, etcd answers, and one peer is reachable, until a test changes that.
"""

import errno
import io
import json
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fake_host import HOST, FakeHost
from fake_programs import FakePrograms
from fake_store import FakeStore

from flannel.cli import followers, running
from flannel.cli.context import Context, DaemonDown
from flannel.cli.host_view import Host
from flannel.cli.main import _options, exit_status, parser, run
from flannel.cli.probe import Pinger, PortAnswer
from flannel.firewall import nfnetlink, tools
from flannel.firewall.removal import Part
from flannel.handover import daemon_json
from flannel.handover.subnet_env import SubnetEnv
from flannel.health.status import PARTS, Status, lease_document
from flannel.kernel.doors import Kernel
from flannel.kernel.entries import Fdb, Neighbour
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.links import Link, VxlanSettings, Way
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig
from flannel.options.table import parse
from flannel.stores import StoreHealth

CONFIG = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}'
OWN, PEER = IPv4Network("10.1.5.0/24"), IPv4Network("10.1.9.0/24")
PEER_HOST = IPv4Address("192.0.2.9")
PEER_TUNNEL = PEER.network_address
MAC = bytes((2, 0, 0, 0, 0, 9))
ETH0 = ExternalInterface(2, "eth0", 1500, HOST, HOST, (IPv4Interface("192.0.2.1/24"),))
TUNNEL = Link(4, "flannel.1", "vxlan", 1450, True, "02:00:00:00:00:05",
              VxlanSettings(1, 2, HOST, 8472, False, False), alias="flannel")  # fmt: skip
_PARSER = parser()
"""It takes most of the time of a command."""
DOCKER0 = Link(5, "docker0", "bridge", 1450, True, "")


@dataclass(frozen=True)
class Done:
    """What a command has left.

    :ivar out: its stdout; :ivar err: its stderr.
    """

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class World:
    """What a test arranges.

    :ivar pages: flanneld's documents by path, or the error of each question to it.
    :ivar reach: the size of the largest packet that gets to an address and back, in bytes.
    :ivar answers: of flannelds to probes; the others are ready.
    :ivar ports: of UDP ports that are asked about; the others are silent.
    :ivar terminal: what the operator types; None: stdin is not a terminal.
    :ivar stdin: what stands in for it instead.
    :ivar options: flags that every command is given.
    :ivar environ: FLANNELD_* variables.
    :ivar claims: of flannelds that run, by device or network.
    :ivar handed_over: what -hand-over has made.
    :ivar unseen_recipients: why some of that is not known.
    :ivar no_kernel: the error of each try to open the kernel's doors.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        # All in one directory: to make and remove more is what takes time in these tests.
        self.env_file = directory / "subnet.env"
        self.state = directory / "state"
        self.sysctls = directory
        self.options = [f"-subnet-file={self.env_file}", f"-state-dir={self.state}"]
        self.set_sysctl("ip_forward", 1)
        self.programs = FakePrograms(directory, monkeypatch)
        monkeypatch.setattr(tools, "_LEGACY_TABLES", directory / "ip_tables_names")
        self.daemon_json = directory / "daemon.json"
        self.docker_options = directory / "docker-options"
        monkeypatch.setattr(daemon_json, "DAEMON_JSON", self.daemon_json)
        monkeypatch.setattr(daemon_json, "DOCKER_OPTIONS", self.docker_options)
        self.nf_tables: set[tuple[str, str]] = set()
        monkeypatch.setattr(nfnetlink, "list_tables", lambda: self.nf_tables)
        self.claims: dict[str, str] = {}
        monkeypatch.setattr(running, "find_claims", lambda: self.claims)
        monkeypatch.setattr(followers, "PATIENCE", 0.0)
        self.store = FakeStore()
        self.store.configure(CONFIG)
        self.own = self.store.put(OWN, LeaseAttrs(HOST, "vxlan", {"VtepMAC": "x"}, "me"), 80000)
        self.peer = self.store.put(
            PEER, LeaseAttrs(PEER_HOST, "vxlan", {"VtepMAC": MAC.hex(":")}, "it"), 70000
        )
        self.pages: dict[str, Any] | DaemonDown = {
            "/status": status_document(self.own),
            "/peers": [lease_document(self.peer)],
        }
        self.reach = {PEER_TUNNEL: 1450, PEER_HOST: 1500}
        self.answers: dict[IPv4Address, PortAnswer] = {}
        self.ports: dict[tuple[IPv4Address, int], PortAnswer] = {}
        self.terminal: str | None = None
        self.stdin: io.StringIO | None = None
        self.environ: dict[str, str] = {}
        self.handed_over: list[Part] = []
        self.unseen_recipients: list[str] = []
        self.no_kernel: Exception | None = None
        self._make_kernel()
        self.write_env(SubnetEnv(IPv4Network("10.1.0.0/16"), IPv4Interface("10.1.5.1/24"), 1450,
                                 ip_masq=True))  # fmt: skip

    def _make_kernel(self) -> None:
        host = FakeHost()
        self.netlink, self.tables, self.kernel = host.netlink, host.tables, host.kernel
        self.netlink.add(TUNNEL)
        self.netlink.add(DOCKER0)
        self.netlink.address(TUNNEL.index, "10.1.5.0/32")
        self.netlink.address(DOCKER0.index, "10.1.5.1/24")
        self.netlink.ways = {
            PEER.network_address + 2: Way(TUNNEL.index, PEER_TUNNEL, IPv4Address("10.1.5.0")),
            PEER_HOST: Way(2, None, HOST),
        }
        self.tables.intrude(
            Neighbour(PEER_TUNNEL.packed, TUNNEL.index, MAC),
            Fdb(MAC, TUNNEL.index, PEER_HOST.packed),
        )

    @property
    def daemon(self) -> dict[str, Any]:
        """flanneld's document, to be changed."""
        return cast(dict[str, Any], cast(dict[str, Any], self.pages)["/status"])

    def write_env(self, env: SubnetEnv) -> None:
        lines = (f"{name}={value}\n" for name, value in env.variables().items())
        self.env_file.write_text("".join(lines))  # without the fsync of `subnet_env.write`

    def set_sysctl(self, name: str, value: int) -> None:
        path = self.sysctls / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def filter(self, *rules: str, policy: str = "ACCEPT", table: str = "filter") -> None:
        """Have an iptables with a chain FORWARD of this policy, and these lines."""
        others = "".join(f":{name} ACCEPT [0:0]\n" for name in ("INPUT", "OUTPUT", "POSTROUTING"))
        others += ":PREROUTING ACCEPT [0:0]\n" * (table == "raw")
        text = f"*{table}\n:FORWARD {policy} [0:0]\n{others}"
        lines = "".join(f"{rule}\n" for rule in rules)
        self.programs.install_iptables("iptables", "nf_tables", prints=f"{text}{lines}COMMIT\n")

    def lease(self, number: int, backend: str = "vxlan", **attrs: Any) -> Lease:
        """Another host's, 10.1.NUMBER.0/24 at 192.0.2.NUMBER."""
        made = LeaseAttrs(IPv4Address(f"192.0.2.{number}"), backend, **attrs)
        return self.store.put(IPv4Network(f"10.1.{number}.0/24"), made, 3600)

    def run(self, *argv: str) -> Done:
        """Run a command as `main` does."""

        async def command() -> int:
            arguments = _PARSER.parse_args([*argv, *self.options])
            context = FakeContext(
                _options(arguments, self.environ),
                arguments.json,
                getattr(arguments, "yes", False),
                self,
            )
            return await run(context, arguments)

        out, err = io.StringIO(), io.StringIO()
        with self._monkeypatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
            patched.setattr(sys, "stdin", self.stdin or Stdin(self.terminal))
            status = exit_status(command())
        return Done(status, out.getvalue(), err.getvalue())


class Stdin(io.StringIO):
    """A terminal at which ``typed`` is typed; None: no terminal."""

    def __init__(self, typed: str | None) -> None:
        super().__init__(typed or "")
        self._is_terminal = typed is not None

    def isatty(self) -> bool:
        return self._is_terminal


NOWHERE = cast(World, None)


@dataclass(frozen=True)
class FakeContext(Context):
    """The doors to a `World`."""

    world: World = NOWHERE

    @cached_property
    def store(self) -> FakeStore:
        return self.world.store

    async def ask_daemon(self, path: str) -> Any:
        if isinstance(self.world.pages, DaemonDown):
            raise self.world.pages
        return self.world.pages[path]

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[Kernel]:
        if self.world.no_kernel is not None:
            raise self.world.no_kernel
        yield self.world.kernel

    @asynccontextmanager
    async def host(self) -> AsyncIterator[Host]:
        async with super().host() as host:
            host.sysctls = self.world.sysctls
            yield host

    async def find_handed_over(self) -> tuple[list[Part], list[str]]:
        return self.world.handed_over, self.world.unseen_recipients

    def pinger(self) -> Pinger:
        return Pinger(Wire(self.world.reach), patience=0)

    async def ask_peers(self, addresses: Collection[IPv4Address]) -> dict[IPv4Address, PortAnswer]:
        if not self.options.probe_port:
            return {}
        return {each: self.world.answers.get(each, PortAnswer(ready=True)) for each in addresses}

    async def ask_port(self, address: IPv4Address, port: int) -> PortAnswer:
        return self.world.ports.get((address, port), PortAnswer())


class Wire(socket.socket):
    """A raw socket for ICMP, to which addresses answer at once, with packets up to a size.

    :param reach: that size in bytes, by address; the others are silent.
    """

    def __init__(self, reach: Mapping[IPv4Address, int]) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reach = reach
        self._received: deque[tuple[bytes, tuple[str, int]]] = deque()

    def sendto(self, data: bytes, address: tuple[str, int]) -> int:  # type: ignore[override]
        size = 20 + len(data)
        if size > 1500:
            raise OSError(errno.EMSGSIZE, "Message too long")
        if size <= self._reach.get(IPv4Address(address[0]), 0):
            self.receive(b"\0\0" + data[2:], address[0])  # an echo reply
        return len(data)

    def receive(self, icmp: bytes, source: str) -> None:
        """Have a packet arrive."""
        self._received.append((b"\x45" + bytes(19) + icmp, (source, 0)))

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:  # type: ignore[override]
        if not self._received:
            raise BlockingIOError
        return self._received.popleft()


def status_document(lease: Lease | None) -> dict[str, Any]:
    """The document of a flanneld that is ready; without a lease, of one that starts."""
    health = StoreHealth("http://192.0.2.7:2379", None, 0, 0)
    status = Status(parse([], {}), lambda: health)
    if lease is not None:
        network: Any = SimpleNamespace(device="flannel.1", mtu=1450, counters=dict,
                                       trouble=lambda: "")  # fmt: skip
        firewall: Any = SimpleNamespace(is_guarded=True, wants_guard=True, repairs=0, failures=0)
        peers = SimpleNamespace(peers={PEER: lease})
        status.serve(NetworkConfig.from_json(CONFIG), ETH0, peers, network, firewall)
        status.leased(lease, 40000)
        for part in PARTS:
            status.has(part)
    document = status.document()
    # This process sees no flannel.1.
    return {**document, "ready": True, "unready": ""} if lease is not None else document
