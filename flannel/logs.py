"""How log lines look: for a person, for the journal, or one JSON object each.

log.info("%d peers have changed, there are %d", 3, 57, extra=fields(changed=3, peers=57))

3 peers have changed, there are 57
{"time": ..., "message": "3 peers have changed, there are 57", "changed": 3, "peers": 57}

The sentence says all there is. Fields say it once more for programs, and are in JSON only.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

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
            logging.Formatter(stamp + "%(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
        )
    # Libraries report through exceptions, which we classify; what else they say is for -v=2. They
    # inherit the root's level: pyroute2 resets its own when it is imported.
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.CRITICAL)
    logging.getLogger("flannel").setLevel(logging.DEBUG if verbosity > 0 else logging.INFO)
    if verbosity <= 1:
        # Exceptions that nobody was there to get: bugs of ours.
        logging.getLogger("asyncio").setLevel(logging.ERROR)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether ``stream`` is the journal's.

    $JOURNAL_STREAM names that by device and inode, and is inherited by programs whose output goes
    elsewhere (systemd.exec(5)).
    """
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def fields(**values: object) -> dict[str, object]:
    """For ``extra=`` of a log call: what the line is about, in a form that programs can read."""
    return {"fields": values}


class JournalFormatter(logging.Formatter):
    """Each line with its priority, of a traceback too: the journal makes an entry of each."""

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
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
