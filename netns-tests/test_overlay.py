"""The main job, end to end: installed daemons, real etcd, containers that ping each other."""

import json
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from overlays import (
    ALL,
    BOTH,
    HOST_GW,
    VXLAN,
    is_logged_once,
    log_lines,
    overlay,
    peer_value,
    start,
    start_pair,
    start_saved,
    ttl_of,
    wait_overlay,
)
from world import FLANNELD, PREFIX, Host, Pinger, World, ping, wait_for


class TestContainersReachEachOther:
    @ALL
    def test_every_container_answers_every_other(
        self, world: World, config: dict[str, Any]
    ) -> None:
        hosts = start(world, config, 3)
        containers = [host.add_container(number) for host in hosts for number in (1, 2)]
        for one in containers:
            for other in containers:
                assert ping(one, other.address, 30) is not None
        mtu = {"vxlan": 1450, "host-gw": 1500}.get(config.get("Backend", {}).get("Type"), 1472)
        near, far = containers[0], containers[-1]
        assert hosts[0].subnet_env["FLANNEL_MTU"] == str(mtu)
        for size, answered in ((mtu - 28, True), (mtu - 27, False)):
            seconds = 30 if answered else 1
            shown = near.try_run(*f"ping -c1 -W{seconds} -Mdo -s{size} {far.address}".split())
            assert (shown.returncode == 0) is answered

    @BOTH
    def test_a_container_is_seen_with_its_own_address(
        self, world: World, config: dict[str, Any]
    ) -> None:
        pair = start_pair(world, config)
        near, far = pair.near, pair.far
        receive = (
            "import socket\n"
            "receiver = socket.socket(type=socket.SOCK_DGRAM)\n"
            "receiver.bind(('', 7777))\n"
            "print('listening', flush=True)\n"
            "print(receiver.recvfrom(100)[1][0])\n"
        )
        send = (
            "import socket\n"
            "sender = socket.socket(type=socket.SOCK_DGRAM)\n"
            f"sender.sendto(b'x', ('{far.address}', 7777))\n"
        )
        with far.popen(
            sys.executable, "-c", receive, stdout=subprocess.PIPE, text=True
        ) as receiver:
            assert receiver.stdout is not None
            assert receiver.stdout.readline() == "listening\n"
            near.run(sys.executable, "-c", send)
            assert receiver.stdout.readline() == f"{near.address}\n"

    def test_etcd_and_subnet_env_have_the_bytes_that_upstream_writes(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1)
        ((key, node),) = world.leases().items()
        mac = json.loads(host.run("ip", "-j", "link", "show", "flannel.1"))[0]["address"]
        assert key == str(host.subnet).replace("/", "-")
        upstreams = peer_value("192.0.2.11", mac)
        # But for the member NodeID at the end, which upstream ignores.
        assert re.fullmatch(re.escape(upstreams[:-1]) + r',"NodeID":"[0-9a-f]{32}"}', node["value"])
        assert 86000 < node["ttl"] <= 86400
        first = host.subnet.network_address + 1
        assert host.subnet_file.read_text() == (
            "FLANNEL_NETWORK=10.1.0.0/16\n"
            f"FLANNEL_SUBNET={first}/24\n"
            "FLANNEL_MTU=1450\n"
            "FLANNEL_IPMASQ=false\n"
        )
        assert host.subnet_file.stat().st_mode & 0o777 == 0o644

    def test_a_host_behind_another_address_publishes_that_and_sends_from_its_own(
        self, world: World
    ) -> None:
        (host,) = start(world, VXLAN, 1, "-public-ip=203.0.113.5")
        (node,) = world.leases().values()
        assert json.loads(node["value"])["PublicIP"] == "203.0.113.5"
        assert "local 192.0.2.11 " in host.run("ip", "-d", "link", "show", "flannel.1")

    def test_alloc_leases_and_touches_nothing(self, world: World) -> None:
        (host,) = start(world, {"Network": "10.1.0.0/16", "Backend": {"Type": "alloc"}}, 1)
        (node,) = world.leases().values()
        assert re.fullmatch(r'{"PublicIP":"192\.0\.2\.11","NodeID":"[0-9a-f]{32}"}', node["value"])
        assert host.subnet_env["FLANNEL_MTU"] == "1500"
        assert overlay(host) == set()
        assert "flannel" not in host.run("ip", "link")

    def test_a_new_backend_removes_what_the_previous_one_made(self, world: World) -> None:
        one, other = start(world, VXLAN, 2)
        for host in (one, other):
            host.daemon.stop()
        world.configure(HOST_GW)
        for host in (one, other):
            host.start_flanneld("-iface=eth0").wait_ready()
        wait_overlay(one, other.subnet)
        wait_for(lambda: "flannel.1" not in one.run("ip", "link"), 30, "the other backend")
        assert ping(one.add_container(1), other.add_container(1).address, 30) is not None


class TestStarting:
    def test_a_daemon_that_waits_for_its_config_serves_as_soon_as_it_is_there(
        self, world: World
    ) -> None:
        host = world.add_host("h1")
        daemon = host.start_flanneld()  # the interface of the default route
        daemon.wait_log("no network config at /coreos.com/network/config")
        assert not daemon.is_ready
        world.configure('{"Network": "10.1.0.0/16", "Backend": {"Type": "ipip"}}')
        daemon.wait_log(
            "Backend.Type is 'ipip', and this version serves alloc, host-gw, udp, vxlan"
        )
        world.configure(VXLAN)
        daemon.wait_ready()
        assert "flannel.1" in host.run("ip", "link")

    def test_bad_configs_are_named_once_each_and_waited_on(self, world: World) -> None:
        host = world.add_host("h1")
        world.configure("not JSON")
        daemon = host.start_flanneld("-iface=eth0")
        daemon.wait_log("it is not JSON")
        for config, complaint in (
            ("null", "it is null, not an object"),
            ('{"Network":"10.1.0.0/16","SubnetLen":40}', "SubnetLen is 40: it must be"),
            ('{"Network":"127.0.0.0/16"}', "must not overlap 127.0.0.0/8"),
            ('{"Network":"10.1.0.0/16","Backend":{}}', "Backend.Type is missing"),
            ('{"Network":"10.1.0.0/16","Backend":{"Type":"warp"}}', "Backend.Type is 'warp'"),
            (
                '{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan","VNI":-1}}',
                "Backend.VNI is -1: it must be a whole number from 0",
            ),
        ):
            world.configure(config)
            daemon.wait_log(re.escape(complaint))
        time.sleep(1)  # it neither spins nor says anything every second
        assert daemon.log.count("waiting for another") == 7
        assert world.leases() == {}
        world.configure(VXLAN)
        daemon.wait_ready()

    def test_a_network_that_is_in_use_here_is_refused_before_anything_is_touched(
        self, world: World
    ) -> None:
        host = world.add_host("h1")
        host.ip("route add 10.1.8.0/24 via 192.0.2.1")
        world.configure(VXLAN)
        daemon = host.start_flanneld("-iface=eth0")
        daemon.wait_log(
            r"cannot use network 10\.1\.0\.0/16 .* route 10\.1\.8\.0/24 via 192\.0\.2\.1"
        )
        time.sleep(3)  # it looks again meanwhile, and says nothing of it
        assert is_logged_once(host, "cannot use network")
        assert len(set(log_lines(host, "WARNING"))) == 1
        assert len(set(log_lines(host, "INFO"))) == 3
        assert world.leases() == {}
        assert "flannel.1" not in host.run("ip", "link")
        host.ip("route del 10.1.8.0/24")
        daemon.wait_ready()

    def test_flanneld_waits_for_an_interface_that_comes_up_later(self, world: World) -> None:
        host = world.add_host("h1")
        host.ip("link set eth0 down")
        world.configure(VXLAN)
        daemon = host.start_flanneld("-iface=eth0")
        daemon.wait_log("cannot use interface eth0: it is down; waiting")
        host.ip("link set eth0 up")
        daemon.wait_ready()

    @pytest.mark.parametrize(
        ("flags", "named"),
        [
            (["-no-such-flag"], "-no-such-flag"),
            (["-public-ip=fe80::1"], "-public-ip"),
            (["-subnet-lease-renew-margin=0"], "-subnet-lease-renew-margin"),
            (["-etcd-cafile=/does/not/exist"], "/does/not/exist"),
        ],
    )
    def test_an_operators_mistake_is_one_line_and_status_2(
        self, flags: list[str], named: str
    ) -> None:
        for program in ([FLANNELD], [sys.executable, "-m", "flannel"]):
            done = subprocess.run([*program, *flags], capture_output=True, text=True)
            assert done.returncode == 2
            assert re.fullmatch(rf"flanneld: cannot .*{re.escape(named)}.*\n", done.stderr)

    def test_fifty_daemons_at_once_get_fifty_subnets(self, world: World) -> None:
        hosts = [world.add_host(f"h{n}") for n in range(50)]
        world.stop_etcd(signal.SIGSTOP)  # all of them wait, and set off at one moment
        for host in hosts:
            host.start_flanneld("-iface=eth0")
        world.stop_etcd(signal.SIGCONT)
        world.configure(VXLAN)
        for host in hosts:
            host.daemon.wait_ready(180)
        subnets = {host.subnet for host in hosts}
        assert len(subnets) == 50
        assert len(world.leases()) == 50
        for host in hosts:
            wait_overlay(host, *(subnets - {host.subnet}))
            assert host.daemon.is_running


def routes(host: Host) -> str:
    """Those of the host; the kernel takes a while to notice that a link has its carrier."""
    return host.run("ip", "route").replace(" linkdown", "")


class TestRestarting:
    @BOTH
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_a_restart_of_flanneld_loses_no_packet(
        self, world: World, config: dict[str, Any], number: int
    ) -> None:
        pair = start_saved(world, config)
        one, near, far = pair.one, pair.near, pair.far
        before = one.subnet, routes(one), world.leases().keys()
        with Pinger(near, far.address) as pinger:
            status = one.daemon.stop(number)
            pinger.wait_sent(50)
            one.start_flanneld("-iface=eth0").wait_ready()
            pinger.wait_sent(50)
        assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert pinger.lost == 0
        assert (one.subnet, routes(one), world.leases().keys()) == before

    def test_peers_that_left_meanwhile_are_swept_at_start(self, world: World) -> None:
        world.put_leases(
            {f"10.1.{n}.0-24": peer_value(f"192.0.2.{n}", f"02:00:00:00:00:{n}") for n in
             range(20, 30)}
        )  # fmt: skip
        (host,) = start(world, VXLAN, 1)
        assert len(overlay(host)) == 10
        host.daemon.kill()
        for n in range(20, 29):
            world.etcdctl("rm", f"{PREFIX}/subnets/10.1.{n}.0-24")
        host.start_flanneld("-iface=eth0").wait_ready()
        # Should etcd be slow to answer, they are served until it does.
        wait_overlay(host, "10.1.29.0/24")

        def entries() -> tuple[int, int, int]:
            return (
                host.run("bridge", "fdb", "show", "dev", "flannel.1").count("dst"),
                host.run("ip", "neigh", "show", "dev", "flannel.1").count("PERMANENT"),
                len(host.run("ip", "nexthop").splitlines()),
            )

        wait_for(lambda: entries() == (1, 1, 1), 30, lambda: f"one of each, not {entries()}")

    def test_the_subnet_of_the_file_is_asked_for_and_never_stolen(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1)
        subnet = host.subnet
        key = str(subnet).replace("/", "-")
        host.daemon.stop()
        world.etcdctl("rm", f"{PREFIX}/subnets/{key}")
        host.start_flanneld("-iface=eth0").wait_ready()
        assert host.subnet == subnet
        host.daemon.stop()
        world.put_leases({key: peer_value("192.0.2.99")})
        host.start_flanneld("-iface=eth0").wait_ready()
        # Should etcd be slow to answer, the one before is served until it does.
        wait_for(lambda: host.subnet != subnet, 30, "another subnet")
        assert world.leases()[key]["value"] == peer_value("192.0.2.99")


class TestLivingWithOthers:
    def test_values_written_by_upstream_are_understood(self, world: World) -> None:
        newest = (
            '{"PublicIP":"192.0.2.52","PublicIPv6":null,"BackendType":"vxlan",'
            '"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:52"}}'
        )
        world.put_leases(
            {
                "10.1.51.0-24": peer_value("192.0.2.51", "02:00:00:00:00:51"),
                "10.1.52.0-24": newest,
                "10.1.53.0-24&fc00:0:0:1::-64": peer_value("192.0.2.53", "02:00:00:00:00:53"),
                "10.1.54.0-24": '{"PublicIP":"192.0.2.54","BackendType":"host-gw"}',
                "10.1.55.0-24": '{"PublicIP":"192.0.2.55"}',
            }
        )
        (host,) = start(world, VXLAN, 1)
        assert overlay(host) == {f"10.1.{n}.0/24" for n in (51, 52, 53)}
        assert "10.1.54.0/24 of 192.0.2.54: its backend is host-gw, not vxlan" in host.daemon.log

    def test_malformed_leases_disturb_no_host_and_are_named_once(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1)
        world.put_leases(
            {
                "foo": "bar",
                "10.1.60.0-24": "{",
                "10.1.61.0-24": "[" * 50_000,
                "10.1.62.0-24": '{"PublicIP":"fe80::1"}',
                "10.1.63.0-24": peer_value("192.0.2.63", "ff:ff:ff:ff:ff:ff"),
                "192.0.2.0-24": peer_value("192.0.2.64"),  # the underlay itself
                "0.0.0.0-0": peer_value("192.0.2.65"),
                "10.1.0.0-16": peer_value("192.0.2.66"),
                "10.1.67.0-24": peer_value("10.1.67.1"),  # a tunnel in the tunnel
            }
        )
        world.put_leases({"10.1.70.0-24": peer_value("192.0.2.70")})
        wait_overlay(host, "10.1.70.0/24")
        assert "192.0.2.0/24 dev eth0 proto kernel" in host.run("ip", "route")
        for text in ("foo", "10.1.60.0", "10.1.62.0", "10.1.63.0", "0.0.0.0/0", "10.1.67.0"):
            host.daemon.wait_log(rf"WARNING.*{re.escape(text)}")
            assert len([line for line in log_lines(host, "WARNING") if text in line]) == 1
        assert host.daemon.is_running

    def test_a_reservation_is_used_and_gets_no_end(self, world: World) -> None:
        world.etcdctl("set", f"{PREFIX}/subnets/10.1.177.0-24", '{"PublicIP":"192.0.2.11"}')
        (host,) = start(world, VXLAN, 1)
        assert str(host.subnet) == "10.1.177.0/24"
        assert "ttl" not in world.leases()["10.1.177.0-24"]

    def test_a_lease_that_ends_soon_is_renewed_in_time(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1)
        ((key, node),) = world.leases().items()
        world.put_leases({key: node["value"]}, ttl=12)
        wait_for(lambda: ttl_of(world, key) > 80_000, 30, "a renewal")
        assert "was gone from the store" not in host.daemon.log
        assert host.daemon.is_running

    def test_a_lease_that_was_removed_is_taken_again_in_place(self, world: World) -> None:
        pair = start_pair(world, VXLAN)
        one, near, far = pair.one, pair.near, pair.far
        ((key),) = [k for k, n in world.leases().items() if "192.0.2.11" in n["value"]]
        world.etcdctl("rm", f"{PREFIX}/subnets/{key}")
        wait_for(lambda: key in world.leases(), 30, "the lease to be back")
        assert ping(near, far.address, 30) is not None
        assert one.daemon.is_running


class TestMending:
    def test_a_deleted_device_is_restored_with_its_published_mac(self, world: World) -> None:
        one, other = start(world, VXLAN, 2)
        near, far = one.add_container(1), other.add_container(1)
        mac = "02:00:00:00:00:99"  # as one that upstream made, by chance
        one.daemon.stop()
        one.ip("link set flannel.1 address " + mac)
        one.start_flanneld("-iface=eth0").wait_ready()
        assert ping(near, far.address, 30) is not None
        one.ip("link del flannel.1")
        show = ("ip", "addr", "show", "flannel.1")
        wait_for(
            lambda: (
                ping(near, far.address) is not None
                and f"{one.subnet.network_address}/32" in one.try_run(*show).stdout
            ),
            30,
            "the device",
        )
        assert mac in one.run("ip", "link", "show", "flannel.1")
