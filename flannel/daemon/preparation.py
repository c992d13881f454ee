"""Preparation: waits for all that one run of the network needs, and returns it as a `Plan`."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from flannel.backends import Backend, make_backend
from flannel.conditions import Condition, Conditions
from flannel.daemon.config_follower import ConfigFollower
from flannel.daemon.range_check import check_address
from flannel.daemon.saved_state import SavedState
from flannel.daemon.underlay import Underlay
from flannel.errors import BadNetworkConfig, NoInterface
from flannel.kernel.doors import Kernel
from flannel.kernel.interface import ExternalInterface
from flannel.lease import Lease
from flannel.network_config import NetworkConfig
from flannel.once import Once

log = logging.getLogger(__name__)

_PATIENCE = 0.5
"""Seconds that the store has to answer with a usable config; after that, the saved state is served
until it does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that one run of the network needs.

    :ivar text: the text of the network config.
    :ivar resume: the saved lease, to be served without the store; None: get one from the store.
    """

    text: str
    config: NetworkConfig
    backend: Backend
    interface: ExternalInterface
    resume: Lease | None = None


class Preparation:
    """Prepares all runs of the network.

    :param published: returns the addresses of an interface that this host's leases publish.
    """

    def __init__(
        self,
        kernel: Kernel,
        underlay: Underlay,
        config: ConfigFollower,
        conditions: Conditions,
        published: Callable[[ExternalInterface], Awaitable[Iterable[IPv4Address]]],
    ) -> None:
        self._kernel = kernel
        self._underlay = underlay
        self._config = config
        self._conditions = conditions
        self._published = published
        self._logged = Once(log)

    async def wait(self, saved: SavedState | None) -> Plan:
        """Wait for all that the next run needs.

        :param saved: the state served last; it is served again while the store does not answer, or
            has a config that cannot be used.
        :raises NetworkInUse: the network leases the addresses of this host to containers.
        """
        underlay = self._underlay
        underlay.overlay = replace(underlay.overlay, config=None)  # the config may be a new one
        interface = await underlay.wait()
        self._log_interface(interface)
        plan = await self._wait_for_plan(saved, interface)
        config = plan.config
        self._logged.info("network", f"network {config.network}, backend {config.backend_type}")
        if saved is None or saved.lease is None:
            underlay.prefer(await self._published(interface))
        found = await self._reconsider(plan)
        if found == interface:
            return plan
        self._log_interface(found)
        return replace(plan, interface=found, backend=make_backend(config, found, self._kernel))

    async def _wait_for_plan(self, saved: SavedState | None, interface: ExternalInterface) -> Plan:
        def read(text: str) -> Plan:
            config = NetworkConfig.from_json(text)
            return Plan(text, config, make_backend(config, interface, self._kernel), interface)

        plan = None
        if saved is not None and saved.lease is not None:
            plan = await self._config.wait(read, _PATIENCE) or self._plan_from(saved, read)
        if plan is None:
            plan = await self._config.wait(read)
        assert plan is not None
        return plan

    async def _reconsider(self, plan: Plan) -> ExternalInterface:
        """The external interface, now that the network and our addresses in it are known."""
        underlay, interface = self._underlay, plan.interface
        underlay.overlay = replace(underlay.overlay, config=plan.config)
        if underlay.is_settled(interface):
            return interface
        try:
            return await underlay.find()
        except NoInterface:
            check_address(plan.config, interface)
            raise

    def _log_interface(self, interface: ExternalInterface) -> None:
        text = f"external interface: {interface}, MTU {interface.mtu}"
        self._logged.info("external interface", text)

    def _plan_from(self, saved: SavedState, read: Callable[[str], Plan]) -> Plan | None:
        """The plan to serve the saved state; None if it cannot be served on this host."""
        try:
            plan = read(saved.config)
        except BadNetworkConfig as why:
            self._conditions.report(
                Condition.RESUMED, f"cannot serve the saved state meanwhile: {why}"
            )
            return None
        if saved.lease is None or not plan.config.fits(saved.lease.subnet):
            return None
        if self._config.seen_since is None:
            reason, until = "the store does not answer", "until it does"
        else:
            reason, until = "the network config cannot be used", "until there is another"
        what = f"serving lease {saved.lease} and {len(saved.peers)} peers as saved"
        self._conditions.report(Condition.RESUMED, f"{reason}: {what}, {until}")
        return replace(plan, resume=saved.lease_now())
