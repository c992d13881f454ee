"""Log lines: for people, for the journal, for machines."""

import json
import logging
import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from flannel.logs import JournalFormatter, JsonFormatter, TextFormatter, fields, is_journal


def record(level: int, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("flannel.daemon", level, __file__, 1, message, args, None)


@pytest.mark.parametrize(
    ("level", "priority"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_the_journal_gets_the_priority_of_each_line(level: str, priority: int) -> None:
    shown = JournalFormatter("%(message)s").format(record(getattr(logging, level), "one\ntwo"))
    assert shown == f"<{priority}>one\n<{priority}>two"


def test_json_is_one_object_a_line() -> None:
    shown = JsonFormatter().format(record(logging.WARNING, 'cannot add "%s"\n', "10.5.1.0/24"))
    line = json.loads(shown)
    assert "\n" not in shown
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "flannel.daemon",
        "message": 'cannot add "10.5.1.0/24"\n',
    }


def test_fields_are_name_and_value_or_members() -> None:
    made = record(logging.INFO, "the peers have changed")
    made.__dict__.update(fields(changed=3, subnet=IPv4Network("10.1.5.0/24")))
    assert TextFormatter("%(levelname)s %(message)s").format(made) == (
        "INFO the peers have changed changed=3 subnet=10.1.5.0/24"
    )
    assert JournalFormatter("%(message)s").format(made).endswith(" changed=3 subnet=10.1.5.0/24")
    line = json.loads(JsonFormatter().format(made))
    assert (line["changed"], line["subnet"]) == (3, "10.1.5.0/24")


def test_the_journal_is_told_from_a_file_that_inherits_its_variable(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(stream, named)
        assert not is_journal(stream, {"JOURNAL_STREAM": "8:1"})
        assert not is_journal(stream, {})


def test_flanneld_logs_json_on_request() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flannel", "-log-format=json", "-subnet-dir=/x"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2  # before there is a log, a mistake is told in words
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import logging; from flannel import logs; logs.set_up(0, 'json', {});"
            "logging.getLogger('flannel').info('x'); logging.getLogger('flannel').debug('y')",
        ],
        capture_output=True,
        text=True,
    )
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["x"]
