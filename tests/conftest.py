"""What the tests share: a window on the C functions behind the packet loop, and an etcd."""

import ctypes
import mmap
from collections.abc import Iterator
from dataclasses import replace

import pytest
import urllib3
from etcd_server import EtcdServer
from hypothesis import HealthCheck, settings
from internals import Internals, PageEnd
from virtual_time import Clock

from flannel.stores import etcd_endpoints as etcd_members

# How long one example takes, or its making, depends on what else runs on this machine.
settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("briefly", settings.get_profile("shared machine"), max_examples=20)
settings.load_profile("shared machine")  # unless --hypothesis-profile names the other


@pytest.fixture(scope="session")
def internals(tmp_path_factory: pytest.TempPathFactory) -> Internals:
    """The C files behind the packet loop."""
    return Internals(tmp_path_factory.mktemp("internals"))


@pytest.fixture(scope="session")
def at_page_end() -> PageEnd:
    """Bytes that nothing can be read behind: one byte too far ends the process.

    There is one such page; each call overwrites what the call before it has returned.
    """
    two_pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(two_pages))
    libc = ctypes.CDLL(None, use_errno=True)
    guard = ctypes.c_void_p(start + mmap.PAGESIZE)
    if libc.mprotect(guard, ctypes.c_size_t(mmap.PAGESIZE), 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot protect a page")

    def place(content: bytes) -> memoryview:
        view = memoryview(two_pages)[mmap.PAGESIZE - len(content) : mmap.PAGESIZE]
        view[:] = content
        return view

    return place


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    made = EtcdServer(tmp_path_factory.mktemp("etcd"))
    made.start()
    made.wait_ready()
    yield made
    made.stop()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for etcd to answer: a busy disk keeps it waiting for seconds."""
    monkeypatch.setattr(etcd_members, "_REQUEST_TIMEOUT", urllib3.Timeout(connect=30, read=100))
    monkeypatch.setattr(etcd_members, "_CONNECT", 30.0)
    for name in ("_ANSWER", "_LISTING"):
        bounds = getattr(etcd_members, name)
        monkeypatch.setattr(etcd_members, name, replace(bounds, seconds=100))


@pytest.fixture
def etcd(server: EtcdServer, patience: None) -> Iterator[EtcdServer]:
    """An etcd without our keys."""
    yield server
    server.delete("")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time that passes while a test waits."""
    return Clock(monkeypatch)
