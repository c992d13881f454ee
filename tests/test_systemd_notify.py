"""sd_notify: one datagram to systemd's socket; a missing socket is harmless."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flannel.systemd import notify


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(100)
        yield sock


def test_systemd_is_notified_at_a_path(listener: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    listener.bind(str(path))
    notify("READY=1\nSTATUS=lease 10.5.1.0/24", {"NOTIFY_SOCKET": str(path)})
    assert listener.recv(1000) == b"READY=1\nSTATUS=lease 10.5.1.0/24"


def test_systemd_is_notified_at_an_abstract_address(listener: socket.socket) -> None:
    name = f"flannel-test-notify-{os.getpid()}"
    listener.bind(f"\0{name}")
    notify("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
    assert listener.recv(1000) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_without_systemd_nothing_is_logged(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    notify("READY=1", environ)
    assert caplog.records == []


@pytest.mark.parametrize(
    "address", ["/nowhere/at/all", "vsock:2:1234", "/" + 200 * "x", "a\0b", "@", "/dev/null"]
)
def test_a_socket_that_does_not_work_is_one_debug_line(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    notify("READY=1", {"NOTIFY_SOCKET": address})
    assert [record.levelname for record in caplog.records] == ["DEBUG"]


def test_a_systemd_that_does_not_read_blocks_for_a_bounded_time(
    listener: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "notify"
    listener.bind(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                sock.sendto(b"x", str(path))
        notify("READY=1", {"NOTIFY_SOCKET": str(path)})
    assert "timed out" in caplog.text
