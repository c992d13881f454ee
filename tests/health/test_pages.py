"""What others have written is text on a page, and no more."""

import asyncio
import json
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar

import pytest
from fake_host import ETH0
from foreign_text import ENCODABLE, ENDLESS, EVIL, assert_harmless, assert_harmless_document
from prometheus_client.parser import text_string_to_metric_families

from flannel.conditions import Condition
from flannel.health import pages
from flannel.health.http_server import answer
from flannel.health.metrics import Exporter
from flannel.health.status import PARTS, Status
from flannel.lease import Lease, LeaseAttrs
from flannel.logs import JsonFormatter
from flannel.network_config import NetworkConfig
from flannel.options.table import parse
from flannel.stores import StoreHealth

CONFIG = NetworkConfig.from_json('{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}')
LEASE = Lease(
    IPv4Network("10.1.9.0/24"), LeaseAttrs(IPv4Address("192.0.2.9"), EVIL, {EVIL: EVIL}, EVIL), 60
)


class EvilNetwork:
    """A network that has trouble of somebody's making; every namespace has its device."""

    device, mtu = "lo", 1450

    def counters(self) -> dict[str, int]:
        return {}

    def trouble(self) -> str:
        return ENDLESS


class Table:
    """The other hosts' leases."""

    peers: ClassVar = {LEASE.subnet: LEASE}


class Firewall:
    """A guard that reports nothing."""

    is_guarded, wants_guard, repairs, failures = True, True, 0, 0

    async def counters(self) -> dict[str, object]:
        return {}


@pytest.fixture
def evil() -> Status:
    """A status of which all that others can write is evil."""
    status = Status(parse([], {}), lambda: StoreHealth(EVIL, None, 0, 0))
    status.serve(CONFIG, ETH0, Table(), EvilNetwork(), Firewall())  # type: ignore[arg-type]
    status.leased(LEASE, 30)
    for part in PARTS:
        status.has(part)
    for condition in Condition:
        status.conditions.report(condition, ENCODABLE)
    return status


def test_the_pages_of_health_are_one_short_line(evil: Status) -> None:
    for page in (pages._health(evil), pages._readiness(evil)):
        assert page.status == 503
        assert_harmless(page.body.decode())


def test_the_documents_are_json_and_hold_what_was_written(evil: Status) -> None:
    document = assert_harmless_document(pages._json(evil.document()).body.decode())
    assert document["lease"]["backend"] == EVIL
    assert_harmless_document(pages._json([EVIL, {EVIL: float("nan")}]).body.decode())


def test_the_metrics_are_lines_that_prometheus_reads(evil: Status) -> None:
    text = Exporter(evil).exposition().decode()
    assert_harmless(text)
    labels = [
        sample.labels
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "flannel_lease_info"
    ]
    assert [each["subnet"] for each in labels] == ["10.1.9.0/24"]


def test_an_answer_does_not_contain_the_request() -> None:
    head = f"GET /{EVIL} HTTP/1.1\r\n\r\n".encode(errors="replace")
    assert_harmless(asyncio.run(answer(head, {})).decode().replace("\r", ""))


def test_a_log_in_json_has_one_line_for_each_record(
    evil: Status, caplog: pytest.LogCaptureFixture
) -> None:
    evil.conditions.report(Condition.STORE, f"cannot: {ENCODABLE}")
    line = JsonFormatter().format(caplog.records[-1])
    assert json.loads(line)["message"].startswith("cannot: ")
    assert_harmless_document(line)
    assert "\n" not in line
