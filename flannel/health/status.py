"""Status: the state of flanneld, for health checks, metrics and the operator.

    status = Status(options, store.health)
    status.serve(config, interface, subnets, network, firewall)    # a run of the network begins
    status.leased(lease, renewal_delay)
    status.has("subnet.env")
    status.beat("peers")
    status.end("the lease is lost")
    status.unready()        # "" or the reason
    status.document()       # the whole state, for JSON

The daemon's parts report to it and decide nothing by it. It stores moments of the monotonic clock
and publishes ages in seconds. Use it in the event loop's thread only.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

from flannel import __version__
from flannel.backends import Network
from flannel.conditions import Condition, Conditions
from flannel.errors import FlannelError
from flannel.firewall.keeper import Counter
from flannel.health.awake import Awake
from flannel.kernel.interface import ExternalInterface
from flannel.kernel.repairs import Repairs
from flannel.kernel.traffic import device_traffic
from flannel.lease import UNKNOWN_TTL, Lease, Peers
from flannel.network_config import NetworkConfig
from flannel.options.table import Options
from flannel.stores import StoreHealth

log = logging.getLogger(__name__)

PARTS = ("subnet.env", "peers", "firewall")
"""The parts that must be done in each run of the network before containers can use the overlay."""

_NEEDED = (Condition.INTERFACE, Condition.STORE, Condition.CONFIG, Condition.RUN)
"""The conditions that keep a run of the network from beginning; the first that holds is shown."""
_OF_THE_STORE = (Condition.WATCH, Condition.LEASE, Condition.STORE)

_STORE_SILENCE = 90.0
"""Seconds without any result of a request after which the watch is taken for dead: a poll lasts 10,
and each member has 3 to answer."""
_PEERS_SILENCE = 120.0
"""Seconds without a sign of life after which the task that compares the kernel is taken for dead.
It gives a sign every 30 s, and at each comparison; those are at most 60 s apart."""


class SubnetTable(Protocol):
    """The part of `flannel.leases.subnets.SubnetManager` that is used here."""

    @property
    def peers(self) -> Peers:
        """The other hosts' leases."""
        ...


class Guarding(Protocol):
    """The part of `flannel.firewall.keeper.Firewall` that is used here."""

    @property
    def is_guarded(self) -> bool:
        """Whether the whole guard was in force at the last look."""
        ...

    @property
    def wants_guard(self) -> bool:
        """Whether a guard is wanted."""
        ...

    @property
    def failures(self) -> int:
        """How often a program of the firewall refused or could not be run."""
        ...

    @property
    def repairs(self) -> int:
        """How often others had changed rules, and the change was reverted."""
        ...

    async def counters(self) -> Mapping[str, Counter]:
        """The packets that the guard has dropped, by reason.

        :raises FlannelError: it cannot be read.
        """
        ...


@dataclass(slots=True)
class _Life:
    """One run of the network: from a lease to the error that ends it."""

    config: NetworkConfig
    interface: ExternalInterface
    subnets: SubnetTable
    network: Network
    firewall: Guarding
    began: float
    beats: dict[str, float]
    done: set[str]


_NETWORK = (
    *("network", "backend", "interface", "device", "mtu"),
    *("peers", "counters", "traffic", "firewall"),
)
"""Members of the document that are null while no network is served."""


class Status:
    """See the head of this file.

    :ivar conditions: the conditions that hold at the moment.
    :ivar awake: notices pauses of this process.
    :ivar store: returns how the store answers.
    :ivar repairs: changes in the kernel by others that were reverted.
    :ivar guard_drops: packets that the firewall's guard has dropped, by reason.
    :ivar started_at: when this process began, by `time.monotonic`.
    :ivar renewed_at: when it made or renewed the lease last; None: not yet.
    :ivar ended: why the last run of the network ended.
    """

    def __init__(self, options: Options, store: Callable[[], StoreHealth]) -> None:
        self.conditions = Conditions(logging.getLogger("flannel.daemon"))
        self.awake = Awake()
        self.store = store
        self.repairs = Repairs()
        self.ended = ""
        self.guard_drops: dict[str, int] = {}
        self._reading: asyncio.Task[None] | None = None
        self._options = options
        self.started_at = monotonic()
        self._life: _Life | None = None
        self._lease: Lease | None = None
        self._lease_at = self._renewal_at = 0.0
        self.renewed_at: float | None = None

    def serve(
        self,
        config: NetworkConfig,
        interface: ExternalInterface,
        subnets: SubnetTable,
        network: Network,
        firewall: Guarding,
    ) -> None:
        """A run of the network begins."""
        now = monotonic()
        self._life = _Life(
            config, interface, subnets, network, firewall, now, {"peers": now}, set()
        )

    def end(self, why: str) -> None:
        """The run is over, because of ``why``."""
        self._life = self._lease = None
        self.ended = why

    def leased(self, lease: Lease, renewal: float | None, *, is_renewed: bool = True) -> None:
        """``lease`` was made, renewed or changed; its renewal is due in ``renewal`` seconds.

        :param is_renewed: this process has made or renewed it.
        """
        self._lease, self._lease_at = lease, monotonic()
        if is_renewed:
            self.renewed_at = self._lease_at
        self._renewal_at = self._lease_at + (renewal or 0)

    def has(self, part: str) -> None:
        """One of `PARTS` is done."""
        if self._life is not None:
            self._life.done.add(part)

    def beat(self, task: str) -> None:
        """``task`` gives a sign of life."""
        if self._life is not None:
            self._life.beats[task] = monotonic()

    @property
    def network(self) -> Network | None:
        """The network that is served now."""
        return self._life.network if self._life is not None else None

    @property
    def peers(self) -> Peers:
        """The leases of the other hosts; empty while they are not followed."""
        return self._life.subnets.peers if self._life is not None else {}

    def dead(self) -> str:
        """Which part of this process hangs; "" if none does. Only a restart repairs it."""
        life = self._life
        if life is None:
            return ""
        silence = self.awake.since(life.beats["peers"])
        if silence > _PEERS_SILENCE:
            return f"the comparison with the kernel has given no sign of life for {silence:.0f} s"
        silence = self.awake.since(max(life.began, self.store().heard_at))
        if silence > _STORE_SILENCE:
            return f"the watch on the leases has given no sign of life for {silence:.0f} s"
        return life.network.trouble()

    def unready(self) -> str:
        """Why containers of this host may not reach the others; "" if they can.

        An unreachable store is not a reason: packets flow on without it.
        """
        life, text = self._life, self.conditions.text
        if life is None:
            return next(filter(None, map(text, _NEEDED)), self.ended) or "starting"
        for part in PARTS:
            if part not in life.done:
                reason = text(Condition.SUBNET_ENV) if part == "subnet.env" else ""
                reason = reason or text(Condition.KERNEL) or life.network.trouble()
                return reason or f"{part}: not there yet"
        device = life.network.device
        if device and not _has_link(device):
            return f"device {device} is gone"
        return text(Condition.KERNEL) or text(Condition.INTERFACE) or self.dead()

    async def read_guard(self) -> None:
        """Bring `guard_drops` up to date.

        Reading the counters runs nft or iptables; clients that ask at the same time share one run.
        """
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_guard())
        await asyncio.shield(self._reading)

    async def _read_guard(self) -> None:
        if self._life is None:
            return
        try:
            counters = await self._life.firewall.counters()
        except FlannelError as why:
            log.debug("cannot read what the guard has dropped: %s", why)
        else:
            self.guard_drops = {reason: each.packets for reason, each in counters.items()}

    @property
    def firewall_repairs(self) -> int:
        """How often changed rules were restored in this run of the network."""
        return self._life.firewall.repairs if self._life is not None else 0

    @property
    def firewall_failures(self) -> int:
        """How often a program of the firewall failed in this run of the network."""
        return self._life.firewall.failures if self._life is not None else 0

    @property
    def is_guarded(self) -> bool | None:
        """Whether the guard is in force; None if no guard is wanted."""
        if self._life is None or not self._life.firewall.wants_guard:
            return None
        return self._life.firewall.is_guarded

    def lease_seconds(self) -> tuple[float, float] | None:
        """Seconds until the lease ends, and until its renewal is due.

        None without a lease, with a reservation, or before the store has reported the lifetime.
        """
        if self._lease is None or self._lease.ttl in (None, UNKNOWN_TTL):
            return None
        now = monotonic()
        return self._lease_at + self._lease.ttl - now, self._renewal_at - now

    def document(self) -> dict[str, Any]:
        """The whole state, for JSON; seconds are rounded to a tenth."""
        store, etcd = self.store(), self._options.etcd
        repairs = self.repairs
        unready = self.unready()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime": _rounded(monotonic() - self.started_at),
            "ready": not unready,
            "unready": unready,
            "dead": self.dead(),
            **self._network(),
            "lease": self._own(),
            "etcd": {
                "endpoints": list(etcd.endpoints),
                "endpoint": store.endpoint,
                "prefix": etcd.prefix,
                "answered_ago": _ago(store.answered_at),
                "errors": store.errors,
                "trouble": next(filter(None, map(self.conditions.text, _OF_THE_STORE)), ""),
            },
            "repairs": {
                "count": repairs.total,
                "last": repairs.last,
                "last_ago": _ago(repairs.last_at),
            },
            "hand_over": [str(each) for each in self._options.hand_over],
            "conditions": self.conditions.document(),
        }

    def _network(self) -> dict[str, Any]:
        life = self._life
        if life is None:
            return dict.fromkeys(_NETWORK)
        interface, network = life.interface, life.network
        return {
            "network": str(life.config.network),
            "backend": life.config.backend_type,
            "interface": {
                "name": interface.name,
                "address": str(interface.address),
                "public_ip": str(interface.public_ip),
                "mtu": interface.mtu,
            },
            "device": network.device,
            "mtu": network.mtu,
            "peers": len(life.subnets.peers),
            "counters": dict(network.counters()),
            "traffic": device_traffic(network.device),
            "firewall": {
                "guarded": life.firewall.is_guarded,
                "repairs": life.firewall.repairs,
                "failures": life.firewall.failures,
                "dropped": self.guard_drops,
            },
        }

    def _own(self) -> dict[str, Any] | None:
        lease, seconds = self._lease, self.lease_seconds()
        if lease is None:
            return None
        left, renewal = seconds or (None, None)
        return {
            **lease_document(lease),
            "renewed_ago": _ago(self.renewed_at),
            "left": _rounded(left),
            "renewal_in": _rounded(renewal),
        }


def lease_document(lease: Lease) -> dict[str, Any]:
    """A lease, for JSON."""
    return {
        "subnet": str(lease.subnet),
        "public_ip": str(lease.attrs.public_ip),
        "backend": lease.attrs.backend,
        "backend_data": lease.attrs.backend_data,
        "node_id": lease.attrs.node_id,
        "ttl": lease.ttl if lease.ttl != UNKNOWN_TTL else None,
        "reservation": lease.ttl is None,
    }


def _has_link(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _ago(moment: float | None) -> float | None:
    return None if moment is None else _rounded(monotonic() - moment)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
