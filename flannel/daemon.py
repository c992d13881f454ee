"""The daemon's story: interface, config, backend, lease, subnet.env; then follow the peers.

    Daemon.run             one life after another
      _prepare             interface, network config, backend; wait for what is not there yet
      _serve               one life of the network, ended by an error:
        ├── _hand_over     subnet.env for docker
        ├── LeaseKeeper.keep     renew in time
        ├── LeaseKeeper.follow   store -> SubnetManager.peers
        ├── Upkeep.run     SubnetManager.peers -> kernel, at each change and whenever others may
        │                  have changed it; watches the external interface
        └── network.run    for a backend that carries packets itself

Here alone it is decided what an error means. Nothing that can mend ends the process: a store
that is away is waited for, a lost lease is taken again, any other `FlannelError` starts another
life. What is in the kernel stays there meanwhile, and when the process ends: packets flow on.
"""

import asyncio
import logging
import os
from ipaddress import IPv4Interface, IPv4Network
from time import monotonic

from flannel import subnet_env
from flannel.backends import Backend, Kernel, Network, load
from flannel.backoff import Backoff
from flannel.docker_bridge import find_misfits
from flannel.errors import (
    BadNetworkConfig,
    CannotWrite,
    FlannelError,
    LeaseLost,
    NetworkInUse,
    NoInterface,
    StoreUnavailable,
    UnderlayChanged,
)
from flannel.host import find_overlap, remove_stale_links
from flannel.interface import (
    ExternalInterface,
    InterfaceChoice,
    find_external_interface,
)
from flannel.lease import Lease
from flannel.lease_keeper import AWAY, LeaseKeeper
from flannel.netlink import Netlink
from flannel.network_config import NetworkConfig
from flannel.notify import notify
from flannel.once import Once
from flannel.options import Options
from flannel.rtnetlink import RtNetlink
from flannel.stores import Store
from flannel.subnets import SubnetManager
from flannel.upkeep import Upkeep

log = logging.getLogger(__name__)

_INTERFACE_POLL = 1.0
_WRITE_RETRY = 5.0


async def run(options: Options, store: Store) -> None:
    """Serve until cancelled."""
    async with Netlink() as netlink:
        with RtNetlink() as tables:
            await Daemon(options, store, Kernel(netlink, tables)).run()


class Daemon:
    """One flanneld on one host."""

    def __init__(self, options: Options, store: Store, kernel: Kernel) -> None:
        self._options = options
        self._store = store
        self._kernel = kernel
        self._choice = InterfaceChoice(
            names=options.iface,
            patterns=options.iface_regex,
            can_reach=options.iface_can_reach,
            public_ip=options.public_ip,
        )
        self._said = Once(log)
        self._last_subnet: IPv4Network | None = None
        self._missing = {"subnet.env", "peers"}

    async def run(self) -> None:
        """Live one life after another until cancelled."""
        previous = subnet_env.read(self._options.subnet_file)
        self._last_subnet = previous.subnet.network if previous is not None else None
        backoff = Backoff()
        while True:
            began, at_once = monotonic(), False
            try:
                await self._serve(*await self._prepare())
            except* FlannelError as group:
                why = _first(group)
                if isinstance(why, LeaseLost):
                    log.warning("%s; leasing again", why)
                elif isinstance(why, UnderlayChanged):
                    log.warning("%s; adapting to it", why)
                    at_once = True  # packets may be lost until that is done
                else:
                    # A store that is away says so in many ways: refused, reset, no answer.
                    about = type(why) if isinstance(why, AWAY) else None
                    self._said.warn("life", f"{why}; trying again", about=about)
            if monotonic() - began > backoff.longest:  # it had been a good life
                backoff.reset()
                self._said.forget("life")
            if not at_once:
                await backoff.wait()

    async def _prepare(self) -> tuple[NetworkConfig, ExternalInterface, Backend]:
        interface = await self._wait_for_interface()
        self._said.info("found", f"external interface: {interface}, MTU {interface.mtu}")
        config, backend = await self._wait_for_config(interface)
        self._said.info("agreed", f"network {config.network}, backend {config.backend_type}")
        return config, interface, backend

    async def _wait_for_interface(self) -> ExternalInterface:
        while True:
            try:
                interface = await find_external_interface(
                    self._kernel.netlink, self._kernel.tables, self._choice
                )
            except NoInterface as why:
                self._said.warn("interface", f"{why}; waiting for it")
                await asyncio.sleep(_INTERFACE_POLL)
            else:
                self._said.forget("interface")
                return interface

    async def _wait_for_config(self, interface: ExternalInterface) -> tuple[NetworkConfig, Backend]:
        key = f"{self._options.etcd.prefix}/config"
        async for document in self._store.follow_config():
            if document is None:
                self._said.warn("config", f"there is no network config at {key}; waiting for it")
                continue
            try:
                config = NetworkConfig.from_json(document.text)
                backend = load(config, interface, self._kernel)
            except BadNetworkConfig as why:
                # The version makes the same mistake in a new document news.
                self._said.warn("config", f"{why} ({key}, {document.version}); waiting for another")
            else:
                self._said.forget("config")
                return config, backend
        raise StoreUnavailable(f"cannot read {key}: the store ended the watch")

    async def _serve(
        self, config: NetworkConfig, interface: ExternalInterface, backend: Backend
    ) -> None:
        await self._check_overlap(config, interface)
        subnets = SubnetManager(self._store, config)
        lease = await subnets.acquire(await backend.lease_attrs(), self._last_subnet)
        self._last_subnet = lease.subnet
        log.info("lease %s%s", lease, "" if lease.ttl is not None else ", a reservation")
        network = await backend.start(lease)
        await remove_stale_links(self._kernel.netlink, config.network, network.device)
        self._said.forget("life")
        upkeep = Upkeep(
            self._kernel,
            network,
            interface,
            self._choice,
            peers=lambda: subnets.peers,
            on_ready=lambda: self._has("peers", subnets.own),
        )
        margin = self._options.subnet_lease_renew_margin.total_seconds()
        keeper = LeaseKeeper(subnets, self._said, margin)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hand_over(config, lease, network))
            tasks.create_task(keeper.keep())
            tasks.create_task(keeper.follow(upkeep.pending.add))
            tasks.create_task(upkeep.run(config.network))
            tasks.create_task(network.run())

    async def _check_overlap(self, config: NetworkConfig, interface: ExternalInterface) -> None:
        """Refuse a network that is in use on this host, before anything is touched.

        :raises NetworkInUse: naming the address or route.
        """
        netlink, tables, network = self._kernel.netlink, self._kernel.tables, config.network
        own = {self._last_subnet} if self._last_subnet is not None else set()
        if not await find_overlap(netlink, tables, network, own):
            return
        # Not everybody's: it may be our own, with subnet.env lost, or upstream's routes to peers.
        leases = (await self._store.snapshot()).leases
        own |= {each.subnet for each in leases if each.attrs.public_ip == interface.public_ip}
        gateways = {each.attrs.public_ip for each in leases}
        overlap = await find_overlap(netlink, tables, network, own, gateways)
        if overlap:
            raise NetworkInUse(f"cannot use network {network} on this host: it has {overlap}")

    async def _hand_over(self, config: NetworkConfig, lease: Lease, network: Network) -> None:
        """Write subnet.env; again and again where it cannot be written, for disks get room."""
        first = IPv4Interface((lease.subnet.network_address + 1, lease.subnet.prefixlen))
        # Whoever masquerades is told here. This version makes no firewall rules: docker has to.
        env = subnet_env.SubnetEnv(config.network, first, network.mtu, ip_masq=False)
        before = subnet_env.read(self._options.subnet_file)
        while True:
            try:
                subnet_env.write(self._options.subnet_file, env)
            except CannotWrite as why:
                self._said.warn("subnet.env", f"{why}; trying again")
                await asyncio.sleep(_WRITE_RETRY)
            else:
                log.info(
                    "wrote %s: %s, MTU %d",
                    self._options.subnet_file,
                    first,
                    network.mtu,
                )
                if before is not None and before.mtu != env.mtu:
                    log.warning(
                        "the MTU is %d now, it was %d: restart docker, so that containers get it",
                        env.mtu,
                        before.mtu,
                    )
                self._said.forget("subnet.env")
                self._has("subnet.env", lease)
                return await self._look_at_docker(env)

    async def _look_at_docker(self, env: subnet_env.SubnetEnv) -> None:
        """Say if docker, started before us or for an earlier lease, has to be restarted."""
        found = await find_misfits(self._kernel.netlink, env.subnet, env.mtu)
        for misfit in found:
            self._said.warn(("docker", misfit.why), str(misfit))

    def _has(self, part: str, lease: Lease) -> None:
        """Tell systemd when docker can start: subnet.env is there and the peers are routed."""
        if part in self._missing:
            self._missing.remove(part)
            if not self._missing:
                notify(f"READY=1\nSTATUS=lease {lease}", os.environ)


def _first(group: BaseExceptionGroup[FlannelError]) -> FlannelError:
    """The first error of a group, which may hold groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FlannelError)
    return error
