"""Real etcd servers on loopback, and proxies before them that lose answers or are older."""

import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from etcd_flags import without_fsync
from loopback import tcp_port

PREFIX = "/coreos.com/network"


class EtcdServer:
    """One member of a cluster.

    :ivar url: where clients reach it.
    """

    def __init__(self, directory: Path, name: str = "m1", scheme: str = "http") -> None:
        self.name = name
        self.port, self._peer_port = tcp_port(), tcp_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.peer_url = f"http://127.0.0.1:{self._peer_port}"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, members: Sequence["EtcdServer"] = (), flags: Sequence[str] = ()) -> None:
        """Start it, or start it again with the data it has."""
        cluster = ",".join(f"{each.name}={each.peer_url}" for each in members or [self])
        with (self._directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "etcd",
                    "--enable-v2",
                    f"--name={self.name}",
                    f"--data-dir={self._directory / self.name}",
                    f"--listen-client-urls={self.url}",
                    f"--advertise-client-urls={self.url}",
                    f"--listen-peer-urls={self.peer_url}",
                    f"--initial-advertise-peer-urls={self.peer_url}",
                    f"--initial-cluster={cluster}",
                    "--logger=zap",
                    *without_fsync(),
                    *flags,
                ],
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Wait until it listens and, on plain HTTP, its cluster has a leader."""
        deadline = time.monotonic() + 200
        while True:
            with suppress(OSError, http.client.HTTPException, AssertionError):
                if self.url.startswith("https"):
                    socket.create_connection(("127.0.0.1", self.port), 30).close()
                else:
                    assert self.get("/?quorum=true")["node"]
                return
            assert self._process is not None
            assert self._process.poll() is None, f"etcd {self.name} has ended by itself"
            assert time.monotonic() < deadline, f"etcd {self.name} did not start"
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send it a signal, e.g. SIGSTOP."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def stop(self) -> None:
        """End it; its data stay."""
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def request(self, method: str, key: str, **params: object) -> dict[str, Any]:
        """A request of the v2 API, past the code under test."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        body = urlencode(params) if params else None
        connection.request(method, "/v2/keys" + key, body, headers)
        answer = connection.getresponse()
        document: dict[str, Any] = json.loads(answer.read())
        connection.close()
        assert answer.status in (200, 201, 404), document
        return document

    def put(self, key: str, value: str, **params: object) -> dict[str, Any]:
        """Write a key below the prefix."""
        return self.request("PUT", f"{PREFIX}/{key}", value=value, **params)

    def delete(self, key: str) -> None:
        """Remove a key below the prefix, and everything below it."""
        self.request("DELETE", f"{PREFIX}/{key}?recursive=true")

    def get(self, key: str) -> dict[str, Any]:
        """Read a key by its full name."""
        return self.request("GET", key)


def _whole_message(sock: socket.socket) -> bytes:
    """The next HTTP request or answer, which may come in pieces; nothing at the end."""
    message = b""
    while True:
        head, end, body = message.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            if body.endswith(b"0\r\n\r\n"):
                return message
        else:
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            if end and len(body) >= int(length[1] if length else 0):
                return message
        piece = sock.recv(65536)
        if not piece:
            return b""
        message += piece


@contextmanager
def losing_answers(server: EtcdServer, n: int) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that drops the first ``n`` answers to a PUT, closing the connection instead.

    Yields its URL and a list of the PUTs it has carried to the server.
    """
    puts: list[bytes] = []
    lock = threading.Lock()

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            while request := _whole_message(client):
                upstream.sendall(request)
                answer = _whole_message(upstream)
                if request.startswith(b"PUT"):
                    with lock:
                        puts.append(request)
                        lose = len(puts) <= n
                    if lose:
                        return
                client.sendall(answer)

    with _proxy(serve) as url:
        yield url, puts


@contextmanager
def without_refresh(server: EtcdServer) -> Iterator[str]:
    """The URL of what behaves as etcd 2.0 to 2.2: ``refresh`` is a word like any other to them."""

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            while request := _whole_message(client):
                upstream.sendall(request.replace(b"refresh=", b"unknown="))
                client.sendall(_whole_message(upstream))

    with _proxy(serve) as url:
        yield url


@contextmanager
def cutting_silent(server: EtcdServer, seconds: float) -> Iterator[str]:
    """The URL of a balancer that ends long polls on which nothing is sent for so long.

    Other requests have all the time that a busy etcd needs.
    """

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            others = {client: upstream, upstream: client}
            patience = None
            while ready := select.select(list(others), [], [], patience)[0]:
                for each in ready:
                    piece = each.recv(65536)
                    if not piece:
                        return
                    if each is client:
                        patience = seconds if b"wait=true" in piece else None
                    others[each].sendall(piece)

    with _proxy(serve) as url:
        yield url


@contextmanager
def _proxy(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """The URL of a server that hands each of its clients to ``serve``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def handle(client: socket.socket) -> None:
        with suppress(OSError):  # one side has ended the connection
            serve(client)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=handle, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
