"""Names of endpoints, and name servers that do not answer, not in time, or not always."""

import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from etcd_server import EtcdServer
from waiting import wait_for

from flannel.errors import StoreUnavailable
from flannel.stores import resolver
from flannel.stores.etcd_endpoints import Endpoints, NotFound
from flannel.stores.resolver import Resolver, Unresolved

NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
SILENT = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class NameServer:
    """In place of getaddrinfo(3)."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.found: list[str] | Exception = ["127.0.0.1"]
        self.asked: list[str] = []

    def __call__(self, name: str, port: int | None, *_: Any, **__: Any) -> list[Any]:
        if name[0].isdigit():  # of urllib3
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port))]
        self.asked.append(name)
        self.answers.wait(100)
        if isinstance(self.found, Exception):
            raise self.found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in self.found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    monkeypatch.setattr(resolver, "_of_all", Resolver())
    yield made
    made.answers.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "PATIENCE", 0.02)


def assert_answers(members: Endpoints) -> None:
    with pytest.raises(NotFound):
        members.ask("look", "GET", "/absent", {})


def test_an_address_is_not_looked_up(names: NameServer) -> None:
    assert Resolver().addresses("192.0.2.1") == ["192.0.2.1"]
    assert Resolver().addresses("2001:db8::1") == ["2001:db8::1"]
    assert names.asked == []


def test_a_slow_lookup_is_given_up_and_its_result_used_later(
    names: NameServer, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Resolver()
    names.answers.clear()
    for _ in range(5):
        with pytest.raises(Unresolved, match="no name server answers in time"):
            made.addresses("etcd.test")
    wait_for(lambda: names.asked, "question")
    assert names.asked == ["etcd.test"]  # one thread, not five
    names.answers.set()
    monkeypatch.setattr(resolver, "PATIENCE", 100.0)
    assert made.addresses("etcd.test") == ["127.0.0.1"]


def test_a_name_keeps_its_addresses_while_no_name_server_answers(
    names: NameServer, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Resolver()
    with monkeypatch.context() as patient:
        patient.setattr(resolver, "PATIENCE", 100.0)
        made.addresses("etcd.test")
        names.found = SILENT
        assert made.addresses("etcd.test") == ["127.0.0.1"]
        names.found = NO_NAME  # but not if one says that there is no such name
        with pytest.raises(socket.gaierror, match="not known"):
            made.addresses("etcd.test")
    names.answers.clear()
    assert made.addresses("etcd.test") == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "the name does not resolve: no name server answers in time"),
        (SILENT, "the name does not resolve: temporary failure in name resolution"),
        (NO_NAME, "name or service not known"),
    ],
)
def test_an_endpoint_whose_name_does_not_resolve_is_named_and_left_for_the_next(
    names: NameServer, etcd: EtcdServer, found: Exception | None, reason: str, impatient: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if found is None:
        names.answers.clear()
    else:
        monkeypatch.setattr(resolver, "PATIENCE", 100.0)
        names.found = found
    members = Endpoints(["http://etcd.test:1", etcd.url])
    assert_answers(members)
    assert members.first == 1
    with pytest.raises(StoreUnavailable) as raised:
        Endpoints(["http://etcd.test:1"]).ask("look", "GET", "/absent", {})
    assert str(raised.value) == f"cannot look: http://etcd.test:1: {reason}"


def test_each_address_of_a_name_is_tried(names: NameServer, etcd: EtcdServer) -> None:
    names.found = ["127.0.0.99", "127.0.0.1"]
    url = f"http://etcd.test:{urlsplit(etcd.url).port}"
    assert_answers(Endpoints([url]))
    names.found = ["127.0.0.99", "127.0.0.98"]
    with pytest.raises(StoreUnavailable, match="connection refused"):
        Endpoints([url]).ask("look", "GET", "/absent", {})
