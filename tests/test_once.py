"""Once: a message is logged once, until it changes or was forgotten."""

import logging
import tracemalloc
from ipaddress import IPv4Network

import pytest

from flannel.once import Once

LOG = logging.getLogger("test")


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO)
    return [record.getMessage() for record in caplog.records]


def test_only_a_new_message_of_a_subject_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    once = Once(LOG)
    assert logged(caplog) == []
    for subject, message in (("a", "1"), ("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")):
        once.warn(subject, message)
    once.info("c", "3")
    once.info("c", "3")
    assert logged(caplog) == ["1", "1", "2", "1", "3"]


def test_a_forgotten_subject_is_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    once = Once(LOG)
    once.warn("a", "1")
    assert once
    assert once.forget("a")
    assert not once
    assert not once.forget("a")
    once.warn("a", "1")
    assert logged(caplog) == ["1", "1"]


def test_a_different_wording_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    once = Once(LOG)
    once.warn("a", "connection refused", about=OSError)
    once.warn("a", "connection reset", about=OSError)
    once.warn("a", "wrong password", about=ValueError)
    assert logged(caplog) == ["connection refused", "wrong password"]


class TestMany:
    """However many subjects there are, the log stays short and the memory bounded."""

    def test_the_messages_after_the_first_hundred_are_counted(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        once = Once(LOG)
        for _ in range(3):  # a store full of garbage, read again and again
            for number in range(50_000):
                once.warn(f"key {number}", f"skipping key {number}")
            once.summarize()
        lines = logged(caplog)
        assert lines[:100] == [f"skipping key {number}" for number in range(100)]
        assert lines[100:] == ["and 49900 more such messages; the last: skipping key 49999"]

    def test_a_subject_that_keeps_changing_is_some_lines_a_minute(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = 0.0
        once = Once(LOG, lambda: now)
        for number in range(36_000):  # for an hour, ten times a second
            now = number / 10
            once.warn("a", f"version {number}")
        named = [line for line in logged(caplog) if line.startswith("version")]
        counted = [int(line.split()[1]) for line in logged(caplog) if line.startswith("and")]
        assert len(named) <= 100 + 3600 / 6
        assert len(counted) <= 60
        assert 35_000 <= len(named) + sum(counted) <= 36_000

    def test_after_a_pause_messages_are_logged_one_by_one_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = 0.0
        once = Once(LOG, lambda: now)
        for number in range(200):
            once.warn(number, "x")
        once.summarize()
        now = 3600.0
        once.warn("later", "y")
        assert logged(caplog)[-1] == "y"

    def test_endlessly_many_subjects_do_not_fill_the_memory(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        once = Once(LOG)
        tracemalloc.start()
        try:
            for number in range(250_000):
                once.info(f"{number}{'x' * 1000}", "y" * 1000)
            once.summarize()
            assert tracemalloc.get_traced_memory()[0] < 30_000_000
        finally:
            tracemalloc.stop()
        assert len(logged(caplog)) <= 110
        assert [line for line in logged(caplog) if line.startswith("more than 100000 such")]

    def test_a_message_that_cannot_be_read_back_can_be_forgotten(self) -> None:
        once = Once(logging.getLogger("nobody.listens"))
        for number in range(2_000):
            once.warn(number, "x")
        assert once.message_of(0) == "x"
        assert once.message_of(1_999) == ""
        assert once.forget(1_999)
        assert not once.forget(1_999)

    def test_networks_with_a_common_prefix_are_different_subjects(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        once = Once(LOG)
        for subnet in ("10.5.1.0/24", "10.5.1.128/25"):  # Python's hash is the same
            once.warn(IPv4Network(subnet), "x")
        assert logged(caplog) == ["x", "x"]
