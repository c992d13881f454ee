"""Pages: which page is served at the socket and at the port, and the feeding of the watchdog."""

import asyncio
import http.client
import json
import logging
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from loopback import tcp_port
from one_status import OneStatus
from virtual_time import Clock
from waiting import until

from flannel.health import connections, pages
from flannel.options.table import Options, parse


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=100)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(100)
        self.sock.connect(str(self._path))


Connect = Callable[[], http.client.HTTPConnection]


def get(connect: Connect, path: str) -> tuple[int, bytes]:
    connection = connect()
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """No client is too slow, however long this machine needs for it."""
    monkeypatch.setattr(connections, "PATIENCE", 600.0)


@pytest.fixture
def one() -> OneStatus:
    return OneStatus()


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return parse([f"-subnet-file={tmp_path}/subnet.env"], {})


def test_the_socket_is_beside_subnet_env() -> None:
    path = pages.socket_path(Path("/run/flannel/subnet.env"))
    assert path == Path("/run/flannel/flanneld.sock")


def test_the_socket_serves_health_readiness_status_and_peers(
    one: OneStatus, options: Options
) -> None:
    path = pages.socket_path(options.subnet_file)

    def ask() -> None:
        def answer(name: str) -> tuple[int, bytes]:
            return get(lambda: UnixConnection(path), name)

        assert answer("/healthz") == (200, b"flanneld is running")
        assert answer("/readyz") == (503, b"subnet.env: not there yet\n")
        one.finish()
        assert answer("/readyz") == (200, b"flanneld is ready\n")
        status, body = answer("/status")
        document = json.loads(body)
        assert (status, document["ready"], document["network"]) == (200, True, "10.1.0.0/16")
        assert document["firewall"]["dropped"] == {"stranger": 5}
        assert [each["public_ip"] for each in json.loads(answer("/peers")[1])] == ["192.0.2.12"]
        assert answer("/metrics")[0] == 404
        one.network.wrong = "the packet loop is not running"
        assert answer("/healthz") == (503, b"the packet loop is not running\n")
        assert answer("/readyz") == (503, b"the packet loop is not running\n")

    async def main() -> None:
        async with pages.served(options, one.status):
            await until(path.is_socket)
            await asyncio.to_thread(ask)

    with one.serve():
        asyncio.run(main())
    assert not path.exists()


def test_the_port_serves_metrics_and_neither_status_nor_peers(
    one: OneStatus, tmp_path: Path
) -> None:
    port = tcp_port()
    options = parse([f"-subnet-file={tmp_path}/subnet.env", f"-healthz-port={port}"], {})
    assert options.healthz_ip == IPv4Address("127.0.0.1")

    def answer(name: str) -> tuple[int, bytes]:
        return get(lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=100), name)

    def is_listening() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=100).close()
        except ConnectionRefusedError:
            return False
        return True

    def ask() -> None:
        assert answer("/healthz") == (200, b"flanneld is running")
        assert answer("/readyz")[0] == 503
        status, body = answer("/metrics")
        assert status == 200
        assert b'flannel_guard_dropped_packets_total{reason="stranger"} 5.0' in body
        assert answer("/status")[0] == answer("/peers")[0] == 404

    async def main() -> None:
        async with pages.served(options, one.status):
            await until(is_listening)
            await asyncio.to_thread(ask)

    with one.serve():
        asyncio.run(main())


def test_the_watchdog_is_fed_three_times_as_often_as_asked_until_a_part_is_dead(
    one: OneStatus,
    options: Options,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fed: list[float] = []
    monkeypatch.setattr(pages, "notify", lambda state, environ: fed.append(clock.now))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    began = clock.now

    async def main() -> None:
        async with pages.served(options, one.status):
            await asyncio.sleep(25)
            assert [moment - began for moment in fed] == [0, 10, 20]
            for _ in range(2):
                one.network.wrong = "the packet loop is not running"
                fed.clear()
                await asyncio.sleep(40)
                assert fed == []
                one.network.wrong = ""
                await asyncio.sleep(10)
                assert len(fed) == 1

    with one.serve(), caplog.at_level(logging.ERROR):
        clock.run(main())
    line = "the packet loop is not running; if that lasts, systemd restarts flanneld"
    assert [record.getMessage() for record in caplog.records] == [line, line]


def test_without_systemds_request_no_watchdog_is_fed(
    one: OneStatus, options: Options, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[str] = []
    monkeypatch.setattr(pages, "notify", lambda state, environ: fed.append(state))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)

    async def main() -> None:
        async with pages.served(options, one.status):
            await asyncio.sleep(100)

    clock.run(main())
    assert fed == []
