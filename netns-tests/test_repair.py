"""Changes by hand are reverted while containers talk: every fault, every backend."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from world import PREFIX, Container, Host, Pinger, World, ping, wait_for

# The two hosts lease below 10.1.100.0; what is above is the tests' to write.
NETWORK = {"Network": "10.1.0.0/16", "SubnetMax": "10.1.99.0"}
BACKENDS: dict[str, dict[str, Any]] = {
    "vxlan": {**NETWORK, "Backend": {"Type": "vxlan"}},
    "host-gw": {**NETWORK, "Backend": {"Type": "host-gw"}},
    "udp": NETWORK,
}
DEVICES = {"vxlan": "flannel.1", "host-gw": "eth0", "udp": "flannel0"}
N_PEERS = 8


def lease_value(backend: str, n: int) -> str:
    """A lease of a host that is not there, 192.0.2.<n>."""
    if backend == "udp":
        return f'{{"PublicIP":"192.0.2.{n}"}}'
    data = f',"BackendData":{{"VtepMAC":"02:00:00:00:00:{n:02x}"}}' if backend == "vxlan" else ""
    return f'{{"PublicIP":"192.0.2.{n}","BackendType":"{backend}"{data}}}'


def state(host: Host, device: str) -> dict[str, list[str]]:
    """All that a flanneld has made in the kernel, without numbers that differ after a rebuild."""
    link = host.try_run("ip", "-o", "link", "show", device).stdout
    return {
        "link": [
            *re.findall(r"<.*?\bUP\b|mtu \d+|link/\S+ \S+", link),
            *re.findall(r"inet \S+", host.try_run("ip", "-o", "-4", "addr", "show", device).stdout),
        ],
        "routes": _lines(host, "ip", "-N", "route", "show", "root", "10.1.0.0/16"),
        "nexthops": _lines(host, "ip", "-N", "nexthop"),
        "neighbours": [
            line for line in _lines(host, "ip", "neigh", "show", "dev", device) if "PERM" in line
        ],
        "fdb": _lines(host, "bridge", "fdb", "show", "dev", device) if device != "eth0" else [],
    }


def _lines(host: Host, *command: str) -> list[str]:
    return sorted(line.strip() for line in host.try_run(*command).stdout.splitlines())


class Pair:
    """Two hosts with a container each, and leases of eight more hosts that are not there."""

    def __init__(self, world: World, backend: str) -> None:
        self.world, self.backend = world, backend
        self.device = DEVICES[backend]
        world.configure(BACKENDS[backend])
        world.put_leases(
            {f"10.1.{n}.0-24": lease_value(backend, n) for n in range(101, 101 + N_PEERS)}
        )
        self.one, self.other = world.add_host("h1"), world.add_host("h2")
        for host in (self.one, self.other):
            host.start_flanneld("-iface=eth0")
        for host in (self.one, self.other):
            host.daemon.wait_ready()
        self.near: Container = self.one.add_container(1)
        self.far: Container = self.other.add_container(1)
        wait_for(lambda: self.routed() or backend == "udp", 10, "the routes")
        assert ping(self.near, self.far.address, 30) is not None

    def routed(self) -> bool:
        """Whether all peers have routes."""
        routes = "\n".join(state(self.one, self.device)["routes"])
        return len(re.findall("via", routes)) == N_PEERS + 1

    def has_repaired_soon(self, damage: Callable[[], object], logged: str) -> None:
        """Check that all entries are restored after ``damage``, and that the log has a line of it.

        The regular comparison comes every ten seconds, so a hint caused a repair within five.
        Without hints each attempt has to wait for the next one; a busy machine is not always slow.

        :param logged: the words of one repair that are the same if it is logged in several lines.
        """
        for _ in range(4):
            before, repairs = state(self.one, self.device), len(self.repairs())
            damage()
            began = monotonic()
            self._wait_repaired(before, repairs, logged)
            if monotonic() - began < 5:
                return
        raise AssertionError("repaired by the regular comparison alone")

    def _wait_repaired(self, before: dict[str, list[str]], repairs: int, logged: str) -> None:
        numbers = {kind: int(n) for n, kind in _COUNT.findall(logged)}

        def is_logged() -> bool:
            lines = self.repairs()[repairs:]
            if not numbers:
                return any(re.search(logged, line) for line in lines)
            # A comparison may run in the middle of the damage: then there are several lines, and
            # entries that are restored between two rounds of a flush are flushed again.
            counts = Counter[str]()
            for n, kind in _COUNT.findall("\n".join(lines)):
                counts[kind] += int(n)
            return counts.keys() == numbers.keys() and counts >= Counter(numbers)

        wait_for(
            lambda: state(self.one, self.device) == before and is_logged(),
            30,
            lambda: (
                f"{_difference(before, state(self.one, self.device))}{self.repairs()[repairs:]} "
                f"{self.one.daemon.last_words()}"
            ),
        )

    def repairs(self) -> list[str]:
        """The lines of the log about repairs."""
        return re.findall(rf"WARNING repaired {re.escape(self.device)}: .*", self.one.daemon.log)


@pytest.fixture(scope="module", params=list(BACKENDS))
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with World() as world:
        world.start_etcd()
        yield Pair(world, request.param)


# What `ip route flush` does; that of iproute2 6.1 itself fails on routes with nexthop objects.
FLUSH = "for route in $(ip route show proto 102 | cut -d' ' -f1); do ip route del $route; done"

_COUNT = re.compile(r"(\d+) (route|nexthop|ARP entr|FDB entr)")

FAULTS = [
    # backend, damage, text of the log: numbers and kinds, or other words
    ("vxlan", "ip route del 10.1.101.0/24", "1 route was changed or removed"),
    ("vxlan", "ip route replace 10.1.102.0/24 via 192.0.2.1 dev eth0", "1 route was"),
    ("vxlan", "ip route add 10.1.200.0/24 via 10.1.200.1 dev flannel.1 onlink", "1 route was"),
    ("vxlan", FLUSH, "9 routes were"),
    ("vxlan", "ip nexthop del id $((0x0a016800))", "1 route, 1 nexthop were"),
    ("vxlan", "ip nexthop flush", "9 routes, 9 nexthops were"),
    ("vxlan", "ip neigh del 10.1.103.0 dev flannel.1", "1 ARP entry was"),
    ("vxlan", "ip neigh replace 10.1.104.0 lladdr 02:00:00:00:00:01 dev flannel.1", "1 ARP entry"),
    ("vxlan", "ip neigh flush nud permanent dev flannel.1", "9 ARP entries were"),
    ("vxlan", "bridge fdb del 02:00:00:00:00:69 dev flannel.1", "1 FDB entry was"),
    (
        "vxlan",
        "bridge fdb replace 02:00:00:00:00:6a dst 192.0.2.9 dev flannel.1 self permanent",
        "1 FDB entry was",
    ),
    ("vxlan", "bridge fdb add 02:00:00:00:00:aa dst 192.0.2.9 dev flannel.1", "1 FDB entry was"),
    ("vxlan", "ip addr flush dev flannel.1", r"its address \S+ was gone"),
    ("vxlan", "ip addr add 10.1.9.9/32 dev flannel.1", "it had address 10.1.9.9/32"),
    ("vxlan", "ip link set flannel.1 down", "it was down"),
    ("vxlan", "ip link set flannel.1 address 02:00:00:00:00:99", "its MAC was 02:00:00:00:00:99"),
    ("vxlan", "ip link set flannel.1 mtu 1300", "its MTU was 1300"),
    ("vxlan", "ip link del flannel.1", "it was gone"),
    ("vxlan", "ip link set flannel.1 name x", "its name was x"),
    ("vxlan", "ip link set flannel.1 down name x", "its name was x; it was down"),
    (
        "vxlan",
        "ip link set flannel.1 name x && ip link property add dev x altname flannel.1",
        "its name was x",
    ),
    ("vxlan", "ip link set flannel.1 name x; ip link add flannel.1 type bridge", "its name was x"),
    ("vxlan", "ip link add br9 type bridge; ip link set flannel.1 master br9", "belonged to br9"),
    ("vxlan", "ip link set flannel.1 netns $OTHER", "it was gone"),
    ("vxlan", "ip link set flannel.1 netns $OTHER name x", "it was gone"),
    ("host-gw", "ip route del 10.1.101.0/24", "1 route was"),
    ("host-gw", "ip route replace 10.1.102.0/24 via 192.0.2.1 dev eth0", "1 route was"),
    ("host-gw", FLUSH, "9 routes were"),
    ("host-gw", "ip nexthop flush proto 102", "9 routes, 9 nexthops were"),
    ("udp", "ip link set flannel0 down", "it was down"),
    ("udp", "ip link set flannel0 mtu 1300", "its MTU was 1300"),
    ("udp", "ip addr flush dev flannel0", r"its address \S+ was gone"),
    ("udp", "ip route flush dev flannel0", "the route to 10.1.0.0/16 was gone"),
    ("udp", "ip link del flannel0", "it was gone"),
    ("udp", "ip link set flannel0 name x", "its name was x"),
    ("udp", "ip link set flannel0 down; ip link set flannel0 name x", "its name was x; it was"),
    ("udp", "ip link set flannel0 netns $OTHER", "it was gone"),
]


@pytest.mark.parametrize(
    ("pair", "damage", "logged"),
    FAULTS,
    indirect=["pair"],
    ids=[" ".join(fault[:2]) for fault in FAULTS],
    scope="module",  # one world for each backend
)
def test_changes_by_others_are_reverted_and_logged(pair: Pair, damage: str, logged: str) -> None:
    other = pair.world.net
    with Pinger(pair.near, pair.far.address) as pinger:
        pinger.patience = 0  # pings that are lost meanwhile are not waited for
        pair.has_repaired_soon(
            partial(pair.one.run, "env", f"OTHER={other.name}", "sh", "-c", damage), logged
        )
        assert ping(pair.near, pair.far.address, 30) is not None
    assert pinger.received > 0
    assert pair.one.daemon.is_running
    strays = (other.run("ip", "-o", "link", "show"), pair.one.run("ip", "-o", "link", "show"))
    assert not re.search(r": (flannel\S+|x)[:@]", strays[0])
    assert ": x" not in strays[1]


class TestFights:
    @pytest.fixture
    def pair(self, world: World) -> Pair:
        return Pair(world, "vxlan")

    def test_a_program_that_keeps_undoing_repairs_is_named_and_repaired_after_growing_pauses(
        self, pair: Pair
    ) -> None:
        before = state(pair.one, pair.device)
        script = "while :; do ip route del 10.1.101.0/24 2>/dev/null; sleep 0.1; done"
        with pair.one.popen("sh", "-c", script) as fighter:
            try:
                logged = pair.one.daemon.wait_log("somebody keeps changing flannel.1.*", 15)
                world_lease = {"10.1.150.0-24": lease_value("vxlan", 150)}
                pair.world.put_leases(world_lease)  # others are served meanwhile
                wait_for(
                    lambda: "10.1.150.0/24" in str(state(pair.one, pair.device)["routes"]),
                    5,
                    "the route of a new lease",
                )
                # And what nobody fights over is repaired.
                pair.one.ip("neigh del 10.1.103.0 dev flannel.1")
                wait_for(
                    lambda: "10.1.103.0" in str(state(pair.one, pair.device)["neighbours"]),
                    5,
                    "another entry",
                )
            finally:
                fighter.kill()
        assert "Suspects: " in logged[0]
        # Later ones are not logged, unless the fighter itself did not run for the whole of a pause.
        fight = pair.one.daemon.log.partition("nobody changes flannel.1")[0]
        assert fight.count("repaired flannel.1: 1 route was") == 6
        pair.world.etcdctl("rm", f"{PREFIX}/subnets/10.1.150.0-24")
        # The pause may have grown to half a minute.
        wait_for(lambda: state(pair.one, pair.device) == before, 60, "the last repair")
        pair.one.daemon.wait_log("nobody changes flannel.1 any more", 60)

    def test_a_message_that_was_lost_is_made_up_for(self, pair: Pair) -> None:
        pair.has_repaired_soon(partial(self._overflow, pair), "1 route was")

    def _overflow(self, pair: Pair) -> None:
        with pair.one.daemon.frozen():
            noise = [f"route add 198.51.{n >> 8}.{n & 255}/32 dev eth0" for n in range(12000)]
            noise += [line.replace("add", "del") for line in noise]
            pair.one.ip(*noise)  # more than the socket holds, then what is lost
            pair.one.ip("route del 10.1.101.0/24")
            drops = [
                int(line.split()[8])
                for line in Path(f"/proc/{pair.one.daemon.process.pid}/net/netlink")
                .read_text()
                .splitlines()[1:]
            ]
        assert max(drops) > 0


def test_a_thousand_changes_end_with_exactly_the_right_tables(world: World) -> None:
    pair = Pair(world, "vxlan")
    process = Path(f"/proc/{pair.one.daemon.process.pid}")
    before, used = state(pair.one, pair.device), resources(process)
    names = [f"10.1.{n}.0-24" for n in range(120, 170)]
    changes: list[tuple[str, str | None]] = []
    for turn in range(10):
        changes += [(name, lease_value("vxlan", 20 + turn + n)) for n, name in enumerate(names)]
        changes += [(name, None) for name in names]
    world.etcd.change_leases(changes, pause=1 / 400)
    world.put_leases({"10.1.180.0-24": lease_value("vxlan", 180)})
    wait_for(lambda: "10.1.180" in str(state(pair.one, pair.device)), 10, "the last lease")
    world.etcdctl("rm", f"{PREFIX}/subnets/10.1.180.0-24")
    wait_for(
        lambda: state(pair.one, pair.device) == before,
        5,
        lambda: _difference(before, state(pair.one, pair.device)) + pair.one.daemon.last_words(),
    )
    assert len(pair.repairs()) == 0  # what we write ourselves is not taken for damage
    assert pair.one.daemon.log.count(" INFO peers: ") < 50
    wait_for(
        # A few: connections to etcd and threads that wait for it come and go.
        lambda: all(now <= then + 3 for now, then in zip(resources(process), used, strict=True)),
        10,
        lambda: f"{used} descriptors and threads; there are {resources(process)}",
    )


def resources(process: Path) -> tuple[int, int]:
    """Open descriptors and threads."""
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def _difference(before: dict[str, list[str]], now: dict[str, list[str]]) -> str:
    return "".join(
        f"{part}: -{set(before[part]) - set(now[part])} +{set(now[part]) - set(before[part])}; "
        for part in before
        if before[part] != now[part]
    )
