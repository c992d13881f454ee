"""flannel leases, reserve, release: which host holds which subnet."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

from flannel.cli.context import Context, DaemonDown, duration, table
from flannel.errors import BadOption, StoreError
from flannel.health.status import lease_document
from flannel.lease import LeaseAttrs
from flannel.leases import reservations
from flannel.network_config import NetworkConfig


async def list_leases(context: Context) -> tuple[list[dict[str, Any]], str]:
    """All leases as documents, from the store, or from flanneld while the store is unreachable.

    :returns: the documents, and a note on their source if it is not the store.
    :raises StoreError: neither answers.
    """
    try:
        leases = (await context.store.snapshot()).leases
    except StoreError as why:
        try:
            status, peers = (
                await context.ask_daemon("/status"),
                await context.ask_daemon("/peers"),
            )
        except DaemonDown:
            raise why from None
        own = [{**lease, "ttl": lease["left"]}] if (lease := status["lease"]) is not None else []
        documents = [{name: each.get(name) for name in _MEMBERS} for each in [*own, *peers]]
        return _sorted(documents), f"{why}; as flanneld last saw them"
    return _sorted([lease_document(lease) for lease in leases]), ""


_MEMBERS = ("subnet", "public_ip", "backend", "backend_data", "node_id", "ttl", "reservation")


def _sorted(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(documents, key=lambda each: IPv4Network(each["subnet"]))


async def leases(context: Context) -> int:
    """Print all leases."""
    documents, note = await list_leases(context)
    rows = [
        (
            each["subnet"],
            each["public_ip"],
            "" if is_awaited(each) else each["backend"],
            _left(each),
            _data(each),
        )
        for each in documents
    ]
    lines = table(rows, ("SUBNET", "HOST", "BACKEND", "ENDS IN", "DATA"))
    context.show({"leases": documents, "note": note}, *lines, note)
    return 0


def is_awaited(document: dict[str, Any]) -> bool:
    """See `Lease.has_no_host_yet`."""
    is_blank = LeaseAttrs(IPv4Address(document["public_ip"])).backend == document["backend"]
    has_host = document["node_id"] or document["backend_data"] is not None
    return document["reservation"] and is_blank and not has_host


def _left(document: dict[str, Any]) -> str:
    if document["reservation"]:
        return "reserved"
    return duration(document["ttl"]) if document["ttl"] is not None else "unknown"


def _data(document: dict[str, Any]) -> str:
    data = document["backend_data"]
    if isinstance(data, dict):
        return " ".join(f"{name}={value}" for name, value in data.items())
    return "" if data is None else str(data)


async def reserve(context: Context, public_ip: IPv4Address, subnet: IPv4Network | None) -> int:
    """Reserve a subnet for a host; ask first if the host is to leave the one that it holds.

    :raises BadOption: there is no network config, or no terminal to ask at and no --yes.
    """
    document = await context.config_document()
    if document is None:
        raise BadOption("cannot reserve a subnet: there is no network config yet")
    config = NetworkConfig.from_json(document.text)
    held = reservations.held_by((await context.store.snapshot()).leases, public_ip)
    used = [each.subnet for each in held if not each.has_no_host_yet]
    left = used[0] if used and subnet not in (None, *used) else None
    question = (
        f"{public_ip} holds {left}. It changes to {subnet} at the next start of its flanneld: no "
        "host reaches its containers from then on, until docker is restarted there as well. "
        "Reserve it?"
    )
    if left is not None and not context.confirm(question):
        return 1
    ttl = int(context.options.subnet_lease_ttl.total_seconds())
    lease = await reservations.reserve(context.store, config, public_ip, subnet, ttl=ttl)
    note = ""
    if left is not None:
        note = "; on that host: systemctl restart flanneld docker"
    elif lease.subnet in used:
        note = ", which holds it; nothing changes for its containers"
    context.show(
        {**lease_document(lease), "moves_from": str(left) if left is not None else None},
        f"reserved {lease.subnet} for {lease.attrs.public_ip}{note}",
    )
    return 0


async def release(context: Context, subnet: IPv4Network) -> int:
    """Release the lease or reservation of a subnet, after asking.

    :raises BadOption: the subnet has none, or stdin is not a terminal and --yes is missing.
    """
    lease = await context.store.find(subnet)
    if lease is None:
        raise BadOption(f"cannot release {subnet}: nobody holds it; flannel leases lists them")
    left = "a reservation" if lease.ttl is None else f"ends in {duration(lease.ttl)}"
    question = (
        f"{lease.subnet} is held by {lease.attrs.public_ip}, {left}. Without it, other hosts drop "
        "their routes to containers there; a running flanneld takes it again. Release it?"
    )
    if not context.confirm(question):
        return 1
    await context.store.release(lease)
    context.show({"released": lease_document(lease)}, f"released {lease}")
    return 0
