"""Log lines: for people, for the journal, for machines."""

import json
import logging
import os
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType

import pytest

from flannel.logs import JournalFormatter, JsonFormatter, LineFormatter, fields, is_journal


def record(level: int, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("flannel.daemon.life", level, __file__, 1, message, args, None)


@pytest.mark.parametrize(
    ("level", "priority"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7)],
)
def test_the_journal_gets_the_priority_of_each_line(level: str, priority: int) -> None:
    made = record(getattr(logging, level), "one\ntwo")
    made.exc_info = failure("three\nfour")
    first, *others = JournalFormatter("%(message)s").format(made).split("\n")
    assert first == f"<{priority}>one\\ntwo"
    assert [line[:7] for line in others] == [f"<{priority}>    "] * len(others)
    assert [line.strip() for line in others[-2:]] == [
        f"<{priority}>    ValueError: three",
        f"<{priority}>    four",
    ]


def failure(text: str) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    """An exception with its traceback."""
    try:
        raise ValueError(text)
    except ValueError as why:
        return ValueError, why, why.__traceback__


FORMATTERS = [LineFormatter("%(levelname)s %(message)s"), JournalFormatter("%(message)s"),
              JsonFormatter()]  # fmt: skip
EVIL = "\x1b]0;OWNED\x07\r\nFORGED\x9b31m\x7f\u202e\u2028\ud800" + "x" * 60_000


@pytest.mark.parametrize("formatter", FORMATTERS, ids=lambda each: type(each).__name__)
def test_no_record_has_control_over_a_terminal_or_looks_like_two(
    formatter: logging.Formatter,
) -> None:
    made = record(logging.WARNING, "skipping %s", EVIL)
    made.exc_info = failure(EVIL)
    made.__dict__.update(fields(subnet=EVIL))
    lines = formatter.format(made).split("\n")
    for line in lines:
        assert line.isprintable()
        assert not line.startswith("FORGED")
    assert "FORGED" in lines[0]
    longest = (
        2000 if not isinstance(formatter, JsonFormatter) else 100_000
    )  # an exception is a text
    assert max(map(len, lines)) < longest


def test_an_exception_that_nothing_handles_has_no_control_over_a_terminal() -> None:
    script = (
        "import logging; from flannel import logs\n"
        "logs.set_up(0, 'text', {})\n"
        "logs.catch_mistakes(logging.getLogger('flannel'))\n"
        "raise ValueError('\\x1b]0;OWNED\\x07\\nFORGED')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0].endswith("CRITICAL stopped by a bug")
    assert lines[-2:] == [r"    ValueError: \x1b]0;OWNED\x07", "    FORGED"]
    assert all(line.isprintable() for line in lines)


def test_json_is_one_object_a_line() -> None:
    shown = JsonFormatter().format(record(logging.WARNING, 'cannot add "%s"\n', "10.5.1.0/24"))
    line = json.loads(shown)
    assert "\n" not in shown
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "flannel.daemon.life",
        "message": 'cannot add "10.5.1.0/24"\n',
    }


def test_fields_are_in_json_only_and_the_sentence_is_in_both() -> None:
    made = record(logging.INFO, "peers: joined %s", "10.1.5.0/24")
    made.__dict__.update(fields(changed=1, subnet=IPv4Network("10.1.5.0/24")))
    assert JournalFormatter("%(message)s").format(made) == "<6>peers: joined 10.1.5.0/24"
    line = json.loads(JsonFormatter().format(made))
    assert line["message"] == "peers: joined 10.1.5.0/24"
    assert (line["changed"], line["subnet"]) == (1, "10.1.5.0/24")


def test_a_file_is_not_taken_for_the_journal_though_its_variable_is_set(tmp_path: Path) -> None:
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
    assert done.returncode == 2  # before logging is set up, a mistake is plain text on stderr
    assert [json.loads(line)["message"] for line in lines_at(0, "json")] == ["step", "lost"]


@pytest.mark.parametrize(
    ("verbosity", "said"),
    [
        (0, ["step", "lost"]),
        (1, ["step", "detail", "lost"]),
        (2, ["step", "detail", "packet", "news", "lost"]),
    ],
)
def test_messages_of_libraries_are_logged_with_verbosity_2(verbosity: int, said: list[str]) -> None:
    assert [line.rpartition(" ")[2] for line in lines_at(verbosity, "text")] == said


def lines_at(verbosity: int, form: str) -> list[str]:
    """What is logged of a few things that flanneld and its libraries say."""
    script = (
        "import logging; from flannel import logs\n"
        f"logs.set_up({verbosity}, {form!r}, {{}})\n"
        "import pyroute2\n"  # as flanneld has it: later, and it changes its logger's level
        "logging.getLogger('flannel.daemon.life').info('step')\n"
        "logging.getLogger('flannel.daemon.life').debug('detail')\n"
        "logging.getLogger('pyroute2.netlink.core').debug('packet')\n"
        "logging.getLogger('urllib3').warning('news')\n"
        "logging.getLogger('asyncio').error('lost')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()
