"""Pings: one, and many while something happens."""

import re
import signal
import subprocess
import time
from ipaddress import IPv4Address
from typing import Self

from namespaces import Namespace


def ping(container: Namespace, address: IPv4Address, seconds: float = 0) -> float | None:
    """The round-trip time in ms; None if there is no answer, tried again for ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        done = container.try_run("ping", "-c1", "-W1", str(address))
        found = re.search(r"time=([\d.]+) ms", done.stdout)
        if found:
            return float(found[1])
        if time.monotonic() >= deadline:
            return None


class Pinger:
    """A ping that goes on while the body runs, 100 a second; then tells what was lost."""

    def __init__(self, container: Namespace, address: IPv4Address) -> None:
        # -q: it would stop when nobody reads what it prints, after 1,000 lines.
        self._command = ("ping", "-n", "-q", "-i0.01", "-W1", str(address))
        self._container = container
        self.sent = self.received = 0

    @property
    def lost(self) -> int:
        """Pings without an answer."""
        return self.sent - self.received

    def __enter__(self) -> Self:
        self._process = self._container.popen(*self._command, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=10)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
        assert found is not None, output
        self.sent, self.received = int(found[1]), int(found[2])
