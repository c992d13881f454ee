"""Every exception of errors.py has a reaction in the table."""

import pytest

from flannel import errors
from flannel.daemon.reactions import INHERITED, REACTIONS, After, Pause, reaction_to
from flannel.errors import FlannelError, KernelError

CLASSES: set[type[FlannelError]] = {
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, FlannelError)
}


def made(kind: type[FlannelError]) -> FlannelError:
    return kind("do it", 1) if issubclass(kind, KernelError) else kind("cannot do it: why")


def test_every_class_has_a_row_or_states_whose_row_it_shares() -> None:
    assert len(CLASSES) > 20
    assert REACTIONS.keys() | INHERITED.keys() == CLASSES
    assert not REACTIONS.keys() & INHERITED.keys()


@pytest.mark.parametrize("kind", sorted(CLASSES, key=str))
def test_an_error_leads_to_the_row_that_is_stated_for_it(kind: type[FlannelError]) -> None:
    assert reaction_to(made(kind)) is REACTIONS[INHERITED.get(kind, kind)]


@pytest.mark.parametrize("reaction", REACTIONS.values())
def test_each_row_names_the_error_in_its_line(reaction: object) -> None:
    (row,) = (each for each in REACTIONS.values() if each is reaction)
    assert row.text % "cannot do it: why" == f"cannot do it: why{row.text[2:]}"


def test_only_a_host_that_gives_its_lease_up_makes_a_new_identity() -> None:
    for row in REACTIONS.values():
        if After.RENEW_IDENTITY in row.after:
            assert After.GIVE_UP_LEASE in row.after


def test_an_error_that_recurs_is_a_condition_and_has_a_pause() -> None:
    for row in REACTIONS.values():
        assert row.pause is not Pause.NONE or not row.is_condition
