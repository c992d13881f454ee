"""When our lease is renewed, and what a renewal writes."""

import pytest
from managers import ME, OTHER, TTL, Cluster, net, run

from flannel.errors import LeaseLost
from flannel.lease import Lease


class TestRenewing:
    """In time, not all at once, by compare-and-swap."""

    def delays(self, ttl: int, margin: float) -> list[float]:
        cluster = Cluster()
        cluster.store.put(net("10.5.1.0/24"), ME, 50)
        cluster.acquire()
        cluster.manager._own = Lease(net("10.5.1.0/24"), ME, ttl)
        found = [cluster.manager.renewal_delay(margin) for _ in range(1000)]
        return [each for each in found if each is not None]

    @pytest.mark.parametrize(
        ("ttl", "margin", "low", "high"),
        [
            (86400, 3600, 0.5 * 82800, 0.9 * 82800),
            (86400, 1439 * 60, 30, 54),
            (4, 3600, 0.5, 0.9),
            (0, 3600, 0, 0),
        ],
    )
    def test_the_moment_is_spread_and_leaves_the_margin(
        self, ttl: int, margin: float, low: float, high: float
    ) -> None:
        delays = self.delays(ttl, margin)
        assert low <= min(delays)
        assert max(delays) <= high
        assert max(delays) - min(delays) >= 0.9 * (high - low)

    def test_renewal_gives_the_full_time_again(self) -> None:
        cluster = Cluster()
        cluster.acquire()
        run(cluster.manager.keep())
        assert cluster.store.renewals == 1
        assert cluster.manager.own.ttl == TTL

    def test_a_lease_that_is_not_ours_any_more_is_not_renewed(self) -> None:
        cluster = Cluster()
        lease = cluster.acquire()
        theirs = cluster.store.put(lease.subnet, OTHER, 50)
        with pytest.raises(LeaseLost):
            run(cluster.manager.keep())
        assert cluster.store.leases[lease.subnet] is theirs
