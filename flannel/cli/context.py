"""What every command is given."""

import asyncio
import http.client
import json
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flannel.errors import BadOption, FlannelError
from flannel.health.pages import socket_path
from flannel.options.table import Options
from flannel.printable import LONGEST, as_json, printable, say, say_whole
from flannel.stores import ConfigDocument, Store, open_store

ENVIRONMENT_FILES = (Path("/etc/default/flanneld"), Path("/run/flannel/options.env"))
"""Where flanneld.service has its variables from: the operator's shell has none of them."""

_PATIENCE = 3.0
_WIDEST = 60
"""Characters of a cell: of our own values none has more, and a foreign one moves no column away."""


class DaemonDown(FlannelError):
    """flanneld does not answer on its socket."""


class DaemonUnseen(DaemonDown):
    """It may be asked by root only: nobody knows whether it would answer."""


@dataclass(frozen=True)
class Context:
    """What a command works with.

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
        :raises DaemonUnseen: we may not ask.
        """
        return await asyncio.to_thread(_ask, socket_path(self.options.subnet_file), path)

    def show(self, document: Any, *lines: str) -> None:
        """Print the one or the other."""
        if self.as_json:
            say_whole(as_json(document, indent=2))
        else:
            say(*filter(None, lines))

    def confirm(self, question: str) -> bool:
        """Ask, unless --yes was given.

        :raises BadOption: there is nobody to ask.
        """
        if self.yes:
            return True
        if not sys.stdin.isatty():
            raise BadOption("cannot ask whether to go on: this is no terminal; --yes says so")
        return input(f"{printable(question)} [y/N] ").strip().lower() in ("y", "yes")


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
    """The variables that flanneld gets: those of its unit's files, and over them our own.

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
    """Lines with columns as wide as what is in them; numbers stand to the right."""
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


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Lines of a name and a value; those without a value are left out."""
    lines = [(name, _cell(value, LONGEST)) for name, value in pairs if value not in (None, "")]
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
