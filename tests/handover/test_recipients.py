"""-hand-over: each recipient gets its share, is looked at again, and delays no other."""

import asyncio
import logging
from collections.abc import Sequence
from ipaddress import IPv4Interface

import pytest
from virtual_time import Clock
from waiting import running

from flannel.conditions import Condition, Conditions
from flannel.errors import CannotHandOver
from flannel.handover.recipients import LOOK, RETRY, Offer, Recipients, offers

GATEWAY = IPv4Interface("10.5.1.1/24")


class Told:
    """A recipient that answers as it is told.

    :ivar answers: for each look: whether something was changed, or the reason why it cannot be;
        the last one again and again.
    :ivar given: the offers.
    """

    def __init__(self, name: str, *answers: bool | str) -> None:
        self.name = name
        self.answers = list(answers)
        self.given: list[Offer] = []

    async def give(self, offer: Offer) -> bool:
        self.given.append(offer)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, str):
            raise CannotHandOver(answer)
        return answer


def kept(clock: Clock, seconds: float, recipients: Sequence[Told]) -> Conditions:
    """The conditions after so long."""
    conditions = Conditions(logging.getLogger("flannel.test"))

    async def work() -> None:
        async with running(Recipients(recipients, conditions).keep(GATEWAY, 1450)):
            await asyncio.sleep(seconds)

    clock.run(work())
    return conditions


def test_one_recipient_has_the_lease_for_itself() -> None:
    (offer,) = offers(GATEWAY, 1450, 1)
    assert offer.is_whole
    assert (str(offer.first), str(offer.last)) == ("10.5.1.2", "10.5.1.254")


def test_several_have_equal_shares_without_the_gateway_and_the_broadcast_address() -> None:
    shares = offers(GATEWAY, 1450, 3)
    assert [(str(each.first), str(each.last)) for each in shares] == [
        ("10.5.1.2", "10.5.1.63"),
        ("10.5.1.64", "10.5.1.127"),
        ("10.5.1.128", "10.5.1.191"),
    ]
    assert str(offers(GATEWAY, 1450, 2)[1].last) == "10.5.1.254"
    assert not any(each.is_whole for each in shares)


def test_a_lease_that_is_too_small_to_be_shared_is_a_condition(clock: Clock) -> None:
    assert len(offers(IPv4Interface("10.5.1.1/30"), 1450, 1)) == 1
    assert len(offers(IPv4Interface("10.5.1.1/29"), 1450, 2)) == 2
    with pytest.raises(CannotHandOver, match=r"10\.5\.1\.0/30 to 2 recipients"):
        offers(IPv4Interface("10.5.1.1/30"), 1450, 2)


def test_a_recipient_that_fails_is_tried_again_and_delays_no_other(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    late = Told("docker network fl", "docker does not run", "docker does not run", True, False)
    early = Told("CNI network x", True, False)
    conditions = kept(clock, 2 * RETRY + LOOK + 1, [late, early])
    assert (len(late.given), len(early.given)) == (4, 2)
    assert conditions.text(Condition.HAND_OVER) == ""
    assert caplog.messages == [
        "docker does not run",
        "CNI network x is made for subnet 10.5.1.1/24, MTU 1450",
        "docker network fl is made for subnet 10.5.1.1/24, MTU 1450",
        "all networks of -hand-over have the lease",
    ]


def test_what_somebody_changes_later_is_logged_as_that(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept(clock, 2 * LOOK + 1, [Told("CNI network x", False, True, False)])
    assert caplog.messages == ["CNI network x was changed or removed; made again"]


def test_the_reasons_of_several_stand_in_one_condition(clock: Clock) -> None:
    conditions = kept(clock, RETRY, [Told("b", "b is down"), Told("a", "a is down")])
    assert conditions.text(Condition.HAND_OVER) == "a is down | b is down"


def test_without_recipients_nothing_is_kept(clock: Clock) -> None:
    clock.run(Recipients([], Conditions(logging.getLogger("flannel.test"))).keep(GATEWAY, 1450))
