"""/metrics: the daemon's `Status` and the counters of its datapath, for Prometheus.

Values are read when a client asks for them. Only this module imports prometheus_client, and it is
imported only with -healthz-port.
"""

from collections.abc import Iterable, Iterator
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from flannel import __version__
from flannel.health.status import Status
from flannel.kernel.traffic import device_traffic
from flannel.printable import printable

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Exporter:
    """Makes the page from ``status``."""

    def __init__(self, status: Status) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(status))
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _StatusCollector(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        status = self._status
        yield _info("flannel_build", "This flanneld.", {"version": __version__})
        yield _gauge("flannel_ready", "1 if containers can reach the others.", not status.unready())
        yield from self._lease()
        yield _gauge("flannel_peers", "Leases of other hosts that are served.", len(status.peers))
        repairs = status.repairs
        yield _counter("flannel_repairs", "Changes by others that were reverted.", repairs.total)
        if repairs.last_at is not None:
            age = monotonic() - repairs.last_at
            yield _gauge("flannel_last_repair_age_seconds", "Since the last repair.", age)
        yield from self._store()
        yield from self._datapath()

    def _lease(self) -> Iterator[Metric]:
        lease = self._status.document()["lease"]
        leases = len(self._status.peers) + (lease is not None)
        yield _gauge("flannel_leases", "Leases that are known, our own included.", leases)
        if lease is None:
            return
        labels = {name: str(lease[name]) for name in ("subnet", "public_ip", "backend")}
        yield _info("flannel_lease", "The lease of this host.", labels)
        seconds = self._status.lease_seconds()
        if seconds is not None:
            left, renewal = seconds
            yield _gauge("flannel_lease_left_seconds", "Until the lease ends.", left)
            yield _gauge("flannel_lease_renewal_seconds", "Until it is due for renewal.", renewal)

    def _store(self) -> Iterator[Metric]:
        store = self._status.store()
        yield _counter("flannel_store_errors", "Requests that etcd did not serve.", store.errors)
        age = monotonic() - (store.answered_at or self._status.started_at)
        about = "Since etcd last answered, or since the start."
        yield _gauge("flannel_store_answer_age_seconds", about, age)

    def _datapath(self) -> Iterator[Metric]:
        network = self._status.network
        if network is None:
            return
        yield _gauge("flannel_mtu_bytes", "The largest packet of a container.", network.mtu)
        traffic = device_traffic(network.device)
        for what in ("bytes", "packets", "errors", "drops"):
            family = CounterMetricFamily(
                f"flannel_device_{what}", f"The kernel's count of {what}.", labels=("direction",)
            )
            for way in ("rx", "tx"):
                if f"{way}_{what}" in traffic:
                    family.add_metric([way], traffic[f"{way}_{what}"])
            yield family
        drops = CounterMetricFamily(
            "flannel_dropped_packets",
            "Packets that were not carried, by reason.",
            labels=("reason",),
        )
        for reason, count in network.counters().items():
            drops.add_metric([reason], count)
        yield drops
        guard = CounterMetricFamily(
            "flannel_guard_dropped_packets",
            "Packets that the firewall's guard dropped, by reason.",
            labels=("reason",),
        )
        for reason, count in self._status.guard_drops.items():
            guard.add_metric([reason], count)
        yield guard
        guarded = self._status.is_guarded
        if guarded is not None:
            yield _gauge("flannel_guarded", "1 if the guard is in force.", guarded)
        yield _counter(
            "flannel_firewall_failures",
            "How often nft or iptables refused, or could not be run.",
            self._status.firewall_failures,
        )
        yield _counter(
            "flannel_firewall_repairs",
            "Changes by others to firewall rules that were reverted.",
            self._status.firewall_repairs,
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))


def _info(name: str, text: str, labels: dict[str, str]) -> Metric:
    return InfoMetricFamily(
        name, text, value={key: printable(each) for key, each in labels.items()}
    )
