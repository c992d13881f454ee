"""Context: what every command receives: options, the store, the daemon, this host, output."""

import asyncio
import http.client
import json
import os
import re
import socket
import sys
from collections.abc import (
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from flannel.cli import probe
from flannel.cli.host_view import Host
from flannel.errors import BadOption, FlannelError
from flannel.firewall.removal import Part
from flannel.health.pages import socket_path
from flannel.kernel.doors import Kernel
from flannel.kernel.netlink import Netlink
from flannel.kernel.rtnetlink import RtNetlink
from flannel.options.table import Options
from flannel.printable import LONGEST, as_json, ask, printable, say, say_whole
from flannel.stores import ConfigDocument, Store, open_store

ENVIRONMENT_FILES = (Path("/etc/default/flanneld"), Path("/run/flannel/options.env"))
"""The files of variables that flanneld.service reads: the operator's shell has none of them."""

_PATIENCE = 3.0
_WIDEST = 60
"""Characters of a cell: our own values are shorter, and a long foreign one is cut."""


class DaemonDown(FlannelError):
    """flanneld does not answer on its socket."""


class DaemonUnseen(DaemonDown):
    """Only root may ask it, so it is not known whether it would answer."""


@dataclass(frozen=True)
class Context:
    """All doors of a command to the world. Tests hand in others.

    :ivar as_json: print one JSON document instead of text for people.
    :ivar yes: do not ask.
    """

    options: Options
    as_json: bool = False
    yes: bool = False

    @cached_property
    def store(self) -> Store:
        """The cluster's store, as flanneld's options name it."""
        return open_store(self.options.etcd)

    async def config_document(self) -> ConfigDocument | None:
        """The network config in the store as it is now.

        :raises StoreError: it cannot be read.
        """
        async for document in self.store.follow_config():
            return document
        return None

    async def ask_daemon(self, path: str) -> Any:
        """A document of the running flanneld: ``/status`` or ``/peers``.

        :raises DaemonDown: it does not answer.
        :raises DaemonUnseen: this process may not ask.
        """
        return await asyncio.to_thread(_ask, socket_path(self.options.subnet_file), path)

    async def daemon_version(self) -> str:
        """The version of the running flanneld; "" if it does not answer."""
        try:
            document = await self.ask_daemon("/status")
        except DaemonDown:
            return ""
        return str(document.get("version", "")) if isinstance(document, dict) else "unknown"

    @asynccontextmanager
    async def kernel(self) -> AsyncIterator[Kernel]:
        """The doors to the kernel of this host, open while the body runs.

        :raises KernelError: they cannot be opened.
        """
        async with Netlink() as netlink:
            with RtNetlink() as tables:
                yield Kernel(netlink, tables)

    @asynccontextmanager
    async def host(self) -> AsyncIterator[Host]:
        """This host with its links, addresses and firewall, while the body runs.

        :raises KernelError: links or addresses cannot be read.
        """
        async with self.kernel() as kernel:
            host = await Host.look(kernel.netlink, kernel.tables)
            await host.read_firewall(self.options.guard_mark)
            yield host

    async def find_handed_over(self) -> tuple[list[Part], list[str]]:
        """What -hand-over has made on this host, and why something was not looked at."""
        # Imported here, as `flannel cleanup` alone needs it.
        from flannel.handover.all_recipients import find_left

        options = self.options
        return await find_left(options.hand_over, options.subnet_file, os.environ)

    def pinger(self) -> probe.Pinger:
        """Sends echoes.

        :raises KernelError: this process may not.
        """
        return probe.Pinger()

    async def ask_peers(
        self, addresses: Collection[IPv4Address]
    ) -> dict[IPv4Address, probe.PortAnswer]:
        """Ask the flannelds at these addresses of the overlay whether they are ready."""
        return await probe.ask_peers(addresses, self.options.probe_port)

    async def ask_port(self, address: IPv4Address, port: int) -> probe.PortAnswer:
        """Ask whether a UDP port of another host is closed."""
        return await probe.ask_port(address, port, self.options.guard_mark)

    def show(self, document: Any, *lines: str, on_one_line: bool = False) -> None:
        """Print the document as JSON, or the lines that are not empty.

        :param on_one_line: the JSON, so that its reader can separate the documents.
        """
        if self.as_json:
            say_whole(as_json(document, indent=None if on_one_line else 2))
        else:
            say(*filter(None, lines))

    def confirm(self, question: str) -> bool:
        """Ask the operator, unless --yes was given; another program may answer by a pipe.

        :raises BadOption: stdin is not a terminal, and has ended without an answer.
        """
        if self.yes:
            return True
        answer = ask(f"{question} [y/N]")
        if not answer and (sys.stdin is None or not sys.stdin.isatty()):
            raise BadOption("cannot ask for a confirmation: this is no terminal; use --yes")
        return answer.strip().lower() in ("y", "yes")


def _ask(path: Path, page: str) -> Any:
    connection = http.client.HTTPConnection("localhost", timeout=_PATIENCE)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_PATIENCE)
        connection.sock.connect(os.fspath(path))
        connection.request("GET", page)
        return json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) and why.strerror else str(why)
        kind = DaemonUnseen if isinstance(why, PermissionError) else DaemonDown
        raise kind(f"cannot ask flanneld at {path}: {reason}") from why
    finally:
        connection.close()


def environment(
    environ: Mapping[str, str], files: Sequence[Path] = ENVIRONMENT_FILES
) -> dict[str, str]:
    """flanneld's variables: those of its unit's files, overridden by our own.

    :raises BadOption: a file cannot be read.
    """
    found: dict[str, str] = {}
    for file in files:
        try:
            found |= dict(_assignments(file.read_text(errors="replace")))
        except FileNotFoundError:
            pass
        except OSError as why:
            raise BadOption(f"cannot read {file}: {why.strerror}") from None
    return {name: text for name, text in found.items() if name.startswith("FLANNELD_")} | {
        name: text for name, text in environ.items() if name.startswith("FLANNELD_")
    }


_ASSIGNMENT = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)=(.*)")


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """The lines NAME=value of a file in systemd's form (systemd.exec(5), EnvironmentFile=)."""
    for line in text.splitlines():
        match = _ASSIGNMENT.fullmatch(line)
        if match:
            value = match[2].strip()
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            yield match[1], value


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> list[str]:
    """Lines with columns as wide as their widest cell; numbers are aligned right."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *texts, strict=True)]
    right = [
        all(isinstance(row[n], (int, float)) or row[n] is None for row in rows) and bool(rows)
        for n in range(len(head))
    ]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [list(head), *texts]
    ]


def _cell(value: object, widest: int = _WIDEST) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else printable(str(value), widest)


def pairs(values: Iterable[tuple[str, object]]) -> list[str]:
    """Lines of a name and a value; those without a value are left out."""
    lines = [(name, _cell(value, LONGEST)) for name, value in values if value not in (None, "")]
    width = max((len(name) for name, _ in lines), default=0)
    return [f"{name.ljust(width)}  {value}" for name, value in lines]


def duration(seconds: float | None) -> str:
    """E.g. ``23 h 4 min``; "" for None."""
    if seconds is None:
        return ""
    whole = int(abs(seconds))
    sign = "-" if seconds < 0 else ""
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{sign}{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{sign}{whole // 60} min {whole % 60} s" if whole >= 60 else f"{sign}{whole} s"
