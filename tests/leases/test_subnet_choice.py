"""The choice of a subnet for a new host."""

import tracemalloc
from collections import Counter
from ipaddress import IPv4Network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from managers import (
    SMALL,
    net,
)

from flannel.errors import NoFreeSubnet
from flannel.leases.subnet_choice import choose_free, is_free
from flannel.network_config import NetworkConfig


class TestChoosing:
    """Every free subnet with the same chance, no other ever."""

    def test_all_free_subnets_come_up_about_equally_often(self) -> None:
        config = NetworkConfig.from_json('{"Network":"10.5.0.0/20"}')  # .1 to .15
        taken = [net("10.5.1.0/24"), net("10.5.7.0/24"), net("10.5.15.0/24")]
        random = Random(1)
        counts = Counter(choose_free(config, taken, random) for _ in range(12_000))
        assert len(counts) == 12
        assert not counts.keys() & set(taken)
        assert min(counts.values()) > 850
        assert max(counts.values()) < 1150

    def test_the_last_free_subnet_is_found(self) -> None:
        taken = [net("10.5.1.0/24"), net("10.5.3.0/24")]
        assert choose_free(SMALL, taken, Random()) == net("10.5.2.0/24")

    def test_without_a_free_subnet_the_error_has_their_number_and_range(self) -> None:
        taken = [net(f"10.5.{n}.0/24") for n in (1, 2, 3)]
        with pytest.raises(NoFreeSubnet, match=r"all 3 between 10\.5\.1\.0 and 10\.5\.3\.0"):
            choose_free(SMALL, taken, Random())

    def test_leases_of_another_length_keep_what_they_cover(self) -> None:
        config = NetworkConfig.from_json('{"Network":"10.5.0.0/16","SubnetLen":26}')
        taken = [net("10.5.1.0/24"), net("10.5.2.0/28")]
        for address in ("10.5.1.0", "10.5.1.192", "10.5.2.0"):
            assert not is_free(config, net(f"{address}/26"), taken)
        assert is_free(config, net("10.5.2.64/26"), taken)

    @pytest.mark.parametrize("poison", ["0.0.0.0/0", "10.0.0.0/8", "10.5.0.0/22", "10.5.0.0/23"])
    def test_a_key_for_most_of_the_network_does_not_keep_hosts_from_leasing(
        self, poison: str
    ) -> None:
        assert choose_free(SMALL, [net(poison)], Random()) in {
            net(f"10.5.{n}.0/24") for n in (1, 2, 3)
        }

    def test_keys_for_much_of_a_large_network_cost_no_more_than_others(self) -> None:
        config = NetworkConfig.from_json('{"Network":"10.0.0.0/8","SubnetLen":30}')
        taken = [net(f"10.{n}.0.0/10") for n in (0, 64, 128)]
        tracemalloc.start()
        try:
            assert choose_free(config, taken, Random()).subnet_of(net("10.192.0.0/10"))
            assert tracemalloc.get_traced_memory()[1] < 100_000
        finally:
            tracemalloc.stop()

    @given(st.data())
    def test_a_chosen_subnet_fits_and_overlaps_nothing(self, data: st.DataObject) -> None:
        config = NetworkConfig.from_json('{"Network":"10.5.0.0/21","SubnetLen":25}')
        low, high = int(config.network.network_address) - 512, 4096
        prefixes = st.tuples(st.integers(0, high), st.integers(23, 32))
        taken = [
            IPv4Network((low + offset, length), strict=False)
            for offset, length in data.draw(st.lists(prefixes, max_size=12))
        ]
        free = [
            subnet
            for subnet in config.network.subnets(new_prefix=25)
            if config.fits(subnet) and not any(subnet.overlaps(each) for each in taken)
        ]
        random = Random(data.draw(st.integers()))
        if free:
            assert choose_free(config, taken, random) in free
        else:
            with pytest.raises(NoFreeSubnet):
                choose_free(config, taken, random)
