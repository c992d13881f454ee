"""flannel status: the state of the overlay on this host."""

import asyncio
import sys
from typing import Any

from flannel.backends.traits import SenderCheck, traits
from flannel.cli.context import Context, DaemonDown, DaemonUnseen, duration, pairs
from flannel.errors import FlannelError, StoreError
from flannel.handover import subnet_env
from flannel.health.status import lease_document
from flannel.kernel.host import is_ours
from flannel.printable import clear

_WATCH = 2.0


async def status(context: Context, *, watch: bool) -> int:
    """Print it once, or every two seconds until interrupted; a JSON document is a line then.

    :returns: exit status 0 if flanneld is ready.
    """
    if not watch:
        return await _once(context)
    while True:
        if sys.stdout.isatty() and not context.as_json:
            clear()
        await _once(context, on_one_line=True)
        await asyncio.sleep(_WATCH)


async def _once(context: Context, *, on_one_line: bool = False) -> int:
    try:
        found: dict[str, Any] = {"daemon": await context.ask_daemon("/status")}
    except DaemonDown as why:
        found = {
            "daemon": None,
            "daemon_error": str(why),
            "daemon_unseen": isinstance(why, DaemonUnseen),
            **await _without_daemon(context),
        }
    context.show(found, *_lines(found), on_one_line=on_one_line)
    return 0 if found["daemon"] is not None and found["daemon"]["ready"] else 1


async def _without_daemon(context: Context) -> dict[str, Any]:
    """The members of the document that are known while flanneld is down."""
    env = subnet_env.read(context.options.subnet_file)
    found: dict[str, Any] = {"subnet_env": None, "device": None, "lease": None, "etcd_error": ""}
    if env is not None:
        found["subnet_env"] = {
            "network": str(env.network),
            "subnet": str(env.subnet),
            "mtu": env.mtu,
            "ip_masq": env.ip_masq,
        }
    try:
        async with context.kernel() as kernel:
            ours = [link for link in await kernel.netlink.list_links() if is_ours(link)]
        found["device"] = [
            # Without flanneld, a TUN device carries no packets.
            {"name": link.name, "mtu": link.mtu, "up": link.up, "carries": link.kind != "tun"}
            for link in ours
        ]
    except FlannelError as why:
        found["device_error"] = str(why)
    try:
        leases = (await context.store.snapshot()).leases
    except StoreError as why:
        found["etcd_error"] = str(why)
    else:
        subnet = env.subnet.network if env is not None else None
        mine = next((lease for lease in leases if lease.subnet == subnet), None)
        found["lease"] = lease_document(mine) if mine is not None else None
        found["leases"] = len(leases)
    return found


def _lines(found: dict[str, Any]) -> list[str]:
    if found["daemon"] is None:
        return _lines_without_daemon(found)
    daemon = found["daemon"]
    lease, etcd, repairs = daemon["lease"], daemon["etcd"], daemon["repairs"]
    interface = daemon["interface"]
    ready = "ready" if daemon["ready"] else f"NOT READY: {daemon['unready']}"
    lines: list[tuple[str, object]] = [
        ("flanneld", f"{ready}; {daemon['version']}, up {duration(daemon['uptime'])}")
    ]
    if daemon["network"] is not None:
        lines.append(("network", f"{daemon['network']}, backend {daemon['backend']}"))
    if lease is not None:
        lines.append(("lease", _lease(lease)))
    if interface is not None:
        public = f", public {interface['public_ip']}"
        public = public if interface["public_ip"] != interface["address"] else ""
        text = f"{interface['name']} {interface['address']}{public}, MTU {interface['mtu']}"
        lines += [
            ("device", f"{daemon['device'] or 'none of its own'}, MTU {daemon['mtu']}"),
            ("interface", text),
            ("peers", daemon["peers"]),
        ]
    lines.append(("etcd", _etcd(etcd)))
    if daemon["firewall"] is not None:
        firewall = daemon["firewall"]
        guard = "only peers may send" if firewall["guarded"] else _unguarded(daemon["backend"])
        again = f", repaired {firewall['repairs']} times" if firewall["repairs"] else ""
        lines.append(("firewall", guard + again))
    if repairs["count"]:
        ago = duration(repairs["last_ago"])
        lines.append(("repairs", f"{repairs['count']}, the last {ago} ago: {repairs['last']}"))
    else:
        lines.append(("repairs", "none"))
    if daemon["counters"] is not None:
        counted = {**daemon["counters"], **daemon["firewall"]["dropped"]}
        drops = [f"{name} {count}" for name, count in counted.items() if count]
        lines.append(("drops", ", ".join(drops) or "none counted"))
    lines += [("trouble", text) for text in daemon["conditions"].values()]
    return pairs(lines)


def _unguarded(backend: str) -> str:
    check = traits(backend).sender_check
    if check is SenderCheck.FIREWALL:
        return "no guard: every host that reaches the port can send"
    if check is SenderCheck.PACKET_LOOP:
        return "no guard, for the packet loop has its own"
    return "no guard"


def _lease(lease: dict[str, Any]) -> str:
    if lease["reservation"]:
        return f"{lease['subnet']}, a reservation"
    renewed = "not renewed since the start"
    if lease["renewed_ago"] is not None:
        renewed = f"renewed {duration(lease['renewed_ago'])} ago"
    if lease["left"] is None:
        return f"{lease['subnet']}, {renewed}, its end is unknown until etcd answers"
    if lease["left"] <= 0:
        return f"{lease['subnet']}, {renewed}, ended {duration(-lease['left'])} ago"
    due = duration(max(lease["renewal_in"], 0))
    return (
        f"{lease['subnet']}, {renewed}, ends in {duration(lease['left'])}, due for renewal in {due}"
    )


def _etcd(etcd: dict[str, Any]) -> str:
    if etcd["answered_ago"] is None:
        answered = "has not answered yet"
    else:
        answered = f"answered {duration(etcd['answered_ago'])} ago"
    errors = f", {etcd['errors']} failed requests" if etcd["errors"] else ""
    trouble = "UNREACHABLE, " if etcd["trouble"] else ""
    return f"{trouble}{etcd['endpoint']}, {answered}{errors}"


def _lines_without_daemon(found: dict[str, Any]) -> list[str]:
    env, lease, devices = found["subnet_env"], found["lease"], found["device"]
    error = found["daemon_error"]
    state = (
        f"NOT SEEN: {error}; run flannel as root" if found["daemon_unseen"] else f"DOWN: {error}"
    )
    lines: list[tuple[str, object]] = [("flanneld", state)]
    if env is not None:
        lines.append(("subnet.env", f"{env['subnet']} of {env['network']}, MTU {env['mtu']}"))
    else:
        lines.append(("subnet.env", "not there"))
    for device in devices or ():
        text = f"{device['name']}, MTU {device['mtu']}, {'up' if device['up'] else 'DOWN'}"
        if device["carries"] and device["up"]:
            text += ": packets flow on"
        elif not device["carries"]:
            text += ": without flanneld nothing is carried"
        lines.append(("device", text))
    if found["etcd_error"]:
        lines.append(("etcd", f"DOWN: {found['etcd_error']}"))
    elif lease is not None:
        left = duration(lease["ttl"]) or "never: a reservation"
        lines.append(("lease", f"{lease['subnet']} of {lease['public_ip']}, ends in {left}"))
    else:
        lines.append(("lease", "none in etcd for the subnet of subnet.env"))
    return pairs(lines)
