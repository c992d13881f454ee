"""What the readers of rules think of a packet, beside what the kernel does with it.

Rules are made at random, loaded in a router's namespace by iptables or nft, and listed again as
check and explain list them. Datagrams are sent through; the listener says which arrived.
"""

import random
import select
import socket
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address

import pytest
from namespaces import Namespace, one_cpu
from world import World

from flannel.cli.rulesets import iptables, nft
from flannel.cli.rulesets.verdict import FORWARDED, Packet, judge

SENDER, LISTENER = IPv4Address("10.1.5.2"), IPv4Address("10.1.9.2")
PORTS = (80, 8472)
ALWAYS_OPEN = 9999
N_RULESETS = 40


class Road:
    """A sender, a router with links left and right, and a listener."""

    def __init__(self, world: World) -> None:
        self.router = Namespace(f"{world.tag}-router")
        self._ends = {}
        for name, address in (("left", SENDER), ("right", LISTENER)):
            end = self._ends[name] = Namespace(f"{world.tag}-{name}")
            link, gateway = f"link add {name} type veth peer name eth0 netns", address - 1
            self.router.ip(
                f"{link} {end.name}", f"addr add {gateway}/24 dev {name}", f"link set {name} up"
            )
            end.ip(f"addr add {address}/24 dev eth0", "link set eth0 up",
                   f"route add default via {gateway}")  # fmt: skip
        self.router.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self._listeners = {port: self._listen(port) for port in (*PORTS, ALWAYS_OPEN)}

    def _listen(self, port: int) -> socket.socket:
        listener = self._ends["right"].socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((str(LISTENER), port))
        listener.settimeout(200)
        return listener

    def close(self) -> None:
        for each in self._listeners.values():
            each.close()

    def arrives(self, port: int) -> bool:
        """Whether a datagram gets through: by the time that one sent after it has."""
        self._send(port)
        self._send(ALWAYS_OPEN)
        self._listeners[ALWAYS_OPEN].recv(64)
        arrived = bool(select.select([self._listeners[port]], [], [], 0)[0])
        if arrived:
            self._listeners[port].recv(64)
        return arrived

    def _send(self, port: int) -> None:
        # A new connection each time: another source port.
        with self._ends["left"].socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", (str(LISTENER), port))


@pytest.fixture
def in_order() -> Iterator[None]:
    with one_cpu():
        yield


@pytest.fixture(scope="module")
def road() -> Iterator[Road]:
    with World() as world:
        made = Road(world)
        made.arrives(PORTS[0])  # ARP is done
        yield made
        made.close()


MASKS = ("", "/8", "/31", "/255.0.255.255", "/0.0.0.255", "/255.255.0.0")
TARGETS = ("ACCEPT", "DROP", "RETURN", "REJECT")


def iptables_rule(chance: random.Random) -> str:
    """A rule of a chain, without its name; chain A comes before B."""

    def maybe_not() -> str:
        return chance.choice(("", "", "! "))

    options: list[Callable[[], str]] = [
        lambda: f"{maybe_not()}-s {chance.choice((SENDER, LISTENER))}{chance.choice(MASKS)}",
        lambda: f"{maybe_not()}-d {chance.choice((SENDER, LISTENER))}{chance.choice(MASKS)}",
        lambda: f"{maybe_not()}-i {chance.choice(('left', 'right', 'le+', '+'))}",
        lambda: f"{maybe_not()}-o {chance.choice(('left', 'right', 'ri+'))}",
        lambda: f"-p {chance.choice(('udp', 'tcp'))} --dport {chance.choice(('80', '1:99'))}",
        lambda: (
            f"-p udp -m multiport {maybe_not()}--dports {chance.choice(('80,443', '8000:8999'))}"
        ),
        lambda: f"-m conntrack {maybe_not()}--ctstate {chance.choice(('NEW', 'RELATED,INVALID'))}",
        lambda: f"-m mark {maybe_not()}--mark {chance.choice(('0', '0x4000/0x4000'))}",
        lambda: f"-m addrtype {maybe_not()}--dst-type {chance.choice(('LOCAL', 'UNICAST'))}",
        lambda: f"-m iprange {maybe_not()}--src-range 10.1.5.1-10.1.5.{chance.randint(1, 3)}",
        lambda: "-m limit --limit 1000/s",
        lambda: "-m comment --comment \"-j DROP 'x'\"",
    ]
    chosen = chance.sample(options, chance.randint(0, 2))
    texts: list[str] = []
    for option in chosen:
        text = option()
        if not any(text.split()[-2] in each for each in texts) and "-p" not in " ".join(texts):
            texts.append(text)
    return " ".join(texts)


def iptables_rules(chance: random.Random) -> str:
    lines = ["*filter", f":FORWARD {chance.choice(('ACCEPT', 'DROP'))}", ":A -", ":B -"]
    lines.append(f"-A FORWARD -p udp --dport {ALWAYS_OPEN} -j ACCEPT")
    for chain, further in (("FORWARD", ("A", "B")), ("A", ("B",)), ("B", ())):
        for _ in range(chance.randint(1, 3)):
            verb, target = "-j", chance.choice(TARGETS)
            if further and chance.random() < 0.5:
                verb, target = chance.choice(("-j", "-g")), chance.choice(further)
            lines.append(f"-A {chain} {iptables_rule(chance)} {verb} {target}")
    return "\n".join([*lines, "COMMIT", ""])


NFT_MATCHES = (
    "ip saddr 10.1.5.2", "ip saddr != 10.1.0.0/16", "ip saddr & 255.0.255.255 == 10.0.5.2",
    "ip daddr { 10.1.9.2, 10.1.9.9 }", 'iifname "left"', 'oifname != "right"', 'iifname "le*"',
    "udp dport 80", "udp dport != 80", "tcp dport != 80", "udp dport >= 1024",
    "ct state new", "ct state { established, new }", "ct state established,related",
    "ct status dnat", "meta l4proto { tcp, udp }", "meta l4proto != icmp", "meta mark 0",
    "meta mark & 0x4000 == 0x4000", "meta nfproto ipv6", "ip6 saddr != ::1", "meta protocol ip",
    "icmp type echo-request", "ip saddr . udp dport { 10.1.5.2 . 80 }", "fib daddr type local",
    "limit rate 1000/second", "ip daddr 10.1.9.2 ip protocol udp",
)  # fmt: skip
NFT_VERDICTS = (
    "accept", "drop", "return", "reject", "reject with icmpv6 type no-route", "continue",
    "meta mark set 1", "counter",
)  # fmt: skip
NFT_MAPS = (
    "udp dport vmap { 80 : drop, 8472 : accept }", "ct state vmap { new : return, invalid : drop }",
    'iifname vmap { "right" : drop, "left" : jump c }',
    "ip saddr . udp dport vmap { 10.1.5.2 . 80 : drop }",
)  # fmt: skip


def nft_rules(chance: random.Random) -> str:
    def rules(verdicts: tuple[str, ...]) -> str:
        found = []
        for _ in range(chance.randint(1, 4)):
            matches = " ".join(chance.sample(NFT_MATCHES, chance.randint(0, 2)))
            last = chance.choice(verdicts)
            if last.startswith(("udp", "ct", "iifname", "ip")):
                matches = ""
            found.append(f"{matches} {last}")
        return "\n".join(found)

    inner = rules(NFT_VERDICTS)
    base = rules((*NFT_VERDICTS, *NFT_MAPS, "jump c", "goto c"))
    policy = chance.choice(("accept", "drop"))
    hook = f"type filter hook forward priority 0; policy {policy};"
    hook += f"\nudp dport {ALWAYS_OPEN} accept"
    chains = f"chain c {{\n{inner}\n}}\nchain f {{\n{hook}\n{base}\n}}"
    return f"flush ruleset\ntable inet t {{\n{chains}\n}}\n"


def load(road: Road, *command: str, text: str) -> bool:
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/{road.router.name}", *command],
        input=text, capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode == 0


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("kind", ["iptables", "nft"])
def test_a_sure_verdict_is_what_the_kernel_does(road: Road, kind: str) -> None:
    chance = random.Random(17)
    n_loaded = n_sure = n_dropped = 0
    while n_loaded < N_RULESETS:
        text = iptables_rules(chance) if kind == "iptables" else nft_rules(chance)
        port = chance.choice(PORTS)
        command = ("iptables-restore",) if kind == "iptables" else ("nft", "-f", "-")
        if not load(road, *command, text=text):
            continue  # the program refuses the combination
        n_loaded += 1
        if kind == "iptables":
            chains = iptables.parse(road.router.run("iptables-save"), "iptables")
        else:
            chains = nft.parse(road.router.run("nft", "-j", "list", "ruleset"))
        verdict = judge(chains, FORWARDED, Packet(SENDER, LISTENER, "left", "right", "udp", port))
        arrived = road.arrives(port)
        n_sure += verdict.sure
        n_dropped += not arrived
        if verdict.sure:
            assert (verdict.outcome == "accept") is arrived, f"{verdict}\n{text}"
    assert n_sure > N_RULESETS // 2
    assert 3 < n_dropped < N_RULESETS - 3
