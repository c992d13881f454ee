"""The etcd of a world: one member or several, with the v2 API, and what is in it."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from etcd_flags import without_fsync
from namespaces import Namespace, WorldError, is_paused, wait_for

PREFIX = "/coreos.com/network"
ETCD = "http://192.0.2.1:2379"


class Etcd:
    """An etcd in the namespace ``net``, which has its address; not started yet.

    :param number: of this one among ``n_members``; 192.0.2.<number> is its address.
    """

    def __init__(
        self, net: Namespace, directory: Path, number: int = 1, n_members: int = 1
    ) -> None:
        self.url = f"http://192.0.2.{number}:2379"
        self._net = net
        self._directory = directory
        self._name = f"etcd{number}"
        self._peers = {f"etcd{n}": f"http://192.0.2.{n}:2380" for n in range(1, n_members + 1)}
        self._log = directory / f"{self._name}.log"
        self._process: subprocess.Popen[Any] | None = None

    def start(self, *flags: str) -> None:
        """Start etcd, or start it again with the data it had."""
        self.launch(*flags)
        self.wait_healthy()

    def launch(self, *flags: str) -> None:
        """Start it without waiting; it has to find others before it is healthy."""
        peer = self._peers[self._name]
        cluster = ",".join(f"{name}={url}" for name, url in self._peers.items())
        with self._log.open("ab") as log:
            self._process = self._net.popen(
                "etcd", "--enable-v2", f"--name={self._name}",
                f"--data-dir={self._directory / self._name}",
                f"--listen-client-urls={self.url}", f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster={cluster}", "--logger=zap", *without_fsync(), *flags,
                stdout=log, stderr=log,
            )  # fmt: skip

    def wait_healthy(self) -> None:
        """Wait until it serves, with as many others as it takes."""
        wait_for(
            lambda: self._get("/v2/keys/?quorum=true", 30) is not None,
            60,
            lambda: f"{self._name}; it says: {self._log.read_text()[-300:]}",
        )

    def _get(self, path: str, seconds: float) -> bytes | None:
        """The body of an answer; None if there is none, or it is not 200."""
        try:
            with self._connected(seconds) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        return body if answer.status == 200 else None

    @contextmanager
    def _connected(self, seconds: float) -> Iterator[http.client.HTTPConnection]:
        """A connection from within the namespace, while the body runs.

        :param seconds: to wait for each answer.
        """
        address = self.url.removeprefix("http://").partition(":")[0]
        connection = http.client.HTTPConnection(address, 2379)
        connection.auto_open = 0  # a second one would be from our own namespace
        try:
            connection.sock = self._net.socket(socket.AF_INET, socket.SOCK_STREAM)
            connection.sock.settimeout(seconds)
            connection.sock.connect((address, 2379))
            yield connection
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End etcd by a signal; its data stay. SIGSTOP and SIGCONT freeze and thaw it."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:  # it may answer a request before it stops
            pid = self._process.pid
            wait_for(lambda: is_paused(pid), 30, f"{self._name} to be paused")
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._process.wait()

    def wipe(self) -> None:
        """End etcd and remove its data, as when a disk is lost; `start` begins anew."""
        self.kill()
        shutil.rmtree(self._directory / self._name)

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl for the v2 API; a machine that is paused for a while causes no error."""
        patience = ("--timeout=120s", "--total-timeout=120s")
        return self._net.run(
            "env", "ETCDCTL_API=2", "etcdctl", f"--endpoints={self.url}", *patience, *arguments
        )

    def configure(self, config: dict[str, Any] | str) -> None:
        """Write the network config."""
        text = config if isinstance(config, str) else json.dumps(config)
        with self._connected(120) as connection:
            _change(connection, "config", {"value": text})

    def put_leases(self, values: Mapping[str, str], ttl: int = 86400) -> None:
        """Write many leases at once, by the last part of their keys."""
        self.change_leases(list(values.items()), ttl)

    def change_leases(
        self, changes: Sequence[tuple[str, str | None]], ttl: int = 86400, pause: float = 0
    ) -> None:
        """Write leases in this order, or delete those whose value is None.

        :param pause: seconds from the beginning of one change to that of the next, at least.
        """
        with self._connected(120) as connection:
            for key, value in changes:
                due = time.monotonic() + pause
                fields = {"value": value, "ttl": str(ttl)} if value is not None else None
                _change(connection, f"subnets/{key}", fields)
                time.sleep(max(0, due - time.monotonic()))

    def leases(self) -> dict[str, dict[str, Any]]:
        """The nodes of etcd under subnets/ (value, ttl, ...), by the last part of their keys."""
        body = self._get(f"/v2/keys{PREFIX}/subnets?quorum=true&sorted=true", 120)
        if body is None:
            return {}
        nodes = json.loads(body)["node"].get("nodes", [])
        return {node["key"].rpartition("/")[2]: node for node in nodes}

    def kill(self) -> None:
        """End it for good, in any state."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def _change(
    connection: http.client.HTTPConnection, key: str, fields: Mapping[str, str] | None
) -> None:
    """Write a key of the network, or delete it."""
    method, body = ("PUT", urlencode(fields)) if fields is not None else ("DELETE", None)
    head = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request(method, f"/v2/keys{PREFIX}/{key}", body, head)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status not in (200, 201):
        raise WorldError(f"{method} {key}: {text.decode()}")
