"""Health, metrics and status of a running flanneld."""

import json
import re
import subprocess
import sys
from pathlib import Path

from flannel_command import flannel, status_of
from hosts import Host
from namespaces import wait_for
from overlays import UDP, VXLAN, start
from pings import ping
from prometheus_client.parser import text_string_to_metric_families
from world import World

GET = (
    "import http.client, sys\n"
    "for attempt in range(5):\n"  # it drops a client that is paused for seconds before it asks
    "    connection = http.client.HTTPConnection('127.0.0.1', 9000, timeout=120)\n"
    "    try:\n"
    "        connection.request('GET', sys.argv[1])\n"
    "        answer = connection.getresponse()\n"
    "        break\n"
    "    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):\n"
    "        pass\n"
    "print(answer.status)\n"
    "print(answer.read().decode(), end='')\n"
)


def get(host: Host, path: str) -> tuple[int, str]:
    """The status and the body of a page on the health port."""
    status, _, body = host.run(sys.executable, "-c", GET, path).partition("\n")
    return int(status), body


class TestHealth:
    def test_flanneld_is_ready_only_while_containers_can_use_the_overlay(
        self, world: World
    ) -> None:
        (host,) = start(world, VXLAN, 1, "-healthz-port=9000")
        assert get(host, "/healthz") == (200, "flanneld is running")
        assert get(host, "/readyz") == (200, "flanneld is ready\n")
        key = str(host.subnet).replace("/", "-")
        # Another host's, so that this one has to find a new subnet, of which there is none.
        world.configure({**VXLAN, "SubnetMin": str(host.subnet.network_address),
                         "SubnetMax": str(host.subnet.network_address)})  # fmt: skip
        world.etcdctl("set", f"/coreos.com/network/subnets/{key}", '{"PublicIP":"192.0.2.99"}')
        reason = "503 .*(cannot lease a subnet|192.0.2.99 holds it now)"
        wait_for(
            lambda: re.match(reason, "{} {}".format(*get(host, "/readyz"))),
            30,
            lambda: f"it to be unready, which says {get(host, '/readyz')}",
        )
        assert get(host, "/healthz")[0] == 200
        world.etcdctl("rm", f"/coreos.com/network/subnets/{key}")
        wait_for(lambda: get(host, "/readyz")[0] == 200, 30, "ready again")

    def test_names_that_are_not_utf_8_break_nothing(self, world: World) -> None:
        """The kernel takes any bytes but blanks and slashes for the name of a link."""
        world.configure(VXLAN)
        host = world.add_host("h1")
        ip = (b"ip", b"-n", host.name.encode(), b"link")
        subprocess.run(
            [*ip, b"add", b"b\xff\xfe", b"alias", b"\xfe", b"type", b"bridge"], check=True
        )
        host.start_flanneld("-iface=eth0", "-healthz-port=9000").wait_ready()
        assert status_of(host)["traffic"]["rx_packets"] == 0
        assert get(host, "/metrics")[0] == 200
        found = json.loads(flannel(host, "check", "--json").stdout)["findings"]
        assert "daemon-down" not in [each["finding"] for each in found]
        assert not re.search("Traceback|cannot answer", host.daemon.log)

    def test_a_missing_etcd_is_shown_and_does_not_make_flanneld_unready(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1, "-healthz-port=9000")
        wait_for(lambda: status_of(host)["etcd"]["trouble"] == "", 30, "etcd to be followed")
        world.stop_etcd()
        wait_for(lambda: status_of(host)["etcd"]["trouble"], 30, "etcd's absence to be seen")
        assert get(host, "/readyz")[0] == 200
        world.start_etcd()
        wait_for(lambda: not status_of(host)["etcd"]["trouble"], 30, "etcd to be followed again")

    def test_prometheus_can_read_the_metrics(self, world: World) -> None:
        host, other = start(world, UDP, 2, "-healthz-port=9000")
        near, far = host.add_container(1), other.add_container(1)
        assert ping(near, far.address, 30) is not None
        # From no lease: the loop refuses it, and counts.
        world.net.run(
            sys.executable, "-c",
            "import socket; socket.socket(type=socket.SOCK_DGRAM)"
            f".sendto(bytes(40), ('{host.address}', 8285))",
        )  # fmt: skip

        def samples() -> dict[tuple[str, ...], float]:
            status, text = get(host, "/metrics")
            assert status == 200
            return {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }

        wait_for(
            lambda: samples()["flannel_dropped_packets_total", "rx_unknown_peer"] == 1, 30, "a drop"
        )
        found = samples()
        assert found["flannel_ready",] == 1
        assert found["flannel_leases",] == 2
        assert found["flannel_peers",] == 1
        assert found["flannel_mtu_bytes",] == 1472
        assert 3600 < found["flannel_lease_renewal_seconds",] < 86400
        assert found["flannel_device_packets_total", "rx"] >= 1
        assert 0 <= found["flannel_store_answer_age_seconds",] < 60

    def test_packets_of_strangers_are_counted(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1, "-healthz-port=9000")
        # IPv4 in VXLAN with our VNI, from no lease: the guard drops it before the device sees it.
        world.net.run(
            sys.executable, "-c",
            "import socket; socket.socket(type=socket.SOCK_DGRAM)"
            ".sendto(bytes([8, 0, 0, 0, 0, 0, 1, 0, *bytes(12), 8, 0]) + bytes(46), "
            f"('{host.address}', 8472))",
        )  # fmt: skip
        wait_for(
            lambda: status_of(host)["firewall"]["dropped"].get("unknown_peer") == 1, 30, "a drop"
        )
        assert re.search(
            r'flannel_guard_dropped_packets_total\{reason="unknown_peer"\} 1\.0',
            get(host, "/metrics")[1],
        )

    def test_nothing_listens_on_the_network_unless_asked(self, world: World) -> None:
        (host,) = start(world, VXLAN, 1, "-healthz-port=9000")
        listening = re.findall(r"(\S+):9000 ", host.run("ss", "-Hltn"))
        assert listening == ["127.0.0.1"]
        assert Path(host.subnet_file.with_name("flanneld.sock")).stat().st_mode & 0o777 == 0o600

    def test_the_watchdog_is_fed_while_all_tasks_run(self, world: World) -> None:
        world.configure(VXLAN)
        host = world.add_host("h1")
        daemon = host.start_flanneld("-iface=eth0", env={"WATCHDOG_USEC": "300000"}).wait_ready()
        for _ in range(3):
            wait_for(lambda: b"WATCHDOG=1" in daemon.heard(), 30, "WATCHDOG=1")
