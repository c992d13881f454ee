"""The command `flannel` on a host, once, or until it tells what it should."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import fork_server
from etcd_node import ETCD
from hosts import FLANNELD, Host
from namespaces import Completed, Namespace, wait_for


def flannel(host: Host, *arguments: str, within: tuple[str, ...] = ()) -> Completed:
    """Run the operator's command on a host, with the daemon's variables.

    :param within: what starts it, such as setpriv with its options.
    """
    variables = {
        "FLANNELD_ETCD_ENDPOINTS": ETCD,
        "FLANNELD_SUBNET_FILE": str(host.subnet_file),
        "FLANNELD_STATE_DIR": str(host.state_dir),
    }
    argv = [str(FLANNELD.with_name("flannel")), *arguments]
    if not within and fork_server.is_wanted(variables):
        return fork_server.run(host.name, argv, {**os.environ, **variables})
    assignments = (f"{name}={value}" for name, value in variables.items())
    return host.try_run("env", *assignments, *within, *argv)


def status_of(host: Host) -> dict[str, Any]:
    """What the daemon reports of itself, as ``flannel status --json`` shows it, but sooner."""
    # It drops a client that is paused for seconds before it has asked.
    answers = (page_of(host, "/status") for _ in range(5))
    head, _, body = next(filter(None, answers), b"").partition(b"\r\n\r\n")
    assert b" 200 " in head, head
    found: dict[str, Any] = json.loads(body)
    return found


def page_of(host: Host, path: str) -> bytes:
    """The answer of the daemon's socket, with its head; empty if it has dropped us."""
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.settimeout(120)
        daemon.connect(str(host.subnet_file.with_name("flanneld.sock")))
        with suppress(BrokenPipeError, ConnectionResetError):
            daemon.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return b"".join(iter(lambda: daemon.recv(1 << 16), b""))
    return b""


def findings(host: Host) -> dict[str, str]:
    """What check has found, by name."""
    done = flannel(host, "check", "--json")
    assert done.stderr == ""
    found = json.loads(done.stdout)["findings"]
    faults = [each for each in found if each["severity"] == "fault"]
    assert done.returncode == (1 if faults else 0)
    assert all(each["why"] and each["cure"] for each in found)
    return {each["finding"]: each["what"] for each in found}


def wait_findings(host: Host, *names: str) -> dict[str, str]:
    """Wait until check finds these and nothing else.

    While the machine is paused, a peer is silent, too.
    """
    found: dict[str, str] = {}

    def are_found() -> bool:
        nonlocal found
        found = findings(host)
        return found.keys() == {*names}

    wait_for(are_found, 30, lambda: f"{names} to be found, and not {found}")
    return found


def wait_check(host: Host, text: str) -> None:
    """Wait until check says just that."""
    wait_for(lambda: flannel(host, "check").stdout == text, 30, text)


def peers(host: Host) -> list[dict[str, Any]]:
    """What the command of that name tells."""
    told: list[dict[str, Any]] = json.loads(flannel(host, "peers", "--json").stdout)["peers"]
    return told


def wait_peer(host: Host, state: str) -> dict[str, Any]:
    """The only peer there is, once it is in that state."""
    found: list[dict[str, Any]] = []

    def is_so() -> bool:
        nonlocal found
        found = peers(host)
        return [each["state"] for each in found] == [state]

    wait_for(is_so, 30, lambda: f"one peer, {state}; there is {found}")
    return found[0]


@contextmanager
def planted(place: Namespace, plant: str, undo: str) -> Iterator[None]:
    """A fault while the body runs; both arguments are shell commands."""
    place.run("sh", "-ec", plant)
    try:
        yield
    finally:
        place.run("sh", "-ec", undo)
