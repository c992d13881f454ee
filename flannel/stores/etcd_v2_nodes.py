"""LeaseNodes: translates nodes and events of etcd's v2 API into leases. Pure but for the log."""

import logging
from contextlib import suppress
from ipaddress import IPv4Network
from typing import Any

from flannel.document import shown
from flannel.errors import BadLease
from flannel.lease import (
    LONGEST_TTL,
    Lease,
    LeaseAdded,
    LeaseAttrs,
    LeaseEvent,
    LeaseGarbled,
    LeaseRemoved,
    parse_subnet_key,
)
from flannel.once import Once

log = logging.getLogger(__name__)

_REMOVED = frozenset({"delete", "expire", "compareAndDelete"})
_WRITTEN = frozenset({"set", "create", "update", "compareAndSwap"})

Node = dict[str, Any]
Good = dict[str, Lease]
"""Leases by the last part of their keys; each has the last value that could be read."""


class LeaseNodes:
    """Reads the nodes below one directory, and logs once each node that is not a lease.

    :param directory: ``/coreos.com/network/subnets``.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._unreadable = Once(log)

    def read(self, directory: Node, before: Good) -> tuple[Good, frozenset[IPv4Network]]:
        """Every lease in the node of the directory, and the subnets whose keys do not hold one.

        A key that no longer holds a lease keeps its lease in ``before``.
        """
        good: Good = {}
        garbled = set()
        for node in directory.get("nodes", ()):
            name = name_of(node)
            kept = before.get(name)
            lease = self._readable(node, kept)
            if lease is None:
                with suppress(BadLease):
                    garbled.add(parse_subnet_key(name))
            if (stands := lease or kept) is not None:
                good[name] = stands
        self._unreadable.summarize()
        return good, frozenset(garbled)

    def apply(self, event: Node, good: Good) -> tuple[list[LeaseEvent], bool]:
        """Translate an event into lease events; ``good`` is brought up to date.

        :return: the events, and whether they are complete; if not, the directory has to be read.
        """
        node, action = event["node"], event.get("action")
        key = str(node.get("key", ""))
        if key.rpartition("/")[0] != self._directory:
            if len(key) > len(self._directory):
                return [], True  # a key in a directory below it, which is not a lease
            # The directory itself, or one above it.
            removed = good.values() if action in _REMOVED else ()
            return [LeaseRemoved(lease.subnet) for lease in removed], False
        name = name_of(node)
        if action in _REMOVED:
            self._unreadable.forget(name)
            gone = good.pop(name, None)
            return [LeaseRemoved(gone.subnet)] if gone is not None else [], True
        if action not in _WRITTEN:
            return [], False
        kept = good.get(name)
        lease = self._readable(node, kept)
        if lease is None:
            return [LeaseGarbled(kept.subnet)] if kept is not None else [], True
        good[name] = lease
        return [LeaseAdded(lease)], True

    def _readable(self, node: Node, kept: Lease | None) -> Lease | None:
        """The lease in a node; None if it does not hold one, which is logged once.

        :param kept: the last good lease of that key; it counts until the key is repaired or
            removed.
        """
        name = name_of(node)
        try:
            lease = lease_in(node)
        except BadLease as why:
            keeping = "; keeping its last good lease" if kept is not None else ""
            value = node.get("value", "")[:200]
            message = f"skipping {self._directory}/{shown(name)}: {why}{keeping}"
            self._unreadable.warn(name, message, about=value)
            return None
        self._unreadable.forget(name)
        return lease


def name_of(node: Node) -> str:
    """The last part of a node's key."""
    return str(node.get("key", "")).rpartition("/")[2]


def lease_in(node: Node) -> Lease:
    """The lease in a node.

    :raises BadLease: its key or value is not that of a lease.
    """
    if node.get("dir"):
        raise BadLease("it is a directory")
    subnet = parse_subnet_key(name_of(node))
    attrs = LeaseAttrs.from_json(node.get("value", ""))
    return Lease(subnet, attrs, ttl_of(node), node["modifiedIndex"])


def ttl_of(node: Node) -> int | None:
    """The seconds that a node lasts; None if it has no end.

    etcd omits a TTL of 0, which an expired lease has until etcd deletes it.
    """
    ttl: int | None = node.get("ttl", 0 if "expiration" in node else None)
    return None if ttl is None else min(max(ttl, 0), LONGEST_TTL)
