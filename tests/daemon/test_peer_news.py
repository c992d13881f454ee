"""PeerNews: what the log says about peers that came, changed and went."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from flannel.daemon.peer_news import PeerNews, listed
from flannel.lease import Lease, LeaseAttrs


def lease(n: int) -> Lease:
    return Lease(IPv4Network((0x0A010000 + n * 256, 24)), LeaseAttrs(IPv4Address(n)))


ONE, TWO, THREE = lease(1), lease(2), lease(3)


def peers(*leases: Lease) -> dict[IPv4Network, Lease]:
    return {each.subnet: each for each in leases}


def test_each_kind_of_change_has_its_word() -> None:
    news = PeerNews(peers(ONE, TWO))
    moved = replace(TWO, attrs=LeaseAttrs(IPv4Address(9)))
    news.note({ONE.subnet, TWO.subnet, THREE.subnet})
    assert news.line(peers(moved, THREE)) == (
        "joined 10.1.3.0/24 of 0.0.0.3; changed 10.1.2.0/24 of 0.0.0.9; left 10.1.1.0/24 of 0.0.0.1"
    )
    assert news.count == 3
    assert news.line(peers(moved, THREE)) == ""


def test_a_change_that_was_reverted_is_not_logged() -> None:
    news = PeerNews(peers(ONE))
    news.note({ONE.subnet, TWO.subnet})
    assert news.line(peers(ONE)) == ""
    assert news.count == 0


def test_a_peer_that_left_may_join_again() -> None:
    news = PeerNews({})
    for now, line in ((peers(ONE), "joined"), ({}, "left"), (peers(ONE), "joined")):
        news.note({ONE.subnet})
        assert news.line(now) == f"{line} 10.1.1.0/24 of 0.0.0.1"


def test_five_of_many_peers_are_named_and_the_others_counted() -> None:
    assert listed(range(5)) == "0, 1, 2, 3, 4"
    assert listed(range(7)) == "0, 1, 2, 3, 4 and 2 more"
