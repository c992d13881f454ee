"""A thing is said once, until it is another thing or was over in between."""

import logging

import pytest

from flannel.once import Once

LOG = logging.getLogger("test")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.set_level(logging.INFO)
    return [record.getMessage() for record in caplog.records]


def test_only_news_of_a_subject_is_said(caplog: pytest.LogCaptureFixture) -> None:
    once = Once(LOG)
    assert said(caplog) == []
    for subject, message in (("a", "1"), ("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")):
        once.warn(subject, message)
    once.info("c", "3")
    once.info("c", "3")
    assert said(caplog) == ["1", "1", "2", "1", "3"]


def test_what_was_over_is_news_again(caplog: pytest.LogCaptureFixture) -> None:
    once = Once(LOG)
    once.warn("a", "1")
    assert once
    assert once.forget("a")
    assert not once
    assert not once.forget("a")
    once.warn("a", "1")
    assert said(caplog) == ["1", "1"]


def test_another_wording_of_the_same_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    once = Once(LOG)
    once.warn("a", "connection refused", about=OSError)
    once.warn("a", "connection reset", about=OSError)
    once.warn("a", "wrong password", about=ValueError)
    assert said(caplog) == ["connection refused", "wrong password"]


def test_endlessly_many_subjects_do_not_fill_the_memory() -> None:
    once = Once(logging.getLogger("nobody.listens"))
    for number in range(25_000):
        once.info(number, "x")
    assert len(once._said) <= 10_000
