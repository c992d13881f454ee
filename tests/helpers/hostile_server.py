"""Servers at an endpoint of etcd whose answers never end."""

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\nX-Etcd-Index: 5\r\nX-Etcd-Cluster-Id: 1\r\n"
_PIECE = b"x" * 65536
_BOMB = gzip.compress(b"x" * 1_000_000) * 200  # members of one stream


def endless_body(client: "Client") -> None:
    client.send(OK + b"\r\n")
    client.send_for_ever(_PIECE)


def announced_body(client: "Client") -> None:
    """Python reserves what is announced at once."""
    client.send(OK + b"Content-Length: 4000000000000\r\n\r\n")
    client.send_for_ever(_PIECE)


def announced_chunk(client: "Client") -> None:
    client.send(OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffff\r\n")
    client.send_for_ever(_PIECE)


def endless_chunks(client: "Client") -> None:
    client.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    client.send_for_ever(b"10000\r\n" + _PIECE + b"\r\n")


def endless_chunk_extension(client: "Client") -> None:
    client.send(OK + b"Transfer-Encoding: chunked\r\n\r\n1;")
    client.send_for_ever(_PIECE)


def endless_trailers(client: "Client") -> None:
    client.send(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    client.send_for_ever(b"X-Trailer: x\r\n" * 1000)


def endless_header(client: "Client") -> None:
    client.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    client.send_for_ever(_PIECE)


def endless_headers(client: "Client") -> None:
    client.send(b"HTTP/1.1 200 OK\r\n")
    client.send_for_ever(b"X-Many: x\r\n" * 1000)


def endless_continues(client: "Client") -> None:
    client.send_for_ever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def trickled_headers(client: "Client") -> None:
    client.send_for_ever(b"H", pause=0.05)


def trickled_body(client: "Client") -> None:
    client.send(OK + b"Content-Length: 1000000\r\n\r\n")
    client.send_for_ever(b"x", pause=0.05)


def trickled_chunks(client: "Client") -> None:
    client.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    client.send_for_ever(b"1\r\nx\r\n", pause=0.05)


def redirect_loop(client: "Client") -> None:
    client.send(
        b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n"
        b"Location: http://127.0.0.1:%d/v2/keys/\r\n\r\n" % client.port
    )


def compressed_bomb(client: "Client") -> None:
    """200 kB that would be 200 MB."""
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_BOMB)
    client.send(head + _BOMB)


TRICKLING: tuple[Callable[["Client"], None], ...] = (
    trickled_headers, trickled_body, trickled_chunks
)  # fmt: skip
"""Those that take all the time that they are given."""

KINDS: tuple[Callable[["Client"], None], ...] = (
    endless_body, announced_body, announced_chunk, endless_chunks, endless_chunk_extension,
    endless_trailers, endless_header, endless_headers, endless_continues, *TRICKLING,
    redirect_loop, compressed_bomb,
)  # fmt: skip


class Client:
    """One that has connected to the server."""

    def __init__(self, sock: socket.socket, is_over: threading.Event) -> None:
        self._socket = sock
        self._is_over = is_over
        self.port = sock.getsockname()[1]

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_for_ever(self, data: bytes, pause: float = 0.0) -> None:
        """Until it hangs up."""
        while not self._is_over.wait(pause):
            self._socket.sendall(data)


class TimeByPieces(threading.local):
    """Each look at this clock costs ten seconds; each thread has its own.

    An answer is looked at the clock for before each piece that is read. So one that trickles soon
    takes too long, and one of an etcd that is late does not, however long this machine needs.
    """

    now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


class HostileServer:
    """Answers every request in one way.

    :param listener: closed at the end; by default one at any port of 127.0.0.1.
    :ivar open: how many connections there are.
    """

    def __init__(
        self, answer: Callable[[Client], None], listener: socket.socket | None = None
    ) -> None:
        self._answer = answer
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._socks: list[socket.socket] = []
        self.open = 0
        self.accepted = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def run(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with self._lock:
                    self.accepted += 1
                    self.open += 1
                    self._socks.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            client = Client(sock, self._is_over)
            while sock.recv(65536):
                self._answer(client)
        with self._lock:
            self.open -= 1

    def close(self) -> None:
        self._is_over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a thread in accept() would keep it open
        self._listener.close()
        with self._lock:
            for sock in self._socks:
                with suppress(OSError):  # it was closed by its thread
                    sock.shutdown(socket.SHUT_RDWR)


@contextmanager
def hostile_server(
    answer: Callable[[Client], None], listener: socket.socket | None = None
) -> Iterator[HostileServer]:
    server = HostileServer(answer, listener)
    threading.Thread(target=server.run, daemon=True).start()
    try:
        yield server
    finally:
        server.close()
