"""The etcd of a world: one member, with the v2 API, and what is in it."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from namespaces import Namespace, run, wait_for

PREFIX = "/coreos.com/network"
ETCD = "http://192.0.2.1:2379"


class Etcd:
    """An etcd in the namespace ``net``, which has its address; not started yet."""

    def __init__(self, net: Namespace, directory: Path) -> None:
        self._net = net
        self._directory = directory
        self._process: subprocess.Popen[Any] | None = None

    def start(self, *flags: str) -> None:
        """Start etcd, or start it again with the data it had."""
        peer = "http://127.0.0.1:2380"
        with (self._directory / "etcd.log").open("ab") as log:
            self._process = self._net.popen(
                "etcd", "--enable-v2", f"--data-dir={self._directory / 'etcd'}",
                f"--listen-client-urls={ETCD}", f"--advertise-client-urls={ETCD}",
                f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=default={peer}", "--logger=zap", *flags, stdout=log, stderr=log,
            )  # fmt: skip
        health = ("env", "ETCDCTL_API=2", "etcdctl", f"--endpoints={ETCD}", "cluster-health")
        wait_for(
            lambda: self._net.try_run(*health).returncode == 0,
            15,
            lambda: f"etcd; it says: {(self._directory / 'etcd.log').read_text()[-300:]}",
        )

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End etcd by a signal; its data stay. SIGSTOP and SIGCONT freeze and thaw it."""
        assert self._process is not None
        self._process.send_signal(number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._process.wait()

    def wipe(self) -> None:
        """End etcd and remove its data, as when a disk is lost; `start` begins anew."""
        self.kill()
        shutil.rmtree(self._directory / "etcd")

    def ctl(self, *arguments: str) -> str:
        """Run etcdctl for the v2 API."""
        return self._net.run("env", "ETCDCTL_API=2", "etcdctl", f"--endpoints={ETCD}", *arguments)

    def configure(self, config: dict[str, Any] | str) -> None:
        """Write the network config."""
        text = config if isinstance(config, str) else json.dumps(config)
        self.ctl("set", f"{PREFIX}/config", text)

    def put_leases(self, values: Mapping[str, str], ttl: int = 86400) -> None:
        """Write many leases at once, by the last part of their keys."""
        self.change_leases(list(values.items()), ttl)

    def change_leases(
        self, changes: Sequence[tuple[str, str | None]], ttl: int = 86400, pause: float = 0
    ) -> None:
        """Write leases in this order, or delete those whose value is None.

        :param pause: seconds from the beginning of one change to that of the next, at least.
        """
        script = (
            "import http.client, json, sys, time, urllib.parse\n"
            "connection = http.client.HTTPConnection('192.0.2.1', 2379)\n"
            "for key, value in json.load(sys.stdin):\n"
            f"    due = time.monotonic() + {pause}\n"
            f"    body = urllib.parse.urlencode({{'value': value, 'ttl': {ttl}}})\n"
            "    method, body = ('PUT', body) if value is not None else ('DELETE', None)\n"
            f"    connection.request(method, '/v2/keys{PREFIX}/subnets/' + key, body,\n"
            "        {'Content-Type': 'application/x-www-form-urlencoded'})\n"
            "    answer = connection.getresponse()\n"
            "    assert answer.status in (200, 201), answer.read()\n"
            "    answer.read()\n"
            "    time.sleep(max(0, due - time.monotonic()))\n"
        )
        run(
            "nsenter", f"--net=/run/netns/{self._net.name}", sys.executable, "-c", script,
            stdin=json.dumps(changes),
        )  # fmt: skip

    def leases(self) -> dict[str, dict[str, Any]]:
        """etcd's nodes under subnets/ (value, ttl, ...), by the last part of their keys."""
        script = (
            "import sys, urllib.request\n"
            f"url = '{ETCD}/v2/keys{PREFIX}/subnets?quorum=true&sorted=true'\n"
            "print(urllib.request.urlopen(url).read().decode())\n"
        )
        done = self._net.try_run(sys.executable, "-c", script)
        if done.returncode != 0:
            return {}
        nodes = json.loads(done.stdout)["node"].get("nodes", [])
        return {node["key"].rpartition("/")[2]: node for node in nodes}

    def kill(self) -> None:
        """End it for good, whatever state it is in."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
