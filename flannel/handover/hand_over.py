"""HandOver: passes the lease on: to docker in subnet.env, to the operator's hook, to systemd.

Every few seconds subnet.env is compared with what it should contain, and written again if it
differs: somebody may have removed it, or a full disk may have room again. The hook runs when the
subnet differs from the one in the file: containers with addresses of the old subnet cannot be
reached any more, and the operator knows what to do about that.
"""

import asyncio
import itertools
import logging
import os
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path

from flannel import programs
from flannel.conditions import Condition
from flannel.errors import CannotRun, CannotWrite, KernelError
from flannel.handover import subnet_env
from flannel.handover.docker_bridge import find_misfits, glance
from flannel.handover.subnet_env import SubnetEnv
from flannel.health.status import PARTS, Status
from flannel.kernel.netlink import Netlink
from flannel.lease import Lease
from flannel.logs import fields
from flannel.printable import printable
from flannel.systemd import notify

log = logging.getLogger(__name__)

_LOOK = 3.0
"""Seconds between two looks at subnet.env, and two glances at docker's bridge."""
_LOOKS_A_DOCKER = 10
"""Looks at subnet.env for each full look at docker's bridge, which reads all links of the host,
while the glances show no change."""
_START = 10.0
"""Seconds that a start may take for systemd. With a lease or a saved state it takes one or two;
dpkg, a boot or an operator should not wait longer for what may come in hours."""
_HOOK_TIMEOUT = 60.0
"""Seconds; enough to restart docker."""


class HandOver:
    """One for all runs of the network.

    :param docker0: whether docker0 should get the lease; -hand-over leaves it alone.
    :ivar subnet: the subnet in subnet.env, perhaps of an earlier run; None if there is none.
    """

    def __init__(
        self,
        netlink: Netlink,
        file: Path,
        hook: Path | None,
        status: Status,
        *,
        docker0: bool = True,
    ) -> None:
        self._netlink = netlink
        self._file = file
        self._hook = hook
        self._status = status
        self._docker0 = docker0
        self._conditions = status.conditions
        self._missing = set(PARTS)
        self._previous = subnet_env.read(file)
        self.subnet = self._previous.subnet.network if self._previous is not None else None
        self._handed_over = self.subnet
        """The subnet that the hook knows."""
        self._bridge: object = None
        """The result of the last glance at docker's bridge."""
        self._notified: IPv4Network | None = None
        """The subnet that systemd knows."""

    async def limit_start(self) -> None:
        """Notify systemd that flanneld is started, although it has no subnet for some time.

        STATUS= has the reason, after "waiting: ".
        """
        await asyncio.sleep(_START)
        if self._notified is None:
            reason = printable(self._status.unready())
            notify(f"READY=1\nSTATUS=waiting: {reason}", os.environ)

    async def keep(self, network: IPv4Network, lease: Lease, mtu: int, ip_masq: bool) -> None:
        """Write subnet.env and keep its content until cancelled.

        Run the hook if the subnet has changed; report a condition while docker has to be restarted.

        :param mtu: bytes, of the containers' links.
        """
        first = subnet_env.first_address(lease.subnet)
        env = SubnetEnv(network, first, mtu, ip_masq)
        await self._write(env)
        about = fields(subnet=lease.subnet, mtu=mtu)
        log.info("%s has subnet %s, MTU %d", self._file, first, mtu, extra=about)
        await self._report_changes(lease, env)
        for turn in itertools.count():
            if await self._has_docker_changed() or turn % _LOOKS_A_DOCKER == 0:
                await self._look_at_docker(env)
            await asyncio.sleep(_LOOK)
            if await self._write(env):
                log.warning("%s was changed or removed; written again", self._file)

    async def _write(self, env: SubnetEnv) -> bool:
        """Write the file, trying until that succeeds; return whether its content differed."""
        while True:
            try:
                written = subnet_env.write(self._file, env)
            except CannotWrite as why:
                self._conditions.report(Condition.SUBNET_ENV, f"{why}; trying again")
                await asyncio.sleep(_LOOK)
            else:
                self._conditions.clear(Condition.SUBNET_ENV)
                return written

    async def _report_changes(self, lease: Lease, env: SubnetEnv) -> None:
        """Log a changed MTU or subnet; run the hook for a changed subnet."""
        mtu = env.mtu
        previous, self._previous = self._previous, env
        if previous is not None and previous.mtu != mtu:
            remedy = "restart docker, so that" if self._docker0 else "start others, so that"
            log.warning(
                "the MTU is %d now, it was %d: %s containers get it",
                mtu,
                previous.mtu,
                remedy,
            )
        self.has("subnet.env", lease)
        before, self.subnet = self._handed_over, lease.subnet
        if before is not None and before != lease.subnet:
            log.warning(
                "the subnet of this host is %s now, it was %s: containers that have addresses of "
                "the old one cannot be reached",
                lease.subnet,
                before,
            )
            await self._run_hook(before, env)
        self._handed_over = lease.subnet

    async def _has_docker_changed(self) -> bool:
        before = self._bridge
        with suppress(KernelError):
            self._bridge = await glance(self._netlink)
        return self._bridge != before

    async def _look_at_docker(self, env: SubnetEnv) -> None:
        """Report how docker's bridge differs from the lease.

        Docker may have been started before us, or for an earlier lease, and may be restarted at any
        time.
        """
        try:
            misfits = await find_misfits(self._netlink, env.subnet, env.mtu, docker0=self._docker0)
        except KernelError as why:
            log.debug("cannot look at docker's bridge: %s", why)
            return
        found = {misfit.condition: misfit for misfit in misfits}
        for condition in (Condition.DOCKER_SUBNET, Condition.DOCKER_MTU):
            if condition in found:
                self._conditions.report(condition, str(found[condition]))
            else:
                self._conditions.clear(condition)

    async def _run_hook(self, before: IPv4Network, env: SubnetEnv) -> None:
        if self._hook is None:
            return
        about_lease = {
            "FLANNEL_OLD_SUBNET": str(subnet_env.first_address(before)),
            "FLANNEL_SUBNET_FILE": str(self._file),
            **env.variables(),
        }
        passed_on = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        try:
            done = await programs.run(
                [str(self._hook)], timeout=_HOOK_TIMEOUT, environ={**passed_on, **about_lease}
            )
        except CannotRun as why:
            log.warning("%s", why)
            return
        if done.status == 0:
            log.info("ran %s", self._hook)
        else:
            log.warning("%s failed: %s", self._hook, done.complaint)

    def has(self, part: str, lease: Lease) -> None:
        """``part`` is done. After the last one, notify systemd that docker can start.

        systemd is notified again when the lease changes.

        :param part: one of `flannel.health.status.PARTS`.
        """
        self._status.has(part)
        self._missing.discard(part)
        if not self._missing and lease.subnet != self._notified:
            self._notified = lease.subnet
            notify(f"READY=1\nSTATUS=lease {printable(str(lease))}", os.environ)
