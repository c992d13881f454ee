"""The form of log lines: for a person, for the journal, or one JSON object each.

log.info("%d peers changed, there are %d", 3, 57, extra=fields(changed=3, peers=57))

3 peers changed, there are 57
{"time": ..., "message": "3 peers changed, there are 57", "changed": 3, "peers": 57}

The sentence is complete. Fields repeat its values for programs, and are in JSON only.
"""

import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

from flannel.printable import LONGEST, as_json, printable

_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
"""Python's levels and those of syslog(3), which sd-daemon(3) reads in front of a line as <N>."""


def set_up(verbosity: int, form: str, environ: Mapping[str, str]) -> None:
    """Log to stderr.

    :param verbosity: 1 for the steps of flanneld, 2 for those of its libraries as well.
    :param form: ``text`` or ``json``.
    """
    handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter())
    elif is_journal(sys.stderr, environ):
        handler.setFormatter(JournalFormatter("%(message)s"))
    else:
        # journald and docker stamp each line themselves; a person at a terminal gets the time.
        stamp = "" if "JOURNAL_STREAM" in environ else "%(asctime)s.%(msecs)03d "
        handler.setFormatter(
            LineFormatter(stamp + "%(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    # Libraries report errors as exceptions, which we classify; their log messages are for -v=2.
    # They inherit the root's level: pyroute2 resets its own when it is imported.
    logging.raiseExceptions = False  # a line that cannot be written is no reason to write more
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.CRITICAL)
    logging.getLogger("flannel").setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    if verbosity <= 1:
        # Exceptions of tasks that nothing awaits: bugs of ours.
        logging.getLogger("asyncio").setLevel(logging.ERROR)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether ``stream`` leads to the journal.

    $JOURNAL_STREAM names the journal's stream by device and inode. Programs whose output leads
    elsewhere inherit the variable as well (systemd.exec(5)).
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def catch_mistakes(log: logging.Logger) -> None:
    """Log unhandled exceptions, which Python would print with foreign text unescaped."""

    def report(kind: type[BaseException], why: BaseException, trace: TracebackType | None) -> None:
        log.critical("stopped by a bug", exc_info=(kind, why, trace))

    sys.excepthook = report


def fields(**values: object) -> dict[str, object]:
    """For ``extra=`` of a log call: the values in the line, in a form that programs can read."""
    return {"fields": values}


class LineFormatter(logging.Formatter):
    """Formats each record as one line; the lines of a traceback are indented.

    Foreign text is made printable where it is read. This is the second line of defence: no record
    can look like two, or control a terminal.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # logging's name
        """See `logging.Formatter`."""
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # logging's name
        """See `logging.Formatter`."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {printable(line)}" for line in lines)


class JournalFormatter(LineFormatter):
    """Puts the priority in front of each line, of a traceback too: each becomes a journal entry."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        priority = next((n for level, n in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


class JsonFormatter(logging.Formatter):
    """``{"time": "2026-01-31T12:00:00.000Z", "level": "info", "logger": ..., "message": ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:LONGEST],
            **{name: _cut(each) for name, each in getattr(record, "fields", {}).items()},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return as_json(line)


def _cut(value: object) -> object:
    return value[:LONGEST] if isinstance(value, str) else value
