"""The UDP sockets: bound, taken over, or replaced."""

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import cast

import loopback
import pytest

from flannel.backends.udp import sockets
from flannel.errors import KernelError
from flannel.systemd import FdStore

ADDRESS, OTHER_ADDRESS = loopback.address(1), loopback.address(2)
NAME = "flannel0/udp"


@pytest.fixture
def port() -> Iterator[int]:
    """One that is free at these addresses."""
    with loopback.udp_holder() as holder:
        yield holder.getsockname()[1]


@pytest.fixture
def store() -> Iterator[FdStore]:
    made = FdStore({})
    yield made
    made.retain(NAME, lambda _fd: False)


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say in which namespace sockets are; to ask the kernel needs CAP_NET_ADMIN."""

    def say(path: str) -> None:
        monkeypatch.setattr(sockets, "ioctl", lambda _fd, _request: os.open(path, os.O_RDONLY))

    say("/proc/self/ns/net")
    return say


def name_of(fd: int) -> tuple[str, int]:
    with socket.socket(fileno=os.dup(fd)) as udp:
        name: tuple[str, int] = udp.getsockname()
        return name


def option(fd: int, number: int) -> int:
    with socket.socket(fileno=os.dup(fd)) as udp:
        return udp.getsockopt(socket.SOL_SOCKET, number)


@pytest.mark.parametrize("n", [1, 3])
def test_each_socket_is_bound_to_the_address_and_the_port(
    store: FdStore, port: int, n: int
) -> None:
    fds = sockets.bound(store, ADDRESS, port, n, 0)
    assert [name_of(fd) for fd in fds] == n * [(str(ADDRESS), port)]
    assert [option(fd, socket.SO_REUSEPORT) for fd in fds] == n * [n > 1]
    assert not any(os.get_blocking(fd) for fd in fds)
    assert not any(os.get_inheritable(fd) for fd in fds)
    assert store.held(NAME) == fds


def test_a_port_that_another_program_has_is_named(store: FdStore, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((str(ADDRESS), port))
        with pytest.raises(KernelError) as refused:
            sockets.bound(store, ADDRESS, port, 1, 0)
    assert str(refused.value) == f"cannot bind UDP port {port} of {ADDRESS}: Address already in use"


def test_too_many_open_files_are_an_error_of_the_kernel(
    store: FdStore, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> socket.socket:
        raise OSError(errno.EMFILE, "no more")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(KernelError, match="cannot open a UDP socket: Too many open files"):
        sockets.bound(store, ADDRESS, port, 1, 0)


def test_sockets_of_the_descriptor_store_are_kept(
    store: FdStore, port: int, namespace: Callable[[str], None]
) -> None:
    before = sockets.bound(store, ADDRESS, port, 2, 0)
    assert sockets.bound(store, ADDRESS, port, 2, 0) == before
    assert sockets.bound(store, ADDRESS, port, 3, 0)[:2] == before
    assert sockets.bound(store, ADDRESS, port, 1, 0) == before[:1]
    assert store.held(NAME) == before[:1]


def test_a_socket_that_remains_alone_no_longer_shares_its_port(
    store: FdStore, port: int, namespace: Callable[[str], None]
) -> None:
    before = sockets.bound(store, ADDRESS, port, 2, 0)
    (kept,) = sockets.bound(store, ADDRESS, port, 1, 0)
    assert kept == before[0]
    assert option(kept, socket.SO_REUSEPORT) == 0


class Recorder:
    """Stands for a socket: only root may set a mark."""

    def __init__(self, mark: int) -> None:
        self.options = {socket.SO_MARK: mark}

    def getsockopt(self, _level: int, option: int) -> int:
        # As the kernel's unsigned number is read.
        return int.from_bytes(self.options[option].to_bytes(4, "little"), "little", signed=True)

    def setsockopt(self, _level: int, option: int, value: int | bytes) -> None:
        self.options[option] = (
            int.from_bytes(value, sys.byteorder) if isinstance(value, bytes) else value
        )


@pytest.mark.parametrize("before", [0, 0x80000000])
@pytest.mark.parametrize("mark", [0, 1, 0x80000000])
def test_each_socket_gets_the_mark_in_place_of_an_earlier_one(before: int, mark: int) -> None:
    recorder = Recorder(before)
    sockets._set_up(cast(socket.socket, recorder), is_shared=False, mark=mark)
    assert recorder.options[socket.SO_MARK] == mark


def test_a_kept_socket_keeps_the_packets_that_wait_in_it(
    store: FdStore, port: int, namespace: Callable[[str], None]
) -> None:
    sockets.bound(store, ADDRESS, port, 1, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"before the restart", (str(ADDRESS), port))
    (fd,) = sockets.bound(store, ADDRESS, port, 1, 0)
    with socket.socket(fileno=os.dup(fd)) as udp:
        assert udp.recv(100) == b"before the restart"


def test_a_socket_of_another_address_or_port_is_replaced(
    store: FdStore, port: int, namespace: Callable[[str], None]
) -> None:
    sockets.bound(store, ADDRESS, port, 1, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for address, number in ((OTHER_ADDRESS, port), (ADDRESS, 0)):
            (fd,) = sockets.bound(store, address, number, 1, 0)
            assert name_of(fd)[0] == str(address)
            assert store.held(NAME) == (fd,)
            if number:  # then the kernel chooses: not this port again by chance
                other.bind((str(ADDRESS), port))
    assert name_of(fd)[1] != port


@pytest.mark.parametrize("kind", ["TCP", "no socket"])
def test_a_descriptor_of_another_kind_is_replaced(
    store: FdStore, port: int, namespace: Callable[[str], None], kind: str
) -> None:
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    store.fill(NAME, 1, tcp.detach if kind == "TCP" else partial(os.eventfd, 0))
    (fd,) = sockets.bound(store, ADDRESS, port, 1, 0)
    assert name_of(fd) == (str(ADDRESS), port)
    tcp.close()


def test_a_socket_of_another_namespace_is_replaced(
    store: FdStore, port: int, namespace: Callable[[str], None]
) -> None:
    sockets.bound(store, ADDRESS, port, 1, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.sendto(b"to the other one", (str(ADDRESS), port))
    namespace("/dev/null")
    (fd,) = sockets.bound(store, ADDRESS, port, 1, 0)
    with socket.socket(fileno=os.dup(fd)) as udp, pytest.raises(BlockingIOError):
        udp.recv(100)
