"""Status: ready or the reason why not; ages instead of moments."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from one_status import OWN, OneStatus
from prometheus_client.parser import text_string_to_metric_families
from virtual_time import Clock

from flannel.conditions import Condition
from flannel.errors import FirewallError
from flannel.health import awake, status
from flannel.health.metrics import Exporter
from flannel.stores import StoreHealth
from flannel.systemd import watchdog_interval


@pytest.fixture
def made() -> OneStatus:
    return OneStatus()


def test_flanneld_is_ready_once_all_parts_are_done(made: OneStatus) -> None:
    assert made.status.unready() == "starting"
    with made.serve():
        assert made.status.unready() == "subnet.env: not there yet"
        made.status.has("subnet.env")
        assert made.status.unready() == "peers: not there yet"
        made.status.has("peers")
        assert made.status.unready() == "firewall: not there yet"
        made.status.has("firewall")
        assert made.status.unready() == ""


def test_a_lost_lease_makes_flanneld_unready_until_all_parts_are_done_again(
    made: OneStatus,
) -> None:
    with made.serve():
        made.finish()
    made.status.end("cannot keep lease 10.1.5.0/24: it is gone from the store")
    assert "it is gone from the store" in made.status.unready()
    assert made.status.document()["lease"] is None
    with made.serve():
        assert made.status.unready() == "subnet.env: not there yet"


def test_the_status_document_has_the_same_members_without_a_network(
    made: OneStatus,
) -> None:
    before = made.status.document().keys()
    with made.serve():
        assert made.status.document().keys() == before


@pytest.mark.parametrize("condition", ["interface", "store", "config", "run"])
def test_a_missing_condition_of_a_run_is_the_reason_to_be_unready(
    made: OneStatus, condition: str
) -> None:
    made.status.conditions.report(Condition(condition), "cannot do it: because")
    assert made.status.unready() == "cannot do it: because"


def test_an_unreachable_store_is_reported_at_etcd_before_the_first_run(made: OneStatus) -> None:
    made.status.conditions.report(
        Condition.STORE, "cannot read /config: connection refused; trying again"
    )
    assert "refused" in made.status.document()["etcd"]["trouble"]


def test_a_network_that_cannot_carry_packets_is_the_reason_for_a_missing_part(
    made: OneStatus,
) -> None:
    with made.serve():
        made.status.has("subnet.env")
        made.network.wrong = "cannot carry packets: cannot bind UDP port 8285"
        assert made.status.unready() == "cannot carry packets: cannot bind UDP port 8285"


def test_a_kernel_that_refuses_makes_flanneld_unready_while_that_lasts(made: OneStatus) -> None:
    with made.serve():
        made.finish()
        made.status.conditions.report(Condition.KERNEL, "cannot program the kernel: no memory")
        assert made.status.unready() == "cannot program the kernel: no memory"
        made.status.conditions.clear(Condition.KERNEL)
        assert made.status.unready() == ""


def test_a_missing_device_makes_flanneld_unready(made: OneStatus) -> None:
    made.network.device = "flannel.4711"
    with made.serve():
        made.finish()
        assert made.status.unready() == "device flannel.4711 is gone"


def test_an_unreachable_store_is_shown_and_leaves_flanneld_ready(made: OneStatus) -> None:
    with made.serve():
        made.finish()
        made.status.conditions.report(Condition.WATCH, "cannot follow the leases: refused")
        assert made.status.unready() == ""
        etcd = made.status.document()["etcd"]
        assert etcd["trouble"] == "cannot follow the leases: refused"
        assert etcd["errors"] == 3


def test_a_task_without_a_sign_of_life_is_reported_as_dead(made: OneStatus, clock: Clock) -> None:
    clock.rule(status, awake)
    made.status.awake.tick()
    began = clock.now
    made.heard = StoreHealth("", None, began, 3)
    with made.serve():
        made.finish()
        assert made.status.dead() == ""
        clock.skip(100)
        assert made.status.dead() == "the watch on the leases has given no sign of life for 100 s"
        made.heard = StoreHealth("", None, began + 90, 3)
        assert made.status.dead() == ""  # errors are signs of life
        clock.skip(50)
        assert (
            made.status.dead()
            == "the comparison with the kernel has given no sign of life for 150 s"
        )
        made.status.beat("peers")
        made.network.wrong = "the packet loop is not running"
        assert made.status.dead() == "the packet loop is not running"


def test_a_pause_of_the_process_is_not_taken_for_a_hang(made: OneStatus, clock: Clock) -> None:
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
            assert (
                made.status.dead() == "the watch on the leases has given no sign of life for 91 s"
            )
            made.heard = StoreHealth("", None, clock.now, 3)
            await asyncio.sleep(30)
            assert made.status.dead().startswith("the comparison with the kernel")
        keeping.cancel()

    clock.run(work())


def test_the_document_has_ages_and_is_json(
    made: OneStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_prometheus_can_read_the_metrics(made: OneStatus) -> None:
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


def test_metrics_are_served_before_there_is_a_network(made: OneStatus) -> None:
    assert b"flannel_ready 0.0" in Exporter(made.status).exposition()


def test_without_a_run_nothing_is_dead_nor_recorded(made: OneStatus) -> None:
    made.status.beat("peers")
    made.finish()
    assert made.status.dead() == ""
    assert made.status.peers == {}
    assert made.status.unready() == "starting"
    asyncio.run(made.status.read_guard())
    assert made.status.guard_drops == {}


def test_a_reservation_has_neither_an_end_nor_a_renewal(made: OneStatus) -> None:
    with made.serve():
        made.finish()
        made.status.leased(replace(OWN, ttl=None), None)
        lease = made.status.document()["lease"]
        text = Exporter(made.status).exposition()
    assert (lease["reservation"], lease["left"], lease["renewal_in"]) == (True, None, None)
    assert b"flannel_lease_info" in text
    assert b"flannel_lease_left_seconds" not in text


def test_clients_that_ask_together_share_one_reading_of_the_guard(made: OneStatus) -> None:
    async def ask_together() -> None:
        await asyncio.gather(*(made.status.read_guard() for _ in range(5)))

    with made.serve():
        asyncio.run(ask_together())
        assert made.firewall.readings == 1
        asyncio.run(ask_together())
        assert made.firewall.readings == 2


def test_a_guard_that_cannot_be_read_keeps_the_counters_read_last(made: OneStatus) -> None:
    with made.serve():
        asyncio.run(made.status.read_guard())
        made.firewall.refusal = FirewallError("cannot list the table: nft refuses")
        asyncio.run(made.status.read_guard())
        assert made.firewall.readings == 2
        assert made.status.guard_drops == {"stranger": 5}


def test_a_guard_that_is_not_wanted_has_no_metric(made: OneStatus) -> None:
    with made.serve():
        assert b"flannel_guarded 1.0" in Exporter(made.status).exposition()
        made.firewall.is_guarded = False
        assert b"flannel_guarded 0.0" in Exporter(made.status).exposition()
        made.firewall.wants_guard = False
        assert b"flannel_guarded" not in Exporter(made.status).exposition()


def test_ages_of_events_that_never_happened_have_no_metric(made: OneStatus) -> None:
    made.heard = StoreHealth("", None, 0.0, 0)
    made.network.device = "flannel.4711"
    with made.serve():
        text = Exporter(made.status).exposition()
    assert b"flannel_mtu_bytes 1450.0" in text
    for name in (b"last_repair_age", b"device_bytes_total{"):
        assert b"flannel_" + name not in text


def test_the_age_of_etcd_s_answer_counts_from_the_start_where_there_is_none(
    made: OneStatus,
) -> None:
    """An alert on it fires as well on a host that booted while etcd was unreachable."""
    made.heard = StoreHealth("", None, 0.0, 0)
    made.status.started_at -= 300
    with made.serve():
        text = Exporter(made.status).exposition().decode()
    found = re.search(r"(?m)^flannel_store_answer_age_seconds (\S+)$", text)
    assert found is not None
    assert 300 <= float(found[1]) < 400


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


def test_the_dashboard_uses_metrics_that_exist(made: OneStatus) -> None:
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
