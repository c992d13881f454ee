"""udp: peers for which packets wait in this host must not cost the other peers a packet."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from flannel_command import flannel
from overlays import Pair, start_pair
from pings import Pinger
from world import Container, Host, World, ping, wait_for

CONFIG = {"Network": "10.1.0.0/16", "Backend": {"Type": "udp"}}
N_PEERS = 90
"""More than twice as many as fill 8 MB with 208 kB each."""

_DATAGRAMS = """
import socket, sys, time

payload, n_peers = int(sys.argv[1]) * b"x", int(sys.argv[2])
control = [(socket.IPPROTO_UDP, 103, (1400).to_bytes(2, sys.byteorder))]  # UDP_SEGMENT
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
    while True:
        for number in range(1, n_peers + 1):
            try:
                sender.sendmsg([payload], control, 0, (f"10.1.{number}.2", 9))
            except OSError:
                pass
            if number % 10 == 0:  # the device has room for 500
                time.sleep(0.002)
"""


@dataclass(frozen=True)
class Kind:
    """Why packets for the peers do not arrive: commands on the host, and the peers' addresses.

    In both, {} is the number of a peer.
    """

    address: str
    once: tuple[str, ...] = ()
    for_each: tuple[str, ...] = ()
    counter: str = "tx_stalled"


KINDS = {
    "absent from the link": Kind("192.0.2.{}"),
    "behind gateways that are absent": Kind(
        "198.18.0.{}", for_each=("ip route add 198.18.0.{}/32 via 192.0.2.{} dev eth0 onlink",)
    ),
    "behind a card that hardly sends": Kind(
        "198.18.0.{}",
        once=(
            "ip link add slow0 type veth peer name slow1",
            "ip link set slow0 up",
            "ip link set slow1 up",
            "ip addr add 198.18.0.254/24 dev slow0",
            "tc qdisc add dev slow0 root tbf rate 100kbit burst 70000 limit 50000000",
        ),
        for_each=("ip neigh add 198.18.0.{} lladdr 02:00:00:00:00:07 dev slow0 nud permanent",),
    ),
    "behind a firewall": Kind(
        "198.18.0.{}",
        once=(
            "ip route add 198.18.0.0/24 via 192.0.2.12",
            "nft add table ip blocking",
            "nft add chain ip blocking out { type filter hook output priority 0; }",
            "nft add rule ip blocking out ip daddr 198.18.0.0/24 drop",
        ),
        counter="tx_refused",
    ),
    "without a route": Kind(
        "198.18.0.{}",
        once=("ip route add unreachable 198.18.0.0/24",),
        counter="tx_refused",
    ),
}
ABSENT, SLOW = KINDS["absent from the link"], KINDS["behind a card that hardly sends"]


def counter(host: Host, name: str) -> int:
    status = json.loads(flannel(host, "status", "--json").stdout)
    count: int = status["daemon"]["counters"][name]
    return count


def add_peers(pair: Pair, kind: Kind) -> None:
    """Leases 10.1.1.0/24 and following, of peers that are not there."""
    numbers = range(100, 100 + N_PEERS)
    for command in kind.once:
        pair.one.run(*command.split())
    for command in kind.for_each:
        for number in numbers:
            pair.one.run(*command.replace("{}", str(number)).split())
    pair.world.put_leases(
        {
            f"10.1.{subnet}.0-24": json.dumps({"PublicIP": kind.address.replace("{}", str(number))})
            for subnet, number in enumerate(numbers, 1)
        }
    )
    wait_for(
        lambda: (
            json.loads(flannel(pair.one, "status", "--json").stdout)["daemon"]["peers"]
            == N_PEERS + 1
        ),
        30,
        "the peers",
    )


@contextmanager
def datagrams(container: Container, payload: int) -> Iterator[None]:
    """The container sends to all those peers for as long as the body runs."""
    command = (sys.executable, "-c", _DATAGRAMS, str(payload), str(N_PEERS))
    sender: subprocess.Popen[bytes] = container.popen(*command)
    try:
        yield
        assert sender.poll() is None
    finally:
        sender.kill()
        sender.wait()


@pytest.mark.parametrize(
    ("kind", "payload", "threads"),
    [
        *(pytest.param(kind, 1400, 1, id=name) for name, kind in KINDS.items()),
        pytest.param(ABSENT, 44 * 1400, 1, id="absent, super-packets"),
        pytest.param(ABSENT, 44 * 1400, 2, id="absent, super-packets, two threads"),
        pytest.param(SLOW, 44 * 1400, 1, id="behind a slow card, super-packets"),
    ],
)
def test_packets_for_unreachable_peers_cost_the_other_peers_nothing_and_are_counted(
    world: World, kind: Kind, payload: int, threads: int
) -> None:
    pair = start_pair(world, {**CONFIG, "Backend": {"Type": "udp", "Threads": threads}})
    other = pair.one.add_container(2)
    add_peers(pair, kind)
    with datagrams(other, payload):
        # On a busy machine the device is full for a moment, and drops pings as well.
        shares = (share_lost(pair, kind.counter) for _ in range(5))
        assert any(lost < 0.01 for lost in shares)
    assert counter(pair.one, "tx_congested") == 0


def share_lost(pair: Pair, name: str) -> float:
    """The share of pings that are lost while 10,000 packets for other peers are counted."""
    before = counter(pair.one, name)
    with Pinger(pair.near, pair.far.address) as pinger:
        pinger.wait_sent(300)
        # So many that the buffer has been full, if one of their packets waits.
        wait_for(lambda: counter(pair.one, name) > before + 10_000, 60, name)
        pinger.wait_sent(300)
    return pinger.lost / pinger.sent


def test_a_host_that_joins_the_link_is_reached_while_the_others_stay_absent(
    world: World,
) -> None:
    pair = start_pair(world, CONFIG)
    other = pair.one.add_container(2)
    add_peers(pair, ABSENT)
    with datagrams(other, 1400):
        wait_for(lambda: counter(pair.one, "tx_stalled") > 10_000, 60, "stalled packets")
        # The second host has the address of one more, and the subnet of it.
        pair.other.ip("addr add 192.0.2.100/24 dev eth0", "addr add 10.1.1.2/32 dev lo")
        received = pair.other.run(
            *("timeout", "30", sys.executable, "-c"),
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
            "s.bind(('192.0.2.100', 8285)); print(len(s.recv(2000)))",
        )
    assert int(received) == 1428
    assert ping(pair.near, pair.far.address, 30) is not None
