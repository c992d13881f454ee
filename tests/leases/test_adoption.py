"""The lease of a dead host is taken over; that of a live host never is."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

import pytest
from fake_store import FakeStore
from managers import CONFIG, LONG_AGO, ME, OTHER, TTL, fresh, net, run

from flannel.errors import AddressTaken, IdentityTaken
from flannel.lease import Lease, LeaseAttrs
from flannel.leases import adoption as module
from flannel.leases.adoption import Adoption

SUBNET = net("10.5.9.0/24")
GONE = LeaseAttrs(ME.public_ip, "vxlan", {"VtepMAC": "02:00:00:00:00:01"}, node_id="gone")
MOVED_TO = IPv4Address("192.0.2.3")


class NewHost:
    """A host with the address of `GONE`, whose attempts to get a lease a test paces by hand."""

    def __init__(self, store: FakeStore, after: float = 60.0) -> None:
        self.now = 1000.0
        self.store = store
        self.adoption = Adoption(store, after, lambda: self.now)

    def attempt(self, attrs: LeaseAttrs = ME) -> Lease:
        manager = fresh(self.store, CONFIG, Random(7))
        return run(manager.acquire(attrs, None, seen_since=LONG_AGO, adoption=self.adoption))

    def refused(self, seconds: float, pace: float = 10.0, attrs: LeaseAttrs = ME) -> str:
        """Attempts for so long, each of which is refused; the text of the last refusal."""
        end = self.now + seconds
        while True:
            with pytest.raises(AddressTaken) as refusal:
                self.attempt(attrs)
            if self.now >= end:
                return str(refusal.value)
            self.now = min(end, self.now + pace)


@pytest.fixture
def store() -> FakeStore:
    made = FakeStore()
    made.put(SUBNET, GONE, 5000)
    return made


class TestAHostThatIsGone:
    def test_the_lease_of_a_dead_host_is_taken_over_after_a_minute_of_silence(
        self, store: FakeStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        host = NewHost(store)
        text = host.refused(59)
        assert "not answered for 60 s" in text
        host.now += 1
        lease = host.attempt()
        assert (lease.subnet, lease.attrs, lease.ttl) == (SUBNET, ME, TTL)
        assert store.leases == {SUBNET: lease}
        assert not store.leases[SUBNET].attrs.asked_by
        lines = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert lines == [
            "took over lease 10.5.9.0/24 from 192.0.2.1 (NodeID gone), which has not answered for "
            "60 s"
        ]

    def test_the_question_changes_nothing_for_peers_and_no_lifetime(self, store: FakeStore) -> None:
        NewHost(store).refused(0)
        asked = store.leases[SUBNET]
        assert (asked.attrs, asked.ttl) == (GONE, 5000)
        assert asked.attrs.asked_by.startswith(f"{ME.node_id}-")

    def test_a_reservation_for_the_address_stays_one(self, store: FakeStore) -> None:
        store.put(SUBNET, GONE, None)
        host = NewHost(store)
        host.refused(55)
        assert store.leases[SUBNET].ttl is None
        host.now += 10
        assert host.attempt().ttl is None

    def test_a_host_that_cannot_keep_an_identity_takes_over_the_lease_as_well(
        self, store: FakeStore
    ) -> None:
        nameless = replace(ME, node_id="")
        host = NewHost(store)
        host.refused(55, attrs=nameless)
        host.now += 10
        assert host.attempt(nameless).attrs == nameless

    def test_a_subnet_that_does_not_fit_the_config_is_given_up(self, store: FakeStore) -> None:
        store.remove(SUBNET)
        store.put(net("10.6.9.0/24"), GONE, 5000)
        host = NewHost(store)
        host.refused(55)
        host.now += 10
        assert CONFIG.fits(host.attempt().subnet)
        assert len(store.leases) == 1

    def test_only_one_of_two_new_hosts_that_ask_in_turn_gets_the_lease(
        self, store: FakeStore
    ) -> None:
        hosts = [(NewHost(store), replace(ME, node_id=f"new{n}")) for n in range(2)]
        taken: list[Lease] = []
        for _ in range(30):
            for host, attrs in hosts:
                host.now += 10
                with contextlib.suppress(AddressTaken):
                    taken.append(host.attempt(attrs))
            if taken:
                break
        assert len(taken) == 1
        assert store.leases == {SUBNET: taken[0]}


class Holder:
    """`GONE`, still alive: its manager, which reads the store's events when called."""

    def __init__(self, store: FakeStore, runner: asyncio.Runner) -> None:
        self.manager = fresh(store, CONFIG, Random(3))
        self._feed = self.manager.follow()
        self._runner = runner
        runner.run(self._start())

    async def _start(self) -> None:
        await self.manager.acquire(GONE, None, seen_since=LONG_AGO)
        await anext(self._feed)

    def act(self) -> None:
        """Read one piece of news, and do what it calls for."""
        self._runner.run(self._act())

    async def _act(self) -> None:
        await anext(self._feed)
        if not self.manager.is_in_order:
            await self.manager.keep()


@pytest.fixture
def holder(store: FakeStore) -> Iterator[Holder]:
    with asyncio.Runner() as runner:
        yield Holder(store, runner)


class TestAHostThatIsAlive:
    """Whatever it writes is an answer."""

    def test_a_live_holder_answers_the_question_and_keeps_its_lease(
        self, store: FakeStore, holder: Holder, caplog: pytest.LogCaptureFixture
    ) -> None:
        host = NewHost(store)
        for _ in range(3):
            host.refused(0)
            holder.act()  # it reads the question, and answers
            assert store.leases[SUBNET].attrs.asked_by == ""
            holder.act()  # it reads what it wrote itself
            assert holder.manager.is_in_order
            host.refused(300)
        assert store.leases[SUBNET].attrs == GONE
        assert caplog.text.count(f"NodeID {ME.node_id}, has our public address") == 1

    def test_an_answer_at_the_last_moment_counts(self, store: FakeStore, holder: Holder) -> None:
        host = NewHost(store)
        host.refused(59)
        holder.act()
        host.now += 1
        host.refused(0)
        assert store.leases[SUBNET].attrs == GONE

    def test_a_renewal_meanwhile_is_an_answer(self, store: FakeStore) -> None:
        host = NewHost(store)
        host.refused(59)
        run(store.renew(store.leases[SUBNET], 86400))
        host.now += 1
        host.refused(0)
        assert store.leases[SUBNET].attrs == GONE

    def test_a_renewal_between_our_last_look_and_our_write_is_an_answer(
        self, store: FakeStore
    ) -> None:
        host = NewHost(store)
        host.refused(55)
        host.now += 10
        stale = run(store.snapshot())
        run(store.renew(store.leases[SUBNET], 86400))
        store.stale = [stale]
        host.refused(0)
        assert store.leases[SUBNET].attrs == GONE

    def test_time_without_a_look_does_not_count_as_silence(self, store: FakeStore) -> None:
        """All machines were paused, or the store answered nobody."""
        host = NewHost(store)
        host.refused(0)
        host.now += 3600
        host.refused(0)
        assert store.leases[SUBNET].attrs == GONE

    def test_a_holder_that_has_answered_is_not_asked_at_every_attempt(
        self, store: FakeStore, holder: Holder
    ) -> None:
        host = NewHost(store)
        host.refused(0)
        holder.act()
        before = store.index
        host.refused(290)
        assert store.index == before

    def test_a_holder_that_starts_again_answers_too(self, store: FakeStore) -> None:
        NewHost(store).refused(0)
        with asyncio.Runner() as runner:
            Holder(store, runner)
        assert store.leases[SUBNET].attrs.asked_by == ""


class TestACopy:
    """A host that finds its own lease with an address that is not its own."""

    MOVED = replace(GONE, public_ip=OTHER.public_ip)

    def test_the_copy_of_a_live_host_leaves_it_its_lease(self, store: FakeStore) -> None:
        async def work() -> None:
            first = fresh(store, CONFIG, Random(3))
            copy = fresh(store, CONFIG, Random(7))
            await first.acquire(GONE, None, seen_since=LONG_AGO)

            async def serve() -> None:
                async for _ in first.follow():
                    if not first.is_in_order:
                        await first.keep()

            serving = asyncio.create_task(serve())
            with pytest.raises(IdentityTaken, match="holds it now, with the NodeID of this host"):
                await copy.acquire(
                    self.MOVED, None, seen_since=LONG_AGO, adoption=Adoption(store, 60.0)
                )
            serving.cancel()

        run(work())
        assert store.leases[SUBNET].attrs == GONE

    def test_a_host_that_has_moved_while_it_was_down_keeps_its_lease(
        self, store: FakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_MOMENT", 0.1)
        host = NewHost(store)
        assert host.attempt(self.MOVED).subnet == SUBNET
        assert store.leases[SUBNET].attrs == self.MOVED
        assert not store.leases[SUBNET].attrs.asked_by
        # In the same process it knows the lease.
        index = store.index
        assert host.attempt(GONE).attrs == GONE
        assert store.index == index + 1

    def test_a_moved_host_takes_its_lease_at_once_where_no_holder_is_asked(
        self, store: FakeStore
    ) -> None:
        index = store.index
        assert NewHost(store, after=0).attempt(self.MOVED).attrs == self.MOVED
        assert store.index == index + 1

    def test_a_lease_that_others_write_meanwhile_is_looked_at_again(
        self, store: FakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def intrude(_: float) -> None:
            monkeypatch.undo()
            store.put(SUBNET, OTHER, 5000)

        monkeypatch.setattr(asyncio, "sleep", intrude)
        assert NewHost(store).attempt(replace(self.MOVED, public_ip=MOVED_TO)).subnet != SUBNET


class TestNever:
    def test_with_adopt_after_0_no_holder_is_asked(self, store: FakeStore) -> None:
        index = store.index
        text = NewHost(store, after=0).refused(3600)
        assert "release its lease" in text
        assert store.index == index

    def test_a_host_with_its_own_lease_asks_no_holder(self, store: FakeStore) -> None:
        own = store.put(net("10.5.4.0/24"), replace(ME, public_ip=OTHER.public_ip), 50)
        index = store.leases[SUBNET].index
        assert NewHost(store).attempt().subnet == own.subnet
        assert store.leases[SUBNET].index == index

    def test_upstreams_lease_with_our_address_is_ours_at_once(self, store: FakeStore) -> None:
        store.put(SUBNET, replace(GONE, node_id=""), 50)
        assert NewHost(store).attempt().attrs == ME


@pytest.mark.parametrize("value", ["7", "[]", '"a b"', '"\\n"', '"' + "a" * 65 + '"', "null"])
def test_a_malformed_question_leaves_the_lease_unchanged(value: str) -> None:
    attrs = LeaseAttrs.from_json(f'{{"PublicIP":"10.9.0.1","NodeID":"n","AskedBy":{value}}}')
    assert attrs == LeaseAttrs(IPv4Address("10.9.0.1"), node_id="n")
    assert attrs.asked_by == ""
    assert attrs.to_json() == '{"PublicIP":"10.9.0.1","NodeID":"n"}'
