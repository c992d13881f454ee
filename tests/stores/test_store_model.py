"""The store and the table of leases against an etcd that misbehaves.

In the end the peers are those that etcd holds, whatever came between.

The etcd is a model of the v2 API behind `Endpoints`: a history of which a part may be lost, an
index that may go back, members that do not answer, and keys and values of anybody. It is asked
without threads, so that nothing depends on time.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any, cast
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from managers import fresh

from flannel.errors import BadLease, StoreUnavailable
from flannel.lease import Lease, LeaseAttrs, parse_subnet_key
from flannel.network_config import NetworkConfig
from flannel.stores import StoreHealth
from flannel.stores.etcd_endpoints import Answer, HistoryLost, NotFound
from flannel.stores.etcd_v2 import EtcdV2Store

PREFIX = "/coreos.com/network"
DIRECTORY = f"{PREFIX}/subnets"
CONFIG = NetworkConfig.from_json('{"Network":"10.5.0.0/16"}')
ME = LeaseAttrs(IPv4Address("192.0.2.1"), "host-gw", node_id="me")
OWN = "10.5.1.0-24"
N_HISTORY = 8

keys = st.sampled_from(
    [f"10.5.{n}.0-24" for n in range(2, 7)] + ["foo", "10.5.2.7-24", "0.0.0.0-0", "10.6.1.0-24"]
)
values = st.sampled_from(
    [
        *(LeaseAttrs(IPv4Address(f"192.0.2.{n}"), "host-gw").to_json() for n in range(2, 8)),
        *('{"PublicIP":"10.5.2.1"}', "garbage", "", "[" * 5000, '{"PublicIP":"224.0.0.1"}'),
    ]
)


class ModelEtcd:
    """What `Endpoints` is asked for, answered from a dictionary and a short history."""

    first = 0
    """The number of the member that is asked: there is one."""
    patience = 10.0

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.index = 0
        self.history: list[tuple[int, dict[str, Any]]] = []
        self.oldest = 0
        """The index of the first event that is still known, of whatever key."""
        self.is_unreachable = False
        self.is_cut = False
        """Whether the poll under way ends, as when the server has begun anew."""
        self.n_idle_polls = 0

    def health(self) -> StoreHealth:
        return StoreHealth("model", None, 0, 0)

    def write(self, name: str, value: str, action: str = "set") -> None:
        self.index += 1
        node = {"key": f"{DIRECTORY}/{name}", "value": value, "modifiedIndex": self.index,
                "ttl": 86400}  # fmt: skip
        self.nodes[name] = node
        self._record(action, node)

    def remove(self, name: str, action: str) -> None:
        if self.nodes.pop(name, None) is not None:
            self.index += 1
            self._record(action, {"key": f"{DIRECTORY}/{name}", "modifiedIndex": self.index})

    def remove_all(self) -> None:
        self.index += 1
        self.nodes.clear()
        self._record("delete", {"key": DIRECTORY, "dir": True, "modifiedIndex": self.index})

    def _record(self, action: str, node: dict[str, Any]) -> None:
        self.history.append((self.index, {"action": action, "node": node}))
        if len(self.history) > N_HISTORY:
            del self.history[:-N_HISTORY]
            self.oldest = self.history[0][0]

    def forget(self, index: int) -> None:
        """Continue at ``index``, with no history."""
        self.index, self.oldest = index, index + 1
        self.history.clear()

    def ask(self, doing: str, method: str, key: str, params: dict[str, str]) -> Answer:
        if self.is_unreachable:
            raise StoreUnavailable(f"cannot {doing}: it is unreachable")
        if method == "PUT":
            name = key.rpartition("/")[2]
            if "refresh" in params:  # no event
                self.index += 1
                self.nodes[name]["modifiedIndex"] = self.index
            else:
                self.write(name, params["value"], "compareAndSwap")
            return Answer({"node": self.nodes[name]}, self.index)
        if key == DIRECTORY:
            return Answer({"node": {"nodes": list(self.nodes.values())}}, self.index)
        found = self.nodes.get(key.rpartition("/")[2]) if key.startswith(DIRECTORY) else None
        if found is None:
            raise NotFound(self.index)
        return Answer({"node": found}, self.index)

    def poll(self, doing: str, key: str, params: dict[str, str], seconds: float) -> Answer | None:
        if self.is_unreachable:
            raise StoreUnavailable(f"cannot {doing}: it is unreachable")
        if self.is_cut:
            self.is_cut = False
            raise StoreUnavailable(f"cannot {doing}: the connection broke")
        wanted = int(params["waitIndex"])
        if wanted < self.oldest:
            raise HistoryLost(self.index)
        for index, event in self.history:
            if index >= wanted:
                return Answer(event, self.index)
        self.n_idle_polls += 1
        return None

    def close(self) -> None:
        """Nothing to close."""


async def at_once(work: Callable[[], Any]) -> Any:
    """Instead of in a thread, between two turns of the loop."""
    await asyncio.sleep(0)
    return work()


class Following(RuleBasedStateMachine):
    """One host that follows while other hosts and faults change the store."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.patched = patch("flannel.stores.etcd_v2.in_thread", at_once)
        self.patched.start()
        self.etcd = ModelEtcd()
        self.store = EtcdV2Store(self.etcd, PREFIX)  # type: ignore[arg-type] # a model of it
        self.reported: dict[IPv4Network, Lease] = {}
        """The peers, as computed from the reported differences alone."""
        self.manager = fresh(self.store, CONFIG, grace=0)
        subnet = parse_subnet_key(OWN)
        self.run(self.manager.acquire(ME, subnet, seen_since=0.0))
        self.follow()

    def follow(self) -> None:
        self.feed = cast("AsyncGenerator[set[IPv4Network]]", self.manager.follow())
        self.news: asyncio.Task[set[IPv4Network]] = self.loop.create_task(anext(self.feed))

    def teardown(self) -> None:
        self.the_host_reads_all_news()
        self.news.cancel()
        self.run(asyncio.wait([self.news]))
        self.run(self.feed.aclose())
        self.loop.close()
        self.patched.stop()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 100))

    @rule(name=keys, value=values, action=st.sampled_from(["set", "create", "compareAndSwap"]))
    def somebody_writes(self, name: str, value: str, action: str) -> None:
        self.etcd.write(name, value, action)

    @rule(name=keys, action=st.sampled_from(["delete", "expire", "compareAndDelete"]))
    def a_key_is_removed(self, name: str, action: str) -> None:
        self.etcd.remove(name, action)

    @rule()
    def the_directory_is_removed(self) -> None:
        self.etcd.remove_all()

    @rule(n=st.integers(1, 30))
    def history_is_lost(self, n: int) -> None:
        """Other keys are written, and events of ours are not kept any more."""
        self.etcd.forget(self.etcd.index + n)

    @rule(name=st.sampled_from(["10.5.2.0-24", "10.5.3.0-24"]), hosts=st.permutations(range(2, 8)))
    def a_lease_changes_hands_and_history_is_lost(self, name: str, hosts: list[int]) -> None:
        for host in hosts[:2]:
            attrs = LeaseAttrs(IPv4Address(f"192.0.2.{host}"), "host-gw")
            self.etcd.write(name, attrs.to_json())
            self.read_news()
        self.etcd.write(name, LeaseAttrs(IPv4Address(f"192.0.2.{hosts[2]}")).to_json())
        self.history_is_lost(30)

    @rule()
    def etcd_is_wiped(self) -> None:
        self.etcd.nodes.clear()
        self.etcd.forget(1)
        self.etcd.is_cut = True

    @rule(n=st.integers(0, 5))
    def an_older_state_is_restored(self, n: int) -> None:
        for name in list(self.etcd.nodes)[:n]:
            del self.etcd.nodes[name]
        self.etcd.forget(max(1, self.etcd.index // 2))
        for node in self.etcd.nodes.values():
            node["modifiedIndex"] = min(node["modifiedIndex"], self.etcd.index)
        self.etcd.is_cut = True

    @rule()
    def our_lease_expires(self) -> None:
        self.etcd.remove(OWN, "expire")

    @rule(value=st.sampled_from(["garbage", "", '{"PublicIP":"224.0.0.1"}']))
    def our_lease_is_garbled(self, value: str) -> None:
        self.etcd.write(OWN, value)

    @rule()
    def etcd_becomes_unreachable_or_reachable(self) -> None:
        self.etcd.is_unreachable = not self.etcd.is_unreachable

    @rule(n=st.integers(1, 4))
    def the_host_reads_some_news(self, n: int) -> None:
        for _ in range(n):
            self.read_news()

    def read_news(self) -> bool:
        """Read one piece of news; return whether there was any."""
        self.etcd.n_idle_polls = 0
        self.run(self.news_or_quiet())
        if not self.news.done():
            return False
        try:
            self.note(self.news.result())
        except StoreUnavailable:
            self.follow()
            return not self.etcd.is_unreachable
        self.news = self.loop.create_task(anext(self.feed))
        return True

    async def news_or_quiet(self) -> None:
        # After the first poll without an event the store compares etcd's index with its own.
        while not self.news.done() and self.etcd.n_idle_polls < 2:  # noqa: ASYNC110 # turns of the loop are counted, not time
            await asyncio.sleep(0)

    def note(self, changed: set[IPv4Network]) -> None:
        for subnet in changed:
            if subnet in self.manager.peers:
                self.reported[subnet] = self.manager.peers[subnet]
            else:
                self.reported.pop(subnet, None)

    @rule()
    def the_host_reads_all_news(self) -> None:
        """Afterwards the peers match etcd's leases, and our lease is there."""
        self.etcd.is_unreachable = False
        while True:
            while self.read_news():
                pass
            if self.manager.is_in_order:
                break
            self.run(self.manager.keep())
        self.note(self.manager.expire())
        held, unreadable = self.content()
        assert without(self.manager.peers, unreadable) == held
        assert self.reported == self.manager.peers
        assert LeaseAttrs.from_json(self.etcd.nodes[OWN]["value"]) == ME

    def content(self) -> tuple[dict[IPv4Network, Lease], set[IPv4Network]]:
        """The peers by etcd's content, and the subnets whose values cannot be read.

        Of the latter, the last good state may stand.
        """
        held, unreadable = {}, set()
        for name, node in self.etcd.nodes.items():
            try:
                subnet = parse_subnet_key(name)
                attrs = LeaseAttrs.from_json(node["value"])
            except BadLease:
                unreadable |= {parse_subnet_key(name)} if name.startswith("10.5.") and (
                    not name.endswith(".7-24")) else set()  # fmt: skip
                continue
            if name != OWN and CONFIG.fits(subnet) and attrs.public_ip not in CONFIG.network:
                held[subnet] = Lease(subnet, attrs)
        return held, unreadable


def without(peers: dict[IPv4Network, Lease], subnets: set[IPv4Network]) -> dict[IPv4Network, Lease]:
    return {subnet: lease for subnet, lease in peers.items() if subnet not in subnets}


TestFollowing = Following.TestCase
TestFollowing.settings = settings(
    max_examples=2 * settings().max_examples, stateful_step_count=25, deadline=None
)


def test_restored_garbage_with_the_index_of_our_lease_is_not_taken_for_it() -> None:
    world = Following()
    try:
        world.begin()
        world.the_host_reads_all_news()
        world.our_lease_is_garbled("garbage")
        world.an_older_state_is_restored(0)
        world.the_host_reads_all_news()
    finally:
        world.teardown()
