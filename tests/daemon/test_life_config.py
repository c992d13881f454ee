"""Life: a network config that changes, and a range that is in use on this host."""

import asyncio
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest
from managers import ME, OTHER, net
from one_life import OWN, PEER, REFUSED, SAVED, TEXT, OneLife
from virtual_time import Clock

from flannel.conditions import Condition
from flannel.daemon.life import Life
from flannel.errors import (
    ConfigChanged,
    NetworkInUse,
    StoreUnavailable,
)
from flannel.kernel.links import Address, Link
from flannel.kernel.rtmessages import FoundRoute


@pytest.fixture
def made(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OneLife:
    return OneLife(clock, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "text",
    [
        '{"Network": "10.5.0.0/16", "Backend": {"Type": "alloc"}}',
        '{"Network": "10.7.0.0/16", "Backend": {"Type": "host-gw"}}',
        '{"Network": "10.5.0.0/16", "SubnetLen": 26, "Backend": {"Type": "host-gw"}}',
    ],
)
def test_a_different_network_config_ends_the_run(made: OneLife, text: str) -> None:
    group = made.ended_by(lambda: made.store.configure(text))
    (why,) = group.subgroup(ConfigChanged).exceptions  # type: ignore[union-attr] # then it fails
    assert str(why).startswith("the network config has changed: ")


def test_a_config_that_moves_our_subnet_out_ends_the_run(made: OneLife) -> None:
    def narrow() -> None:
        ((subnet, _),) = made.store.leases.items()
        third = subnet.network_address.packed[2]
        made.store.configure(
            TEXT[:-1] + f', "SubnetMin": "10.5.{third + 1}.0", "SubnetMax": "10.5.255.0"}}'
        )

    assert made.ended_by(narrow).subgroup(ConfigChanged)


def test_a_config_with_the_same_meaning_or_more_room_does_not_end_the_run(
    made: OneLife, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def work(life: Life) -> None:
        made.store.configure(TEXT.replace(" ", ""))
        await asyncio.sleep(1)
        assert not [line for line in caplog.messages if "has changed" in line]
        third = life.subnets.own.subnet.network_address.packed[2]
        made.store.configure(TEXT[:-1] + f', "SubnetMin": "10.5.{third}.0"}}')
        await asyncio.sleep(1)
        assert [line for line in caplog.messages if "the network config has changed" in line]
        assert life.subnets.config.subnet_min == IPv4Address(f"10.5.{third}.0")
        assert made.backend.network.is_running

    made.serve(work)


@pytest.mark.parametrize("text", ["{", '{"Network": "10.5.0.0/16", "Backend": {"Type": "x"}}'])
def test_a_config_that_cannot_be_used_does_not_end_the_run(made: OneLife, text: str) -> None:
    async def work(life: Life) -> None:
        made.store.configure(text)
        await asyncio.sleep(1)
        assert made.status.conditions.text(Condition.CONFIG).endswith(
            "; still serving the previous one"
        )
        assert made.backend.network.is_running

    made.serve(work)


def test_a_config_whose_range_is_in_use_here_does_not_end_the_run(made: OneLife) -> None:
    made.host.netlink.addresses.append(Address(2, IPv4Interface("10.7.7.1/24"), 0))

    async def work(life: Life) -> None:
        made.store.configure('{"Network": "10.7.0.0/16", "Backend": {"Type": "host-gw"}}')
        await asyncio.sleep(1)
        assert "it has address 10.7.7.1/24 of eth0" in made.status.conditions.text(Condition.CONFIG)

    made.serve(work)


class TestOverlap:
    """A network that is in use on this host is refused before a lease is taken."""

    def refusal(self, made: OneLife) -> str:
        with pytest.raises(NetworkInUse) as caught:
            made.clock.run(made.life().take_lease())
        assert made.store.leases.keys() <= {PEER}
        return str(caught.value)

    def test_an_address_is_named(self, made: OneLife) -> None:
        made.host.netlink.addresses.append(Address(2, IPv4Interface("10.5.7.1/24"), 0))
        assert self.refusal(made).endswith("this host: it has address 10.5.7.1/24 of eth0")

    def test_a_route_is_named(self, made: OneLife) -> None:
        made.host.tables.foreign.append(FoundRoute(PEER, IPv4Address("192.0.2.99"), 2, 0))
        assert self.refusal(made).endswith("it has route 10.5.9.0/24 via 192.0.2.99 dev eth0")

    def test_a_route_to_a_holder_of_a_lease_is_that_of_an_earlier_daemon(
        self, made: OneLife
    ) -> None:
        made.store.put(PEER, OTHER, 600)
        made.host.tables.foreign.append(FoundRoute(PEER, OTHER.public_ip, 2, 0))
        made.clock.run(made.life().take_lease())

    def test_the_bridge_of_our_own_lease_is_not_a_conflict(self, made: OneLife) -> None:
        made.store.put(net("10.5.7.0/24"), ME, 600)
        made.host.netlink.add(Link(7, "docker0", "bridge", 1450, True, ""))
        made.host.netlink.addresses.append(Address(7, IPv4Interface("10.5.7.1/24"), 0))
        made.clock.run(made.life().take_lease())

    def test_while_the_store_does_not_answer_the_leases_of_before_count(
        self, made: OneLife
    ) -> None:
        made.host.tables.foreign.append(FoundRoute(PEER, OTHER.public_ip, 2, 0))
        made.store.refusal = REFUSED
        with pytest.raises(StoreUnavailable):
            made.clock.run(made.life(resume=OWN).take_lease())
        resumed = made.again(SAVED)
        resumed.host.tables.foreign = made.host.tables.foreign
        resumed.store.refusal = REFUSED
        made.clock.run(resumed.life(resume=OWN).take_lease())
