"""What the tests in namespaces share."""

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import fork_server
import pytest
from private_network import private_network
from world import World

from flannel.firewall import nfnetlink
from flannel.kernel import netlink, rtnetlink

_LONG = (
    *("test_boot.py", "test_chaos.py", "test_config_walk.py", "test_dist.py", "test_docker.py"),
    *("test_hand_back.py", "test_install.py", "test_range.py", "test_start_without_etcd.py"),
    *("test_store_trouble.py", "test_udp_dead_peers.py"),
)
"""Files whose tests last long, though they are few."""


def pytest_sessionstart() -> None:
    """Without root nothing here can run, and nothing here may pass unseen."""
    if os.geteuid() != 0:
        pytest.exit("netns-tests need root to make network namespaces", returncode=1)
    fork_server.is_enabled = True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order what several workers get, a class or a file at a time: what lasts long comes first.

    Otherwise one worker would build a system at the end, and the others would be idle.
    """
    if hasattr(config, "workerinput"):
        sizes = Counter(_scope(item) for item in items)
        items.sort(key=lambda item: (item.path.name not in _LONG, -sizes[_scope(item)]))


def _scope(item: pytest.Item) -> str:
    return item.nodeid.rpartition("::")[0]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for the kernel to answer this process: others hold its locks for seconds."""
    monkeypatch.setattr(netlink, "_PATIENCE", 100.0)
    monkeypatch.setattr(rtnetlink, "_PATIENCE", 100)
    monkeypatch.setattr(nfnetlink, "_TIMEOUT", 100.0)


@pytest.fixture
def world() -> Iterator[World]:
    """Namespaces with a real etcd, removed after the test."""
    with World() as made:
        made.start_etcd()
        yield made


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A namespace for this test alone, where nobody minds what the programs cost."""
    monkeypatch.setattr("flannel.firewall.keeper._SHARE", 1)
    with private_network():
        yield


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `make install DESTDIR=...` makes. It takes 20 s; nobody writes into it."""
    destdir = tmp_path_factory.mktemp("installed") / "destdir"
    command = ["make", "-C", str(Path(__file__).parent.parent), "install", f"DESTDIR={destdir}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield destdir
    shutil.rmtree(destdir)
