"""The command `flannel`: its findings and its effects."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from etcd_node import PREFIX
from flannel_command import findings, flannel, planted, wait_check, wait_findings, wait_peer
from hosts import Host
from namespaces import wait_for
from overlays import UDP, VXLAN, peer_value, start
from world import World

ALLOC = {"Network": "10.1.0.0/16", "Backend": {"Type": "alloc"}}
IP_FORWARD = "sysctl -qw net.ipv4.ip_forward={}"


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[World, Host, Host]]:
    """Two healthy hosts on vxlan; each test leaves them unchanged."""
    with World() as world:
        world.start_etcd()
        # Otherwise flanneld repairs the planted faults.
        one, other = start(world, VXLAN, 2, "-iptables-forward-rules=false")
        world.configure(VXLAN)  # what is below their subnets may be reserved
        yield world, one, other


@pytest.fixture(scope="module")
def udp_pair() -> Iterator[tuple[World, Host, Host]]:
    """The same on udp."""
    with World() as world:
        world.start_etcd()
        one, other = start(world, UDP, 2)
        yield world, one, other


Pair = tuple[World, Host, Host]


class TestCheck:
    def test_nothing_is_found_where_all_is_well(self, pair: Pair, udp_pair: Pair) -> None:
        for _, one, other in (pair, udp_pair):
            for each in (one, other):
                wait_findings(each)
                wait_check(each, "all is well\n")

    def test_nothing_is_found_on_host_gw(self, world: World) -> None:
        one, other = start(world, {**VXLAN, "Backend": {"Type": "host-gw"}}, 2)
        wait_findings(one)
        assert wait_peer(one, "reachable")["address"] == str(other.address)

    def test_nothing_is_found_on_alloc(self, world: World) -> None:
        one, _ = start(world, ALLOC, 2)
        wait_findings(one)
        wait_peer(one, "reachable")

    @pytest.mark.parametrize(
        ("key", "value", "why"),
        [
            ("10.1.77.0-24", '{"PublicIP":"192.0.2.1"}', "of backend udp, not vxlan"),
            ("10.2.7.0-24", peer_value("192.0.2.1"), "not a /24 of 10.1.0.0/16"),
        ],
    )
    def test_check_finds_a_lease_of_another_config(
        self, pair: Pair, key: str, value: str, why: str
    ) -> None:
        world, one, _ = pair
        world.put_leases({key: value})
        try:
            found = wait_findings(one, "peer-not-ready")
        finally:
            world.etcdctl("rm", f"{PREFIX}/subnets/{key}")
        assert found["peer-not-ready"].endswith(f"is not of this network: its lease is {why}")

    def test_check_finds_that_the_kernel_does_not_forward(self, pair: Pair) -> None:
        _, one, _ = pair
        with planted(one, IP_FORWARD.format(0), IP_FORWARD.format(1)):
            found = wait_findings(one, "ip-forward")
        assert found == {"ip-forward": "net.ipv4.ip_forward is 0"}

    @pytest.mark.parametrize("tool", ["iptables", "iptables-legacy"])
    def test_check_finds_a_forward_policy_that_drops(self, pair: Pair, tool: str) -> None:
        _, one, _ = pair
        undo = f"{tool} -F FORWARD; {tool} -P FORWARD ACCEPT"
        with planted(one, f"{tool} -P FORWARD DROP", undo):
            found = wait_findings(one, "forward-drop")
            assert f"policy drop of {tool} filter FORWARD" in found["forward-drop"]
            one.run(tool, "-I", "FORWARD", "-s", "10.1.0.0/16", "-j", "ACCEPT")
            one.run(tool, "-I", "FORWARD", "-d", "10.1.0.0/16", "-j", "ACCEPT")
            wait_findings(one)

    def test_check_finds_a_chain_of_nftables_that_drops(self, pair: Pair) -> None:
        _, one, _ = pair
        chain = "{ type filter hook forward priority 0; policy drop; }"
        rules = f"add table inet mine; add chain inet mine strict {chain}"
        with planted(one, f"nft '{rules}'", "nft delete table inet mine"):
            found = wait_findings(one, "forward-drop")
        assert "policy drop of nft inet mine strict" in found["forward-drop"]

    def test_check_and_explain_find_a_rule_whose_mask_is_of_any_bits(self, pair: Pair) -> None:
        _, one, other = pair
        harmless = "FORWARD -s 10.0.0.1/255.0.255.0 -j DROP"
        with planted(one, f"iptables -A {harmless}", f"iptables -D {harmless}"):
            wait_findings(one)
            assert flannel(one, "explain", str(other.subnet[2])).returncode == 0
        rule = f"FORWARD -d {other.subnet[2]}/255.0.255.255 -j DROP"
        with planted(one, f"iptables -A {rule}", f"iptables -D {rule}"):
            found = wait_findings(one, "forward-drop")
            explained = flannel(one, "explain", str(other.subnet[2]))
        assert "/255.0.255.255 -j DROP drops" in found["forward-drop"]
        assert explained.returncode == 1
        assert "dropped by iptables filter FORWARD: -A FORWARD -d" in explained.stdout

    def test_check_and_explain_find_a_reject_at_the_end_of_a_firewall(self, pair: Pair) -> None:
        """As firewalld's: docker0 may send to the underlay, and all else is rejected at the end."""
        _, one, other = pair
        rules = (
            "table inet firewalld { chain filter_FORWARD { "
            "type filter hook forward priority 10; policy accept; "
            "ct state { established, related } accept; ct status dnat accept; "
            'iifname "lo" accept; jump zones; reject with icmpx type admin-prohibited; }; '
            'chain zones { iifname "docker0" goto docker; }; '
            'chain docker { oifname "docker0" accept; oifname "eth0" accept; }; }'
        )
        with planted(one, f"echo '{rules}' | nft -f -", "nft delete table inet firewalld"):
            found = wait_findings(one, "forward-drop")
            explained = flannel(one, "explain", str(other.subnet[2]))
        assert "nft inet firewalld filter_FORWARD: reject" in found["forward-drop"]
        assert "dropped by nft inet firewalld filter_FORWARD: reject" in explained.stdout

    def test_rules_that_accept_pings_and_drop_tcp_are_found(self, pair: Pair) -> None:
        """As by ufw's rules."""
        _, one, other = pair
        pings = "iptables -A FORWARD -p icmp -m icmp --icmp-type echo-request -j ACCEPT"
        undo = "iptables -F FORWARD; iptables -P FORWARD ACCEPT"
        with planted(one, f"{pings}; iptables -P FORWARD DROP", undo):
            wait_findings(one, "forward-drop")
            explained = flannel(one, "explain", str(other.subnet[2])).stdout
        assert "firewall    TCP dropped by policy drop of iptables filter FORWARD\n" in explained
        assert "firewall    ping accepted by iptables filter FORWARD: -A FORWARD -p" in explained

    @pytest.mark.parametrize("side", [0, 1], ids=["here", "there"])
    def test_check_finds_a_udp_port_that_is_filtered_in_one_direction(
        self, pair: Pair, side: int
    ) -> None:
        _, one, other = pair
        rule = "INPUT -p udp --dport 8472 -j DROP"
        with planted((one, other)[side], f"iptables -I {rule}", f"iptables -D {rule}"):
            # What is filtered here can be seen here.
            found = wait_findings(one, "peer-port", *(["input-drop"] if side == 0 else []))
        what = "answers a ping, but not through the overlay: UDP port 8472"
        assert what in found["peer-port"]

    def test_an_underlay_with_a_smaller_mtu_than_the_interface_is_found(self, pair: Pair) -> None:
        world, one, other = pair
        link = f"ip link set p{int(other.address) & 0xFF} mtu"
        with planted(world.net, f"{link} 1400", f"{link} 1500"):
            found = wait_findings(one, "path-mtu")
        # A veth lets 4 bytes more pass, for a VLAN tag (is_skb_forwardable).
        what = r"packets of more than 135[0-4] bytes do not get to 192\.0\.2\.12"
        assert re.search(what, found["path-mtu"])

    def test_check_finds_a_docker0_outside_the_lease(self, pair: Pair) -> None:
        _, one, _ = pair
        make = "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0"
        with planted(one, make, "ip link del docker0"):
            found = wait_findings(one, "docker0")
        assert found["docker0"].startswith("docker0 has 172.17.0.1/16, not 10.1.")

    def test_check_finds_an_overlapping_route(self, pair: Pair) -> None:
        _, one, other = pair
        route = f"{other.subnet.network_address}/25 via 192.0.2.1"
        with planted(one, f"ip route add {route}", f"ip route del {route}"):
            found = findings(one)
        assert f"route {route}" in found["overlap"]

    def test_check_finds_that_etcd_is_down_and_leases_are_still_shown(self, pair: Pair) -> None:
        world, one, _ = pair
        world.stop_etcd()
        try:
            found = wait_findings(one, "etcd-down")
            # flanneld knows them still.
            leases = flannel(one, "leases")
            wait_peer(one, "ready")
            status = flannel(one, "status")
        finally:
            world.start_etcd()
        assert "connection refused" in found["etcd-down"]
        assert "as flanneld last saw them" in leases.stdout
        assert "192.0.2.12" in leases.stdout
        assert "ready" in status.stdout
        wait_findings(one)

    def test_check_finds_a_dead_daemon_of_a_peer(self, pair: Pair) -> None:
        """Its device goes on carrying packets, and its lease stays."""
        _, one, other = pair
        other.daemon.kill()
        try:
            found = wait_findings(one, "peer-daemon-dead")
            wait_findings(other, "daemon-down")
        finally:
            other.start_flanneld("-iface=eth0").wait_ready()
        assert "192.0.2.12" in found["peer-daemon-dead"]
        wait_findings(one)

    def test_check_finds_a_dead_daemon_of_a_udp_peer(self, udp_pair: Pair) -> None:
        _, one, other = udp_pair
        other.daemon.kill()
        other.kept_fds.clear()  # systemd does not start it again
        try:
            found = wait_findings(one, "peer-daemon-dead")
        finally:
            other.start_flanneld("-iface=eth0").wait_ready()
        assert "nothing listens at UDP port 8285 of 192.0.2.12" in found["peer-daemon-dead"]
        wait_findings(one)

    def test_without_permission_the_command_reports_that_and_gives_no_verdict(
        self, pair: Pair
    ) -> None:
        _, one, other = pair
        socket = one.subnet_file.with_name("flanneld.sock")
        os.chown(socket, 65534, 65534)  # so that root without capabilities is nobody to it
        powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
        try:
            checked, status, explained = (
                flannel(one, *words, within=powerless)
                for words in (("check",), ("status",), ("explain", str(other.subnet[2])))
            )
        finally:
            os.chown(socket, 0, 0)
        assert checked.returncode == status.returncode == 1
        assert re.search("^FAULT daemon-unseen: .*: Permission denied;", checked.stdout)
        assert "daemon-down" not in checked.stdout
        assert "Permission denied; run flannel as root" in status.stdout
        assert "DOWN" not in status.stdout
        assert "masquerade  no: the other side sees" in explained.stdout
        assert explained.stdout.count("(perhaps: the firewall could not be read as a whole)") == 2

    def test_a_finding_has_fault_reason_and_cure_on_one_line(self, pair: Pair) -> None:
        _, one, _ = pair
        with planted(one, IP_FORWARD.format(0), IP_FORWARD.format(1)):
            wait_check(
                one,
                "FAULT ip-forward: net.ipv4.ip_forward is 0; the kernel does not pass packets "
                "between containers and other hosts -> sysctl -w net.ipv4.ip_forward=1, and in "
                "/etc/sysctl.d/\n",
            )


class TestCommands:
    def test_status_shows_the_state_of_the_host(self, pair: Pair) -> None:
        _, one, _ = pair
        wait_for(lambda: flannel(one, "status").returncode == 0, 30, "flanneld to answer")
        done = flannel(one, "status")
        for text in (f"{one.subnet}, renewed", "flannel.1, MTU 1450", "eth0 192.0.2.11, MTU 1500",
                     "http://192.0.2.1:2379, answered", "10.1.0.0/16, backend vxlan"):  # fmt: skip
            assert text in done.stdout
        assert json.loads(flannel(one, "status", "--json").stdout)["daemon"]["peers"] == 1

    @pytest.mark.parametrize(
        "command", ["status", "leases", "peers", "check", "explain", "config get", "config check"]
    )
    def test_json_has_the_members_that_are_documented(self, pair: Pair, command: str) -> None:
        _, one, other = pair
        words = [*command.split(), *([str(other.subnet[2])] if command == "explain" else [])]
        document = json.loads(flannel(one, *words, "--json").stdout)
        text = (Path(__file__).parent.parent / "docs/operate.md").read_text()
        (row,) = re.findall(rf"(?m)^\| `{command}` \| (.*) \|$", text)
        inner = document.get("findings", []) + document.get("steps", [])
        assert {*document, *(name for each in inner for name in each)} <= {
            *re.findall(r"`(\w+)`", row)
        }

    def test_status_while_daemon_and_etcd_are_down(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1)
        host.daemon.stop()
        done = flannel(host, "status")
        assert done.returncode == 1
        assert "flanneld    DOWN: cannot ask flanneld at" in done.stdout
        assert re.search(rf"{host.subnet} of 192\.0\.2\.11, ends in (1 d|23 h)", done.stdout)
        world.stop_etcd()
        done = flannel(host, "status")
        assert "etcd        DOWN: cannot list" in done.stdout
        assert "flannel.1, MTU 1450, up: packets flow on" in done.stdout
        assert flannel(host, "leases").returncode == 1

    def test_status_shows_that_the_tun_device_carries_nothing_without_flanneld(
        self, world: World
    ) -> None:
        (host,) = start(world, UDP, 1)
        host.daemon.stop()
        said = "flannel0, MTU 1472, up: without flanneld nothing is carried"
        assert said in flannel(host, "status").stdout

    def test_peers_are_shown_with_time_and_size(self, pair: Pair) -> None:
        _, one, other = pair
        peer = wait_peer(one, "ready")
        assert (peer["subnet"], peer["mtu"]) == (str(other.subnet), 1450)
        assert peer["rtt"] > 0
        row = r"192\.0\.2\.12 +vxlan +ready +[\d.]+ +1450"
        wait_for(lambda: re.search(row, flannel(one, "peers").stdout), 30, row)

    def test_explain_follows_a_packet_to_the_other_host(self, pair: Pair) -> None:
        _, one, other = pair
        done = flannel(one, "explain", str(other.subnet[2]))
        assert done.returncode == 0, done.stdout
        for text in (f"{one.subnet[2]} -> {other.subnet[2]}", f"{other.subnet} of 192.0.2.12",
                     f"via {other.subnet[0]} dev flannel.1", "is behind 192.0.2.12",
                     "UDP 192.0.2.11 -> 192.0.2.12 port 8472, VNI 1"):  # fmt: skip
            assert text in done.stdout
        one.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.1.0.0/16", "!", "-d",
                "10.1.0.0/16", "-j", "MASQUERADE")  # fmt: skip
        inside, outside = (
            flannel(one, "explain", str(address)).stdout
            for address in (other.subnet[2], "192.0.2.1")
        )
        one.run("iptables", "-t", "nat", "-F", "POSTROUTING")
        assert "masquerade  no:" in inside
        assert "masquerade  yes, by iptables nat POSTROUTING" in outside
        nowhere = flannel(one, "explain", "10.1.255.1")
        assert nowhere.returncode == 1
        assert "none: no host holds the subnet of 10.1.255.1" in nowhere.stdout

    def test_a_subnet_is_reserved_and_released(self, pair: Pair) -> None:
        world, one, _ = pair
        done = flannel(one, "reserve", "192.0.2.77", "10.1.77.0/24")
        assert done.stdout == "reserved 10.1.77.0/24 for 192.0.2.77\n"
        assert "ttl" not in world.leases()["10.1.77.0-24"]
        assert re.search(r"10\.1\.77\.0/24 +192\.0\.2\.77 +reserved", flannel(one, "leases").stdout)
        assert flannel(one, "reserve", "192.0.2.78", "10.1.77.0/24").returncode == 1
        refused = flannel(one, "release", "10.1.77.0/24")
        assert (refused.returncode, "this is no terminal" in refused.stderr) == (2, True)
        assert flannel(one, "release", "10.1.77.0/24", "--yes").returncode == 0
        wait_for(lambda: "10.1.77.0-24" not in world.leases(), 30, "the release")
        assert flannel(one, "release", "10.1.77.0/24", "--yes").returncode == 2

    def test_cleanup_removes_what_is_ours_and_nothing_else(self, world: World) -> None:
        one, _ = start(world, VXLAN, 2, "-ip-blackhole-route")
        one.ip("route add 198.51.100.0/24 via 192.0.2.1")
        wait_for(lambda: "blackhole" in one.run("ip", "route"), 30, "the blackhole route")
        assert flannel(one, "cleanup", "--yes").returncode == 2  # flanneld would put it back
        one.daemon.stop()
        before = one.run("ip", "route")
        assert "proto 102" in before
        one.run("nft", "add table ip mine")
        one.run("iptables", "-A", "FORWARD", "-j", "ACCEPT")
        assert "FLANNEL-FWD" in one.run("iptables-save")
        assert "table ip flannel" in one.run("nft", "list", "ruleset")
        # As Debian's su leaves it to root: nft and iptables are not in it.
        done = flannel(one, "cleanup", "--yes", within=("env", "PATH=/usr/bin:/bin"))
        assert done.returncode == 0, done.stderr
        assert "device flannel.1" in done.stdout
        after = one.run("ip", "route")
        assert after.splitlines() == [
            line for line in before.splitlines() if "proto 102" not in line and "nhid" not in line
        ]
        assert one.run("ip", "nexthop") == ""
        assert "-A FORWARD -j ACCEPT" in one.run("iptables-save")
        assert "table ip mine" in one.run("nft", "list", "ruleset")
        assert "lannel" not in one.run("nft", "list", "ruleset")
        assert "flannel" not in one.run("ip", "link")
        assert not one.subnet_file.exists()
        assert flannel(one, "cleanup").stdout == "there is nothing of ours on this host\n"
