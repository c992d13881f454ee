"""Status: ready when it is true, unready with the reason, ages instead of moments."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from virtual_time import Clock

from flannel.conditions import Condition
from flannel.firewall.keeper import Counter
from flannel.health import awake, status
from flannel.health import pages as health
from flannel.health.metrics import Exporter
from flannel.health.status import PARTS, Status, device_traffic
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig
from flannel.options.table import parse
from flannel.stores import StoreHealth
from flannel.systemd import watchdog_interval

CONFIG = NetworkConfig.from_json('{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}')
HOST, PEER = IPv4Address("192.0.2.11"), IPv4Address("192.0.2.12")
ETH0 = ExternalInterface(2, "eth0", 1500, HOST, HOST, (IPv4Interface("192.0.2.11/24"),))
OWN = Lease(IPv4Network("10.1.5.0/24"), LeaseAttrs(HOST, "vxlan", {"VtepMAC": "x"}), 86400)
PEERS = {IPv4Network("10.1.9.0/24"): Lease(IPv4Network("10.1.9.0/24"), LeaseAttrs(PEER), 86400)}


class Network:
    """A network whose device is loopback's, which every namespace has."""

    device, mtu = "lo", 1450

    def __init__(self) -> None:
        self.wrong = ""

    def counters(self) -> dict[str, int]:
        return {"rx_spoofed": 7}

    def trouble(self) -> str:
        return self.wrong


class Firewall:
    """A guard that has dropped something."""

    is_guarded, wants_guard, repairs, failures = True, True, 2, 3

    async def counters(self) -> dict[str, Counter]:
        return {"stranger": Counter(5, 500)}


class Made:
    """A status in the middle of a life."""

    def __init__(self) -> None:
        self.heard = StoreHealth("http://192.0.2.1:2379", monotonic(), monotonic(), 3)
        self.status = Status(parse([], {}), lambda: self.heard)
        self.network: Any = Network()

    @contextmanager
    def serve(self) -> Iterator[None]:
        self.status.serve(CONFIG, ETH0, SimpleNamespace(peers=PEERS), self.network, Firewall())
        yield
        self.status.end("the body is over")

    def finish(self) -> None:
        self.status.leased(OWN, 40000.0)
        for part in PARTS:
            self.status.has(part)


@pytest.fixture
def made() -> Made:
    return Made()


def test_it_is_ready_when_all_parts_are_done_and_only_then(made: Made) -> None:
    assert made.status.unready() == "starting"
    with made.serve():
        assert made.status.unready() == "subnet.env: not there yet"
        made.status.has("subnet.env")
        assert made.status.unready() == "peers: not there yet"
        made.status.has("peers")
        assert made.status.unready() == "firewall: not there yet"
        made.status.has("firewall")
        assert made.status.unready() == ""


def test_a_lost_lease_makes_it_unready_until_all_is_done_again(made: Made) -> None:
    with made.serve():
        made.finish()
    made.status.end("cannot keep lease 10.1.5.0/24: it is gone from the store")
    assert "it is gone from the store" in made.status.unready()
    assert made.status.document()["lease"] is None
    with made.serve():
        assert made.status.unready() == "subnet.env: not there yet"


def test_its_document_has_the_same_members_whether_a_network_is_served_or_not(made: Made) -> None:
    before = made.status.document().keys()
    with made.serve():
        assert made.status.document().keys() == before


@pytest.mark.parametrize("condition", ["interface", "store", "config", "run"])
def test_what_is_waited_for_is_the_reason(made: Made, condition: str) -> None:
    made.status.conditions.report(Condition(condition), "cannot do it: because")
    assert made.status.unready() == "cannot do it: because"


def test_a_store_that_a_newcomer_does_not_reach_is_said_where_etcd_is(made: Made) -> None:
    made.status.conditions.report(
        Condition.STORE, "cannot read /config: connection refused; trying again"
    )
    assert "refused" in made.status.document()["etcd"]["trouble"]


def test_what_keeps_packets_from_being_carried_is_the_reason_why_a_part_is_missing(
    made: Made,
) -> None:
    with made.serve():
        made.status.has("subnet.env")
        made.network.wrong = "cannot carry packets: cannot bind UDP port 8285"
        assert made.status.unready() == "cannot carry packets: cannot bind UDP port 8285"


def test_a_kernel_that_refuses_makes_it_unready_while_that_lasts(made: Made) -> None:
    with made.serve():
        made.finish()
        made.status.conditions.report(Condition.KERNEL, "cannot program the kernel: no memory")
        assert made.status.unready() == "cannot program the kernel: no memory"
        made.status.conditions.clear(Condition.KERNEL)
        assert made.status.unready() == ""


def test_a_device_that_is_gone_makes_it_unready(made: Made) -> None:
    made.network.device = "flannel.4711"
    with made.serve():
        made.finish()
        assert made.status.unready() == "device flannel.4711 is gone"


def test_a_store_that_is_away_is_shown_and_no_reason(made: Made) -> None:
    with made.serve():
        made.finish()
        made.status.conditions.report(Condition.WATCH, "cannot follow the leases: refused")
        assert made.status.unready() == ""
        etcd = made.status.document()["etcd"]
        assert etcd["trouble"] == "cannot follow the leases: refused"
        assert etcd["errors"] == 3


def test_tasks_that_hang_are_dead_and_the_watchdog_hears_of_it(made: Made, clock: Clock) -> None:
    clock.rule(status, awake)
    made.status.awake.tick()
    began = clock.now
    made.heard = StoreHealth("", None, began, 3)
    with made.serve():
        made.finish()
        assert made.status.dead() == ""
        clock.skip(100)
        assert made.status.dead() == "the watch on the leases was last heard of 100 s ago"
        made.heard = StoreHealth("", None, began + 90, 3)
        assert made.status.dead() == ""  # errors are signs of life
        clock.skip(50)
        assert made.status.dead() == "the comparison with the kernel was last heard of 150 s ago"
        made.status.beat("peers")
        made.network.wrong = "the packet loop is not running"
        assert made.status.dead() == "the packet loop is not running"


def test_a_pause_of_the_process_is_no_hang(made: Made, clock: Clock) -> None:
    clock.rule(status, awake)

    async def work() -> None:
        made.heard = StoreHealth("", None, clock.now, 3)
        made.status.awake.tick()
        keeping = asyncio.create_task(made.status.awake.keep())
        with made.serve():
            made.finish()
            await asyncio.sleep(80)
            clock.skip(3600)  # it is stopped, and goes on
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert made.status.dead() == ""
            await asyncio.sleep(89)
            assert made.status.dead() == ""
            await asyncio.sleep(2)  # now the task had time enough
            assert made.status.dead() == "the watch on the leases was last heard of 91 s ago"
            made.heard = StoreHealth("", None, clock.now, 3)
            await asyncio.sleep(30)
            assert made.status.dead().startswith("the comparison with the kernel")
        keeping.cancel()

    clock.run(work())


def test_the_document_has_ages_and_is_json(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with made.serve():
        made.finish()
        made.status.repairs.note("the device was down")
        made.status.repairs.commit("flannel.1")
        now = monotonic()
        monkeypatch.setattr(status, "monotonic", lambda: now + 60)
        found = json.loads(json.dumps(made.status.document()))
    assert found["lease"]["left"] == pytest.approx(86340, abs=20)
    assert found["lease"]["renewal_in"] == pytest.approx(39940, abs=20)
    assert found["repairs"]["count"] == 1
    assert found["repairs"]["last"] == "repaired flannel.1: the device was down"
    assert found["repairs"]["last_ago"] == pytest.approx(60, abs=20)
    assert found["device"] == "lo"
    assert found["counters"] == {"rx_spoofed": 7}
    assert found["peers"] == 1


def test_the_kernels_counters_of_a_link() -> None:
    text = (
        "Inter-|   Receive                            |  Transmit\n"
        " face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop\n"
        " eth0: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9\n"
        "flannel.1:  10 11 12 13 14 15 16 17 20 21 22 23 24 25 26 27\n"
    )
    assert device_traffic("flannel.1", text) == {
        "rx_bytes": 10,
        "rx_packets": 11,
        "rx_errors": 12,
        "rx_drops": 13,
        "tx_bytes": 20,
        "tx_packets": 21,
        "tx_errors": 22,
        "tx_drops": 23,
    }
    assert device_traffic("flannel.2", text) == {}


def test_the_metrics_are_what_prometheus_reads(made: Made) -> None:
    with made.serve():
        made.finish()
        asyncio.run(made.status.read_guard())
        text = Exporter(made.status).exposition().decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["flannel_ready",] == 1
    assert samples["flannel_leases",] == 2
    assert samples["flannel_peers",] == 1
    assert samples["flannel_store_errors_total",] == 3
    assert samples["flannel_dropped_packets_total", "rx_spoofed"] == 7
    assert samples["flannel_guard_dropped_packets_total", "stranger"] == 5
    assert samples["flannel_firewall_repairs_total",] == 2
    assert samples["flannel_lease_info", "vxlan", "192.0.2.11", "10.1.5.0/24"] == 1
    assert samples["flannel_lease_renewal_seconds",] == pytest.approx(40000, abs=20)
    assert ("flannel_device_bytes_total", "rx") in samples


def test_metrics_can_be_had_before_there_is_a_network(made: Made) -> None:
    assert b"flannel_ready 0.0" in Exporter(made.status).exposition()


def test_health_says_upstreams_words_or_what_is_dead(made: Made) -> None:
    assert health._health(made.status).body == b"flanneld is running"
    made.network.wrong = "the packet loop is not running"
    with made.serve():
        assert health._health(made.status).status == 503
        assert health._readiness(made.status).body == b"the packet loop is not running\n"


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "often"}, None),
    ],
)
def test_the_watchdog_is_fed_when_systemd_asks(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_interval(environ) == seconds


def test_the_dashboard_asks_for_metrics_that_there_are(made: Made) -> None:
    dashboard = (Path(__file__).parents[2] / "dist/grafana-dashboard.json").read_text()
    made.status.repairs.note("x")
    made.status.repairs.commit("lo")
    with made.serve():
        made.finish()
        text = Exporter(made.status).exposition().decode()
    names = {
        sample.name for family in text_string_to_metric_families(text) for sample in family.samples
    }
    asked = set(re.findall(r"\bflannel_\w+", dashboard))
    assert asked
    assert asked <= names
