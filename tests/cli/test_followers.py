"""Which hosts have followed a change of the network config, by what their leases show."""

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from fake_store import FakeStore

from flannel.cli import followers
from flannel.cli.followers import Change, Followers, judge, wait_for_hosts
from flannel.errors import StoreUnavailable
from flannel.lease import Lease, LeaseAttrs
from flannel.network_config import NetworkConfig
from flannel.stores import Snapshot

BEFORE = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}'
AFTER = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7}}'
OTHER_BACKEND = '{"Network": "10.1.0.0/16", "Backend": {"Type": "host-gw"}}'
OTHER_NETWORK = '{"Network": "10.2.0.0/16", "Backend": {"Type": "vxlan"}}'
HOST = LeaseAttrs(IPv4Address("192.0.2.1"), "vxlan", {"VtepMAC": "x"}, "n1")
LEASE = Lease(IPv4Network("10.1.5.0/24"), HOST, 80000, 3)
WRITTEN = 9


def change(after: str = AFTER, before: str = BEFORE) -> Change:
    return Change(before, NetworkConfig.from_json(after), WRITTEN)


def after(lease: Lease = LEASE, **changes: object) -> Lease:
    """As its host writes it in its next run."""
    attrs = replace(lease.attrs, **changes)  # type: ignore[arg-type] # each test names real fields
    return replace(lease, attrs=attrs, index=WRITTEN + 1)


def test_a_host_follows_when_it_writes_its_lease_after_the_change() -> None:
    assert judge([LEASE], [LEASE], change()) == Followers(late=[LEASE])
    assert judge([LEASE], [after()], change()) == Followers(followed=[LEASE])


def test_a_lease_of_the_former_backend_does_not_show_it_however_new() -> None:
    renewed = after()
    assert judge([LEASE], [renewed], change(OTHER_BACKEND)).late == [LEASE]
    changed = after(backend_type="host-gw", backend_data=None)
    assert judge([LEASE], [changed], change(OTHER_BACKEND)).followed == [LEASE]


def test_a_host_that_had_to_take_another_subnet_is_known_by_its_identity() -> None:
    elsewhere = replace(after(public_ip=IPv4Address("192.0.2.2")),
                        subnet=IPv4Network("10.2.8.0/24"))  # fmt: skip
    assert judge([LEASE], [], change(OTHER_NETWORK)).late == [LEASE]
    assert judge([LEASE], [elsewhere], change(OTHER_NETWORK)).followed == [LEASE]


@pytest.mark.parametrize(
    "text",
    [
        BEFORE.replace('"Network"', '"network"'),
        BEFORE.replace("}}", '}, "SubnetMax": "10.1.9.0"}'),
    ],
    ids=["another spelling", "a range that it is in"],
)
def test_a_change_without_effect_is_followed_at_once(text: str) -> None:
    assert judge([LEASE], [LEASE], change(text)).followed == [LEASE]


def test_a_range_that_a_lease_is_not_in_concerns_its_host() -> None:
    small = BEFORE.replace("}}", '}, "SubnetMax": "10.1.4.0"}')
    assert judge([LEASE], [LEASE], change(small)).late == [LEASE]


@pytest.mark.parametrize("before", ["", "{"])
def test_the_first_usable_config_concerns_every_host(before: str) -> None:
    assert judge([LEASE], [LEASE], change(AFTER, before)).late == [LEASE]


def test_upstreams_daemon_follows_when_it_is_restarted() -> None:
    theirs = replace(LEASE, attrs=replace(HOST, node_id=""))
    found = judge([theirs], [theirs], change())
    assert found == Followers(until_restart=[theirs])
    assert not found.have_all
    assert "restart it" in found.lines()[1]
    assert judge([theirs], [after(theirs)], change()).followed == [theirs]


def test_a_reservation_shows_only_what_changes_it() -> None:
    reserved = replace(LEASE, ttl=None)
    found = judge([reserved], [reserved], change())
    assert found == Followers(unknown=[reserved])
    assert found.have_all
    assert judge([reserved], [reserved], change(OTHER_BACKEND)).late == [reserved]


def test_a_host_with_a_lease_that_it_has_just_released_is_one_host() -> None:
    released = replace(LEASE, subnet=IPv4Network("10.9.5.0/24"), index=2)
    assert judge([LEASE, released], [after()], change()) == Followers(followed=[LEASE])


def test_a_reservation_without_a_host_is_waited_for_by_nobody() -> None:
    reserved = Lease(LEASE.subnet, LeaseAttrs(HOST.public_ip), None, 3)
    found = judge([reserved], [reserved], change())
    assert (found, found.lines()) == (Followers(), [])


class SlowStore(FakeStore):
    """Its hosts follow at the third look, and the first one fails."""

    looks = 0

    async def snapshot(self) -> Snapshot:
        self.looks += 1
        if self.looks == 1:
            raise StoreUnavailable("cannot list: connection refused")
        return Snapshot((after() if self.looks > 2 else LEASE,))


def test_hosts_are_waited_for_and_an_error_is_got_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "_PAUSE", 0.0)
    store = SlowStore()
    found = asyncio.run(wait_for_hosts(store, [LEASE], change(), 60))
    assert (found.followed, store.looks) == ([LEASE], 3)


@pytest.mark.parametrize("before", ["", "{"])
def test_a_host_that_may_have_served_the_config_all_the_while_is_not_called_late(
    before: str,
) -> None:
    store = FakeStore()
    store.leases[LEASE.subnet] = LEASE
    found = asyncio.run(wait_for_hosts(store, [LEASE], change(AFTER, before), 0))
    assert (found.late, found.unknown, found.have_all) == ([], [LEASE], True)
    for other in (change(OTHER_BACKEND, before), change(OTHER_NETWORK, before), change()):
        assert asyncio.run(wait_for_hosts(store, [LEASE], other, 0)).late == [LEASE]
