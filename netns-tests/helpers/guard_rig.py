"""Three hosts with a container each, and all that an attacker on the first one may use."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from attacks import Catcher, OtherNetwork, inner, tunnelled
from firewalls import only
from flannel_command import status_of
from namespaces import wait_for
from pings import ping
from world import Container, Host, World


@dataclass(frozen=True)
class Rig:
    """Three hosts with a container each; the first host is where the attackers are."""

    backend: str
    tool: str
    masquerade: bool
    hosts: tuple[Host, ...]
    containers: tuple[Container, ...]
    other: OtherNetwork
    catcher: Catcher
    world: World
    counted: dict[int, dict[str, int]] = field(default_factory=dict)

    @property
    def victim(self) -> Container:
        return self.containers[1]

    def payload(self, source: object) -> bytes:
        """A datagram's, for the second host, with a packet from ``source`` for the victim."""
        packet = inner(source, self.victim.address)
        return tunnelled(self.backend, packet, self.hosts[1])[0]

    @property
    def port(self) -> int:
        return 8285 if self.backend == "udp" else 8472

    @property
    def names(self) -> list[IPv4Address]:
        """Sources that are not the attackers' own."""
        a, b, c = self.hosts
        return [self.containers[2].address, c.subnet[0], a.subnet[77], b.subnet[78]]

    def caught(self) -> list[tuple[bytes, str]]:
        return self.catcher.caught(self.containers[2], self.victim.address)

    def newly_dropped(self, host: int = 0) -> dict[str, int]:
        """What a host has counted since the last call."""
        now = self._all_dropped(host)
        before, self.counted[host] = self.counted.get(host, {}), now
        return _difference(before, now)

    def wait_dropped(self, wanted: dict[str, int], host: int = 0) -> None:
        """Wait until a host has counted that since the last call, and nothing else.

        The kernel may have a packet in its hands when the system call that sent it has returned.
        """
        before = self.counted.get(host, {})

        def counted() -> dict[str, int]:
            return _difference(before, self._all_dropped(host))

        wait_for(
            lambda: counted() == wanted, 30, lambda: f"{wanted} to be counted, not {counted()}"
        )
        self.newly_dropped(host)

    def _all_dropped(self, host: int) -> dict[str, int]:
        daemon = status_of(self.hosts[host])
        return {**daemon["counters"], **daemon["firewall"]["dropped"]}


def _difference(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in now.items() if n != before.get(name)}


def build(world: World, kind: tuple[str, str, bool], stack: ExitStack) -> Rig:
    backend, tool, masquerade = kind
    world.start_etcd()
    world.configure({"Network": "10.1.0.0/16", "Backend": {"Type": backend}})
    world.net.ip("link add br1 type bridge", "link set br1 up")
    hosts = tuple(world.add_host(f"h{n}") for n in (1, 2, 3))
    for number, host in enumerate(hosts, 11):
        # A second network between the hosts, and a second address in the first one.
        world.net.ip(f"link add q{number} type veth peer name eth1 netns {host.name}",
                     f"link set q{number} master br1 up")  # fmt: skip
        host.ip(f"addr add 198.51.100.{number}/24 dev eth1", "link set eth1 up",
                f"addr add 192.0.2.{number + 100}/24 dev eth0")  # fmt: skip
        # As systemd has it: a source need only have some route.
        for name in ("all", "default"):
            host.run("sh", "-c", f"echo 2 > /proc/sys/net/ipv4/conf/{name}/rp_filter")
    flags = ("-iface=192.0.2.{}", *(("-ip-masq",) if masquerade else ()))
    for number, host in enumerate(hosts, 11):
        env = {"PATH": only(world.directory / tool, tool)} if host is hosts[0] else None
        host.start_flanneld(*(flag.format(number) for flag in flags), env=env)
    for host in hosts:
        host.daemon.wait_ready()
    containers = tuple(host.add_container(1) for host in hosts)
    for one in containers:
        for another in containers:
            assert ping(one, another.address, 30) is not None
    other = OtherNetwork(hosts[0], tool=tool)
    catcher = stack.enter_context(Catcher(containers[1]))
    return Rig(backend, tool, masquerade, hosts, containers, other, catcher, world)
