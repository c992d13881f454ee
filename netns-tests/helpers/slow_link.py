"""A way to etcd that delays what goes through it, both ways."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

from namespaces import Namespace

Pieces = SimpleQueue[tuple[float, bytes]]
"""When each is due, and what it is; an empty one is the end."""


class SlowLink:
    """Connections to ``url`` are carried on to the same address, port 2379.

    :ivar delay: seconds that each piece is late, in each direction; may be changed at any time.
    """

    def __init__(self, net: Namespace, address: str) -> None:
        self.delay = 0.0
        self.url = f"http://{address}:2378"
        self._net = net
        self._address = address
        self._listener = self._socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((address, 2378))
        self._listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _socket(self) -> socket.socket:
        return self._net.socket(socket.AF_INET, socket.SOCK_STREAM)

    def close(self) -> None:
        """Take no more connections; those that are there end with their partners."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, self._socket() as far, suppress(OSError):
            far.connect((self._address, 2379))
            there: Pieces = SimpleQueue()
            back: Pieces = SimpleQueue()
            directions = [
                threading.Thread(target=work, args=ends, daemon=True)
                for ends in ((near, far, there), (far, near, back))
                for work in (self._read, self._write)
            ]
            for each in directions:
                each.start()
            for each in directions:
                each.join()

    def _read(self, source: socket.socket, _: socket.socket, pieces: Pieces) -> None:
        """Pieces are read as they come, so that one delay does not add to the next."""
        piece = b"x"
        while piece:
            try:
                piece = source.recv(65536)
            except OSError:
                piece = b""
            pieces.put((time.monotonic() + self.delay, piece))

    def _write(self, _: socket.socket, sink: socket.socket, pieces: Pieces) -> None:
        with suppress(OSError):
            while True:
                due, piece = pieces.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(piece)


@contextmanager
def slow_link(net: Namespace, address: str) -> Iterator[SlowLink]:
    """A `SlowLink` for the time of a test."""
    link = SlowLink(net, address)
    try:
        yield link
    finally:
        link.close()
