"""The firewall on the real kernel, by nft and by both iptables: what passes, what does not, what is
put back, and that nobody else's rules are touched."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
from namespaces import Namespace, wait_for
from pings import ping
from private_network import ip, private_network, run
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from world import Host, World

from flannel import sysctls
from flannel.firewall import Firewall, Guard, Rules
from flannel.firewall.nftables import COUNTERS, TABLE, Nftables, generation
from flannel.lease import Lease, LeaseAttrs

CONFIG = {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}
NETWORK, SUBNET = IPv4Network("10.1.0.0/16"), IPv4Network("10.1.5.0/24")
GUARD = Guard("flannel.1", 8472, 1)
RULES = Rules(NETWORK, SUBNET, masquerade=True, forward=True, guard=GUARD)

TOOLS = {
    "nft": {"nft": "nft"},
    **{
        f"iptables-{kind}": {
            "iptables": f"iptables-{kind}",
            "iptables-save": f"iptables-{kind}-save",
            "iptables-restore": f"iptables-{kind}-restore",
        }
        for kind in ("nft", "legacy")
    },
}
IPTABLES = pytest.mark.parametrize("iptables", ["iptables-nft", "iptables-legacy"])


def only(directory: Path, *tools: str) -> str:
    """A PATH on which there is nothing but these, and what starts flanneld in its namespace."""
    directory.mkdir(exist_ok=True)
    for tool in (*tools, "nsenter"):
        for name, target in TOOLS.get(tool, {tool: tool}).items():
            program = shutil.which(target)
            assert program is not None, target
            with suppress(FileExistsError):
                (directory / name).symlink_to(program)
    return str(directory)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A namespace for this test alone, where nobody minds what the programs cost."""
    monkeypatch.setattr("flannel.firewall._SHARE", 1)
    with private_network():
        yield


class Peers:
    """Leases of hosts with the addresses 172.16.0.1 and on."""

    def __init__(self, n: int) -> None:
        self.leases = {each.subnet: each for each in map(lease, range(1, n + 1))}

    def move(self, number: int, to: int) -> IPv4Network:
        """Lease the subnet of one host to another, which has another address."""
        subnet = lease(number).subnet
        self.leases[subnet] = Lease(subnet, lease(to).attrs)
        return subnet

    @property
    def addresses(self) -> set[str]:
        return {str(each.attrs.public_ip) for each in self.leases.values()}


def lease(number: int) -> Lease:
    attrs = LeaseAttrs(IPv4Address("172.16.0.0") + number, "vxlan", {})
    return Lease(IPv4Network((int(NETWORK.network_address) + number * 16, 28)), attrs)


def keeping(
    work: Callable[[Firewall], Awaitable[None]],
    rules: Rules = RULES,
    peers: Peers | None = None,
    device: str = "",
) -> Firewall:
    """Run ``work`` while the firewall is kept, looked at ten times a second."""
    peers = peers or Peers(2)
    firewall = Firewall(rules, lambda: peers.leases, 0.1, device)

    async def both() -> None:
        made = asyncio.Event()
        task = asyncio.create_task(firewall.keep(made.set))
        firewall.peers_changed(())
        await asyncio.wait_for(made.wait(), 20)
        try:
            await work(firewall)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(both())
    return firewall


async def nothing(_: Firewall) -> None:
    """Only that it is made."""


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the kernel's rules have no event
            await asyncio.sleep(0.02)


def ruleset() -> str:
    return run("nft", "-s", "list", "ruleset")


def listing() -> list[str]:
    """The ruleset, whatever the order of its tables."""
    return sorted(ruleset().splitlines())


def reaches_us() -> bool:
    """Whether our jump comes before what rejects everything."""
    text = ruleset()
    return text.index("jump FLANNEL-FWD") < text.index("reject")


def elements() -> set[str]:
    found = asyncio.run(Nftables("nft").read())
    return set(found.peers) if found is not None else set()


def has_peer(number: int) -> bool:
    shown = f"{{ {lease(number).attrs.public_ip} }}"
    get = ("nft", "get", "element", "ip", TABLE, "peers", shown)
    return subprocess.run(get, capture_output=True).returncode == 0


def saved(iptables: str, table: str) -> str:
    text = run(f"{iptables}-save", "-t", table)
    return re.sub(r"^#.*\n|(?<=[A-Z]) \[\d+:\d+\]$", "", text, flags=re.MULTILINE)


FOREIGN_NFT = """
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state invalid drop;
    }
    set flannel { type ipv4_addr; elements = { 192.0.2.7 } }
}
table ip other {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        ip saddr 10.9.0.0/16 masquerade;
    }
}
"""
FOREIGN_TABLES = {("inet", "filter"), ("ip", "other")}
FOREIGN_IPTABLES = """*filter
:DOCKER-USER - [0:0]
:DOCKER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 -m comment --comment "ours, not \\"flanneld forward\\"" -j ACCEPT
-A FORWARD -s 10.9.0.0/16 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
*nat
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A POSTROUTING -s 10.9.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
"""


def restore(iptables: str, text: str, *flags: str) -> None:
    done = subprocess.run(
        [f"{iptables}-restore", *flags], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("network")
class TestRules:
    def test_nft_alone_holds_masquerade_and_guard(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", only(tmp_path / "bin", "nft"))
            firewall = keeping(nothing)
        assert firewall.is_guarded
        assert firewall.repairs == 0
        assert re.findall(r"^table (.*) {", ruleset(), re.MULTILINE) == [f"ip {TABLE}"]
        assert elements() == {"172.16.0.1", "172.16.0.2"}

    @IPTABLES
    def test_iptables_alone_masquerades_and_says_that_nobody_guards(
        self,
        iptables: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", only(tmp_path / "bin", iptables))
            firewall = keeping(nothing)
        assert not firewall.is_guarded
        assert caplog.text.count("cannot guard UDP port 8472: there is no nft") == 1
        assert "-A FORWARD -m comment" in saved(iptables, "filter")
        nat = saved(iptables, "nat")
        assert nat.count("FLANNEL-POSTRTG") == 7  # declared, jumped to, 5 rules
        assert TABLE not in re.findall(r"^table ip (\S+)", ruleset(), re.MULTILINE)

    def test_the_older_iptables_is_left_alone_until_its_module_is_loaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        names = Path("/proc/thread-self/net/ip_tables_names")
        monkeypatch.setattr("flannel.firewall.iptables._LEGACY_TABLES", tmp_path / "names")
        monkeypatch.setenv("PATH", only(tmp_path / "bin", "iptables-legacy"))

        def in_use() -> list[str]:
            return names.read_text().split()

        async def load(firewall: Firewall) -> None:
            assert (firewall.repairs, in_use()) == (0, [])
            (tmp_path / "names").symlink_to(names)
            await until(lambda: "filter" in in_use())

        keeping(load, Rules(NETWORK, SUBNET, forward=True))
        assert "cannot masquerade" not in caplog.text
        (tmp_path / "names").unlink()
        keeping(nothing, RULES)
        said = "the kernel module ip_tables is not loaded, and flanneld may not load it; trying"
        assert caplog.text.count(said) == 1

    def test_without_either_it_says_so_and_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setenv("PATH", str(tmp_path))
            keeping(nothing)
        assert "cannot masquerade: there is neither nft nor iptables" in caplog.text

    def test_what_is_not_wanted_any_more_is_removed(self) -> None:
        empty = ruleset()
        keeping(nothing)
        assert ruleset() != empty
        keeping(nothing, Rules(NETWORK, SUBNET))
        assert "flannel" not in ruleset().lower()

    def test_a_firewall_made_again_is_the_same_and_counts_on(self) -> None:
        keeping(nothing)
        before = listing()
        run("nft", "add", "table", "ip", TABLE)
        text = run("nft", "list", "table", "ip", TABLE)
        counted = re.sub(r"(counter spoofed {\s+)packets 0 bytes 0", r"\1packets 7 bytes 490", text)
        assert counted != text
        replace = f"delete table ip {TABLE}\n{counted}"
        subprocess.run(["nft", "-f", "-"], input=replace, text=True, check=True)

        async def look(firewall: Firewall) -> None:
            assert (await firewall.counters())["spoofed"] == (7, 490)
            assert set(await firewall.counters()) == set(COUNTERS)

        assert keeping(look).repairs == 0
        assert listing() == before

    def test_forwarding_is_accepted_wherever_somebody_forbids_it(self) -> None:
        run("iptables-legacy", "-P", "FORWARD", "DROP")
        keeping(nothing)
        for iptables in ("iptables-nft", "iptables-legacy"):
            assert "-j FLANNEL-FWD" in saved(iptables, "filter")
        run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
        keeping(nothing)
        assert "FLANNEL" not in saved("iptables-legacy", "filter")

    def test_a_table_that_no_other_can_overrule_is_named(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        text = FOREIGN_NFT.replace("policy accept", "policy drop")
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        keeping(nothing)
        assert caplog.text.count("chain forward of table inet filter drops what it does not") == 1
        assert "accept ip saddr 10.1.0.0/16 and ip daddr 10.1.0.0/16 itself" in caplog.text


@pytest.mark.usefixtures("network")
class TestOthersRules:
    @IPTABLES
    def test_nothing_of_them_is_touched(self, iptables: str) -> None:
        def without_ours(text: str) -> str:
            return "".join(line for line in text.splitlines(True) if "FLANNEL" not in line)

        def others() -> tuple[str, ...]:
            listing = run("nft", "-j", "-s", "list", "ruleset")
            objects = [
                json.dumps(each)
                for each in json.loads(listing)["nftables"]
                for body in each.values()
                if (body.get("family"), body.get("table") or body.get("name")) in FOREIGN_TABLES
            ]
            tables = ("filter", "nat")
            return (*objects, *(without_ours(saved(iptables, table)) for table in tables))

        subprocess.run(["nft", "-f", "-"], input=FOREIGN_NFT, text=True, check=True)
        restore(iptables, FOREIGN_IPTABLES)
        run(iptables, "-P", "FORWARD", "DROP")
        before = others()

        async def disturb(firewall: Firewall) -> None:
            assert others() == before
            run("nft", "delete", "table", "ip", TABLE)
            run(iptables, "-F", "FLANNEL-FWD")
            await until(lambda: firewall.repairs == 2)
            await until(lambda: "172.16.0.1" in ruleset())

        keeping(disturb)
        assert others() == before
        forward = re.findall("^-A FORWARD .*-j (.*)", saved(iptables, "filter"), re.MULTILINE)
        assert forward == ["DOCKER-USER", "FLANNEL-FWD", "DOCKER", "ACCEPT", "ACCEPT"]
        keeping(nothing, Rules(NETWORK, SUBNET))
        assert others() == before
        assert "FLANNEL" not in saved(iptables, "filter") + saved(iptables, "nat")

    @IPTABLES
    def test_what_earlier_flannels_left_is_replaced(self, iptables: str) -> None:
        restore(iptables, FOREIGN_IPTABLES)
        before = saved(iptables, "filter"), saved(iptables, "nat")
        n, comment = NETWORK, '-m comment --comment "flanneld masq"'
        old = f"""*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -s {n} -j ACCEPT
-A FORWARD -d {n} -j ACCEPT
-A FORWARD -s {n} -m comment --comment "flanneld forward" -j ACCEPT
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.8.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
COMMIT
*nat
:FLANNEL - [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -s {n} -j FLANNEL
-A POSTROUTING -s {n} -d {n} {comment} -j RETURN
-A POSTROUTING -s {n} ! -d 224.0.0.0/4 {comment} -j MASQUERADE --random-fully
-A POSTROUTING ! -s {n} -d 10.1.7.0/24 -j RETURN
-A POSTROUTING ! -s {n} -d {n} -j MASQUERADE
-A POSTROUTING {comment} -j FLANNEL-POSTRTG
-A FLANNEL -d {n} -j ACCEPT
-A FLANNEL ! -d 224.0.0.0/4 -j MASQUERADE
-A FLANNEL-POSTRTG -s {n} ! -d 224.0.0.0/4 {comment} -j MASQUERADE
COMMIT
"""
        restore(iptables, old, "--noflush")
        for family, table in (("ip", "flannel-ipv4"), ("ip6", "flannel-ipv6")):
            chain = "chain postrtg { type nat hook postrouting priority srcnat; }"
            text = f"table {family} {table} {{\n{chain}\n}}"
            subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
        keeping(nothing)
        assert "flannel-ipv" not in ruleset()
        assert saved(iptables, "nat") == before[1]
        lines = saved(iptables, "filter").splitlines()
        assert [line for line in lines if "FLANNEL" not in line] == before[0].splitlines()
        assert len([line for line in lines if "FLANNEL" in line]) == 4
        assert "10.8.0.0" not in "".join(lines)


@pytest.mark.usefixtures("network")
class TestRepair:
    @pytest.mark.parametrize(
        "harm",
        [
            "nft flush ruleset",
            f"nft delete table ip {TABLE}",
            f"nft flush chain ip {TABLE} input",
            f"nft add rule ip {TABLE} input accept",
            f"nft insert rule ip {TABLE} postrouting accept",
            f"nft add element ip {TABLE} peers {{ 192.0.2.66 }}",
            f"nft flush set ip {TABLE} peers",
            "iptables -F",
            "iptables -D FORWARD 1",
            "iptables -I FLANNEL-FWD -j DROP",
            "iptables -I FORWARD -j REJECT",
        ],
    )
    def test_what_others_change_is_put_back(
        self, harm: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def damage(firewall: Firewall) -> None:
            before = listing()
            run(*harm.split())
            assert listing() != before
            if "REJECT" in harm:  # somebody's last word, and not ours to remove
                await until(reaches_us)
            else:
                await until(lambda: listing() == before)
            await until(lambda: firewall.repairs > 0)

        keeping(damage)
        assert 1 <= caplog.text.count("repaired the firewall") <= 2  # nft and iptables

    def test_what_others_change_again_and_again_is_said_once_and_counted(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def damage(firewall: Firewall) -> None:
            for n in (1, 2):
                run("nft", "delete", "table", "ip", TABLE)
                await until(lambda: firewall.repairs == n)  # noqa: B023 - awaited in its turn

        keeping(damage)
        assert caplog.text.count("repaired the firewall: table ip flannel was gone") == 1

    @pytest.mark.parametrize("rules", [RULES, replace(RULES, guard=None)], ids=["all", "unguarded"])
    def test_nothing_is_run_while_nothing_changes(
        self, rules: Rules, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        ran: list[object] = []

        async def wait(firewall: Firewall) -> None:
            from flannel import programs

            await asyncio.sleep(0.4)  # what the first look has written is looked at once more
            really = programs.run

            async def spy(argv: Any, **options: Any) -> Any:
                ran.append(argv)
                return await really(argv, **options)

            monkeypatch.setattr(programs, "run", spy)
            await asyncio.sleep(0.5)

        keeping(wait, rules)
        assert [argv for argv in ran if "legacy" not in argv[0]] == []  # type: ignore[index]
        assert caplog.text == ""

    def test_the_generation_tells_of_every_change_of_nftables_and_of_no_other(self) -> None:
        first = generation()
        assert first is not None
        assert generation() == first
        run("iptables-legacy", "-P", "FORWARD", "DROP")
        assert generation() == first
        run("iptables-nft", "-A", "FORWARD", "-j", "ACCEPT")
        second = generation()
        run("nft", "add", "table", "ip", "other")
        assert len({first, second, generation()}) == 3

    def test_peers_come_and_go_by_elements(self) -> None:
        peers = Peers(10_000)

        async def change(firewall: Firewall) -> None:
            handles = run("nft", "-a", "list", "chain", "ip", TABLE, "input")
            firewall.peers_changed({peers.move(1, to=20_000)})
            await until(lambda: has_peer(20_000))
            # They are the rules that were: those of a table made anew have other handles.
            assert run("nft", "-a", "list", "chain", "ip", TABLE, "input") == handles

        assert keeping(change, peers=peers).repairs == 0
        assert elements() == peers.addresses

    def test_every_change_arrives_whenever_it_comes(self) -> None:
        peers = Peers(3)

        async def change(firewall: Firewall) -> None:
            for n in range(4, 40):  # some of them at the moment of a look
                firewall.peers_changed({peers.move(n, to=n), peers.move(1, to=n + 100)})
                await until(lambda: has_peer(n) and has_peer(n + 100))  # noqa: B023 - as above

        assert keeping(change, peers=peers).repairs == 0
        assert elements() == peers.addresses

    def test_many_changes_are_few_calls_of_nft(self, monkeypatch: pytest.MonkeyPatch) -> None:
        peers = Peers(10)
        written: list[object] = []

        async def change(firewall: Firewall) -> None:
            from flannel import programs

            really = programs.run

            async def spy(argv: Any, **options: Any) -> Any:
                if argv[-2:] == ["-f", "-"]:
                    written.append(argv)
                return await really(argv, **options)

            monkeypatch.setattr(programs, "run", spy)
            for n in range(1000):
                firewall.peers_changed({peers.move(1 + n % 10, to=100 + n)})
                await asyncio.sleep(0.001)
            await until(lambda: has_peer(1099))

        assert keeping(change, peers=peers).repairs == 0
        assert 0 < len(written) < 100
        assert elements() == peers.addresses

    def test_sysctls_of_the_device_are_set_and_put_back(self) -> None:
        ip("link add flannel.1 type vxlan id 1 dstport 8472")
        path = Path("/proc/thread-self/root/proc/sys/net/ipv4/conf/flannel.1")
        for name, value in (("rp_filter", "0"), ("accept_redirects", "1"), ("send_redirects", "1")):
            (path / name).write_text(value)

        async def disturb(firewall: Firewall) -> None:
            assert sysctls.ensure("flannel.1") == []
            assert (path / "rp_filter").read_text() == "1\n"
            (path / "rp_filter").write_text("0")
            await until(lambda: firewall.repairs == 1)
            assert (path / "rp_filter").read_text() == "1\n"

        keeping(disturb, device="flannel.1")


RECEIVE = """
import socket, sys
with socket.socket(type=socket.SOCK_DGRAM) as receiver:
    receiver.bind(("", 7777))
    print("listening", flush=True)
    while True:
        payload, sender = receiver.recvfrom(2000)
        print(payload.decode(errors="replace"), sender[0], flush=True)
"""


class Receiver:
    """What arrives at UDP port 7777 of a namespace: ``payload source``, a line each."""

    def __init__(self, where: Namespace) -> None:
        self._process = where.popen(
            sys.executable, "-c", RECEIVE, stdout=subprocess.PIPE, text=True
        )
        assert self.next() == "listening"

    def next(self) -> str:
        return self._process.stdout.readline().strip()  # type: ignore[union-attr]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def receivers() -> Iterator[Callable[[Namespace], Receiver]]:
    made: list[Receiver] = []

    def receive(where: Namespace) -> Receiver:
        made.append(Receiver(where))
        return made[-1]

    yield receive
    for receiver in made:
        receiver.close()


def send(where: Namespace, to: object, source: object = "", payload: str = "x") -> None:
    script = (
        "import socket\n"
        "with socket.socket(type=socket.SOCK_DGRAM) as sender:\n"
        f"    sender.bind(({str(source)!r}, 0))\n"
        f"    sender.sendto({payload!r}.encode(), ({str(to)!r}, 7777))\n"
    )
    where.run(sys.executable, "-c", script)


class TestMasquerade:
    @pytest.mark.parametrize("tool", TOOLS)
    def test_who_sees_whom(
        self, world: World, tool: str, receivers: Callable[[Namespace], Receiver]
    ) -> None:
        world.configure(CONFIG)
        one, other = world.add_host("h1"), world.add_host("h2")
        path = {"PATH": only(world.directory / "bin", tool)}
        one.start_flanneld("-iface=eth0", "-ip-masq", env=path)
        other.start_flanneld("-iface=eth0", "-ip-masq", "-ip-masq-except=198.51.100.0/24,192.0.2.1")
        for host in world.hosts:
            host.daemon.wait_ready()
            assert host.subnet_env["FLANNEL_IPMASQ"] == "true"
            world.net.ip(f"route add {host.subnet} via {host.address}")
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 5) is not None
        outside, peer, local = receivers(world.net), receivers(far), receivers(near)

        send(near, "192.0.2.1")
        assert outside.next() == "x 192.0.2.11"
        send(far, "192.0.2.1")  # excepted
        assert outside.next() == f"x {far.address}"
        send(near, far.address)  # within the overlay
        assert peer.next() == f"x {near.address}"
        send(one, far.address, one.address)  # from elsewhere into it: answers must come back
        assert peer.next() == f"x {one.subnet.network_address}"
        send(world.net, near.address)  # from elsewhere to a container of the host itself
        assert local.next() == "x 192.0.2.1"

    def test_without_the_flag_docker_is_told_to_do_it(self, world: World) -> None:
        world.configure(CONFIG)
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0").wait_ready()
        assert host.subnet_env["FLANNEL_IPMASQ"] == "false"
        assert "masquerade" not in host.run("nft", "list", "ruleset").lower()


class TestForward:
    @IPTABLES
    def test_packets_pass_dockers_policy_in_either_order(self, world: World, iptables: str) -> None:
        world.configure(CONFIG)
        one, other = world.add_host("h1"), world.add_host("h2")
        one.run(iptables, "-P", "FORWARD", "DROP")  # docker first
        path = {"PATH": only(world.directory / "bin", "nft", iptables)}
        for host in (one, other):
            host.start_flanneld("-iface=eth0", "-iptables-resync=1", env=path)
        for host in (one, other):
            host.daemon.wait_ready()
        other.run(iptables, "-P", "FORWARD", "DROP")  # docker second
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 5) is not None
        one.run(iptables, "-F")
        one.run(iptables, "-X")
        assert ping(near, far.address, 5) is not None
        one.daemon.wait_log("repaired the firewall: chains of iptables were changed")

    def test_it_is_left_alone_when_told_so(self, world: World) -> None:
        world.configure(CONFIG)
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0", "-iptables-forward-rules=false").wait_ready()
        assert "FLANNEL" not in host.run("iptables-save")


class TestGuard:
    def test_forged_packets_of_a_host_without_a_lease_are_dropped_and_counted(
        self, world: World, receivers: Callable[[Namespace], Receiver]
    ) -> None:
        world.configure(CONFIG)
        one, peer, stranger = (world.add_host(name) for name in ("h1", "h2", "stranger"))
        for host in (one, peer):
            host.start_flanneld("-iface=eth0", "-guard=false")
        for host in (one, peer):
            host.daemon.wait_ready()
        near, far = one.add_container(1), peer.add_container(1)
        assert ping(near, far.address, 5) is not None
        at_container, at_host = receivers(near), receivers(one)
        forged = forge(one, peer, near.address)
        # The packets are good enough to get in where nobody guards.
        send_frames(stranger, forged)
        assert at_container.next().startswith("from a stranger")

        one.daemon.stop()
        one.start_flanneld("-iface=eth0").wait_ready()
        send(far, near.address, payload="before")
        send(peer, one.subnet.network_address, payload="before")
        for receiver in (at_container, at_host):
            while not receiver.next().startswith("before "):
                pass
        send_frames(stranger, forged)
        # A container has CAP_NET_RAW in docker, and its host hears VXLAN on docker0 as well.
        send_frames(near, forge_from_container(one, peer, near))
        send(far, near.address, payload="genuine")
        send(peer, one.subnet.network_address, payload="genuine")
        assert at_container.next() == f"genuine {far.address}"
        assert at_host.next() == f"genuine {peer.subnet.network_address}"
        counters = dropped(one)
        assert counters == {"unknown_peer": 6, "spoofed": 2, "not_mine": 1, "wrong_interface": 1}

    def test_a_new_peer_is_let_in_and_one_that_left_is_not(self, world: World) -> None:
        world.configure(CONFIG)
        one, other = world.add_host("h1"), world.add_host("h2")
        one.start_flanneld("-iface=eth0").wait_ready()
        other.start_flanneld("-iface=eth0").wait_ready()
        near, far = one.add_container(1), other.add_container(1)
        assert ping(near, far.address, 5) is not None
        other.daemon.stop()
        key = str(other.subnet).replace("/", "-")
        world.etcdctl("rm", f"/coreos.com/network/subnets/{key}")
        peers = ("nft", "list", "set", "ip", TABLE, "peers")
        wait_for(lambda: str(other.address) not in one.run(*peers), 5, "the set without the peer")


def forge(one: Host, peer: Host, container: IPv4Address) -> list[bytes]:
    """Eight kinds of VXLAN packets as frames for h1's eth0; the last needs two."""
    mine, theirs = one.subnet.network_address, peer.subnet.network_address
    outer_mac = mac(one, "eth0")
    inner_mac = mac(one, "flannel.1")

    def frame(
        source: object, inner_source: object, to: object, *, size: int = 0, **udp: Any
    ) -> list[bytes]:
        payload = b"from a stranger" + bytes(size)
        inner = IP(src=str(inner_source), dst=str(to)) / UDP(sport=9, dport=7777) / payload
        vxlan = VXLAN(flags=8, vni=1) / Ether(dst=inner_mac, src="02:00:00:00:00:66") / inner
        outer = (
            IP(src=str(source), dst=str(one.address)) / UDP(sport=4444, dport=8472, **udp) / vxlan
        )
        parts = fragment(outer, 800) if size else [outer]
        return [bytes(Ether(dst=outer_mac) / part) for part in parts]

    stranger = "192.0.2.13"
    return [
        *frame(stranger, theirs + 2, container),  # in the name of a peer's container
        *frame(stranger, theirs, mine),  # of the peer itself, to the host
        *frame(stranger, container + 1, container),  # of a neighbour of the victim
        *frame(stranger, "198.51.100.7", container),  # of somebody on the internet
        *frame(stranger, theirs + 2, container, chksum=0),  # without a checksum
        *frame(stranger, theirs + 2, container, size=1200),  # in fragments
        *frame(peer.address, "198.51.100.7", container),  # a peer's own address forged as well
        *frame(peer.address, container + 1, container),
        *frame(peer.address, theirs + 2, one.address),  # to relay it into the underlay
    ]


def forge_from_container(one: Host, peer: Host, container: Any) -> list[bytes]:
    inner = IP(src=str(peer.subnet[2]), dst=str(container.address)) / UDP(dport=7777) / b"forged"
    vxlan = VXLAN(flags=8, vni=1) / Ether(dst=mac(one, "flannel.1")) / inner
    outer = IP(src=str(peer.address), dst=str(one.address)) / UDP(sport=4444, dport=8472) / vxlan
    return [bytes(Ether(dst=mac(one, "docker0")) / outer)]


def mac(host: Host, link: str) -> str:
    found: str = json.loads(host.run("ip", "-j", "link", "show", link))[0]["address"]
    return found


def send_frames(where: Namespace, frames: list[bytes]) -> None:
    script = (
        "import socket, sys\n"
        "with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:\n"
        "    wire.bind(('eth0', 0))\n"
        "    for frame in sys.argv[1:]:\n"
        "        wire.send(bytes.fromhex(frame))\n"
    )
    where.run(sys.executable, "-c", script, *(frame.hex() for frame in frames))


def dropped(host: Host) -> dict[str, int]:
    listing = json.loads(host.run("nft", "-j", "list", "counters", "table", "ip", TABLE))
    found = [each["counter"] for each in listing["nftables"] if "counter" in each]
    return {each["name"]: each["packets"] for each in found}


class TestPrivileges:
    @pytest.mark.parametrize("backend", ["vxlan", "udp"])
    def test_two_capabilities_are_left_and_everything_works_with_them(
        self, world: World, backend: str
    ) -> None:
        world.configure({"Network": "10.1.0.0/16", "Backend": {"Type": backend}})
        one, other = world.add_host("h1"), world.add_host("h2")
        path = {"PATH": only(world.directory / "bin", "nft", "iptables-legacy")}
        for host in (one, other):
            host.start_flanneld("-iface=eth0", "-ip-masq", "-iptables-resync=1", env=path)
        for host in (one, other):
            host.daemon.wait_ready()
        assert ping(one.add_container(1), other.add_container(1).address, 5) is not None
        one.run("nft", "flush", "ruleset")
        one.run("iptables-legacy", "-F")
        one.daemon.wait_log("repaired the firewall: table ip flannel was gone")
        one.daemon.wait_log("repaired the firewall: chains of iptables")
        threads = Path(f"/proc/{one.daemon.process.pid}/task")
        for thread in threads.iterdir():
            status = dict(
                line.split(":\t", 1) for line in (thread / "status").read_text().splitlines()
            )
            kept = f"{1 << 12 | 1 << 13:016x}"
            assert {name: status[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {
                "CapPrm": kept,
                "CapEff": kept,
                "CapBnd": kept,
            }
            assert status["CapInh"] == status["CapAmb"] == f"{0:016x}"
            assert status["NoNewPrivs"] == "1"

    def test_a_key_that_belongs_to_another_user_can_still_be_read(self, world: World) -> None:
        key, cert = (world.directory / name for name in ("key.pem", "cert.pem"))
        for path in (key, cert):
            path.write_text("never used with http endpoints")
            path.chmod(0o600)
        os.chown(key, 12345, 12345)
        world.configure(CONFIG)
        host = world.add_host("h1")
        host.start_flanneld("-iface=eth0", f"-etcd-keyfile={key}", f"-etcd-certfile={cert}")
        host.daemon.wait_ready()
        assert f"keeping CAP_DAC_READ_SEARCH: root does not own {key}" in host.daemon.log
