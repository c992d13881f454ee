"""A condition is logged when it begins to hold or changes, and is shown for as long as it holds."""

import logging

import pytest

from flannel.conditions import Condition, Conditions


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(logging.getLogger("test"))


def test_each_change_is_one_warning(
    conditions: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    conditions.report(Condition.STORE, "cannot read it: refused")
    conditions.report(Condition.STORE, "cannot read it: refused")
    conditions.report(Condition.STORE, "cannot read it: no answer")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "cannot read it: refused"),
        ("WARNING", "cannot read it: no answer"),
    ]


def test_a_different_wording_of_the_same_is_not_logged(
    conditions: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    conditions.report(Condition.STORE, "refused", about=OSError)
    conditions.report(Condition.STORE, "reset", about=OSError)
    assert caplog.messages == ["refused"]


def test_a_cleared_condition_does_not_hold_and_is_logged_again(
    conditions: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    conditions.report(Condition.KERNEL, "no memory")
    assert conditions.text(Condition.KERNEL) == "no memory"
    assert conditions.clear(Condition.KERNEL)
    assert conditions.text(Condition.KERNEL) == ""
    assert not conditions.clear(Condition.KERNEL)
    conditions.report(Condition.KERNEL, "no memory")
    assert caplog.messages == ["no memory", "no memory"]


def test_the_end_of_a_condition_is_logged_once(
    conditions: Conditions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    conditions.clear(Condition.DOCKER_MTU)
    conditions.report(Condition.DOCKER_MTU, "too large")
    conditions.clear(Condition.DOCKER_MTU)
    conditions.clear(Condition.DOCKER_MTU)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "too large"),
        ("INFO", "the MTU of docker's bridge fits the overlay"),
    ]


def test_the_document_has_the_texts_of_those_that_hold_by_name(conditions: Conditions) -> None:
    assert conditions.document() == {}
    conditions.report(Condition.SUBNET_ENV, "cannot write it")
    conditions.report(Condition.STATE, "cannot save it")
    conditions.clear(Condition.STATE)
    assert conditions.document() == {"subnet.env": "cannot write it"}
