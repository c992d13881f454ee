"""SavedState: the state served last, for a start while the store is unreachable.

It is one JSON document in a private file; leases have the same form as in the store:

    {"Version": 1, "Prefix": "/coreos.com/network", "Config": "{...}",
     "Lease": {"Key": "10.5.1.0-24", "Value": "{...}", "TTL": 86400, "Index": 17,
               "Ends": 1700000000},
     "Peers": {"10.5.2.0-24": "{...}", ...}}
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flannel import atomic_file
from flannel.document import MAX_CHARS, BadDocument, Members, parse_object, shown
from flannel.errors import BadLease
from flannel.lease import (
    LAST_INDEX,
    LONGEST_TTL,
    UNKNOWN_TTL,
    Lease,
    LeaseAttrs,
    parse_subnet_key,
    subnet_key,
)
from flannel.once import Once
from flannel.printable import as_json

log = logging.getLogger(__name__)
_too_long = Once(log)

FILE_NAME = "state.json"
_VERSION = 1
_MAX_BYTES = 32 << 20
"""Enough for more peers than any network has, at 200 bytes each."""
_MAX_VALUES = 15 << 20
"""Characters of all peers. In the file they are escaped again, which at most doubles them."""
_LAST_SECOND = 1 << 40
"""The largest end of a lease, in seconds since 1970, even if the clock was wrong."""
_MAX_VALUE = 6 * MAX_CHARS
"""Characters of a lease: one character in the store may be six here (``\\u00e9``)."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """The state of one network when it was saved.

    :ivar prefix: of the network's keys in the store.
    :ivar config: the text of the network config.
    :ivar lease: this host's own lease; None after it was lost or released.
    :ivar peers: the leases of other hosts.
    :ivar ends: when the lease ends by the store's last report, in seconds since 1970; 0: unknown.
    """

    prefix: str
    config: str
    lease: Lease | None
    peers: tuple[Lease, ...]
    ends: int = 0

    def lease_now(self) -> Lease | None:
        """Our lease with the lifetime that is left now, if that is known."""
        lease = self.lease
        if lease is None or lease.ttl is None:
            return lease
        if not self.ends:
            return replace(lease, ttl=UNKNOWN_TTL)
        left = int(self.ends - time.time())
        return replace(lease, ttl=min(max(left, 0), max(lease.ttl, 0)))

    def to_json(self) -> str:
        """The content of the file."""
        document: dict[str, Any] = {
            "Version": _VERSION,
            "Prefix": self.prefix,
            "Config": self.config,
            "Peers": self._values(),
        }
        if self.lease is not None:
            document["Lease"] = {
                "Key": subnet_key(self.lease.subnet),
                "Value": self.lease.attrs.to_json(),
                "TTL": self.lease.ttl and max(self.lease.ttl, 0),
                "Index": self.lease.index,
                "Ends": self.ends,
            }
        return as_json(document)

    def _values(self) -> dict[str, str]:
        """The peers' leases by key; the longest are left out if the file would be too large.

        Any host that writes leases can make them very long.
        """
        values = {subnet_key(peer.subnet): peer.attrs.to_json() for peer in self.peers}
        left = _MAX_VALUES
        if sum(map(len, values.values())) <= left:
            _too_long.forget("peers")
            return values
        found = {}
        for key, value in sorted(values.items(), key=lambda each: len(each[1])):
            left -= len(value)
            if left < 0:
                break
            found[key] = value
        _too_long.warn("peers", f"leases too long to be saved: {len(values) - len(found)}")
        return found

    @classmethod
    def from_json(cls, text: str) -> "SavedState":
        """Parse and check the whole document; peers that cannot be parsed are left out.

        :raises BadDocument: the document does not have the form that `to_json` writes.
        """
        members = Members(parse_object(text, _MAX_BYTES))
        if members.get("Version") != _VERSION:
            raise members.bad("Version", f"must be {_VERSION}")
        lease, ends = None, 0
        try:
            if "Lease" in members:
                own = Members(members.mapping("Lease"), "Lease.")
                lease, ends = _own(own), own.integer("Ends", 0, 0, _LAST_SECOND)
        except BadLease as why:
            raise BadDocument(f"the lease of this host in it is none: {why}") from None
        peers = _peers(members.mapping("Peers"))
        prefix, config = (members.text(name, "must be a string") for name in ("Prefix", "Config"))
        return cls(prefix, config, lease, peers, ends)


def _own(members: Members) -> Lease:
    key, value = (members.text(name, "must be a string") for name in ("Key", "Value"))
    ttl = members.integer("TTL", -1, 0, LONGEST_TTL)
    return Lease(
        parse_subnet_key(key),
        LeaseAttrs.from_json(value, _MAX_VALUE),
        ttl if ttl >= 0 else None,
        members.integer("Index", 0, 0, LAST_INDEX),
    )


def _peers(values: Mapping[str, Any]) -> tuple[Lease, ...]:
    """The peers' leases; those that cannot be parsed are left out and logged."""
    peers = []
    bad: dict[str, BadLease] = {}
    for key, value in values.items():
        try:
            attrs = LeaseAttrs.from_json(str(value), _MAX_VALUE)
            peers.append(Lease(parse_subnet_key(key), attrs, UNKNOWN_TTL))
        except BadLease as why:
            bad[key] = why
    if bad:
        key, first = next(iter(bad.items()))
        log.warning("ignoring %d saved leases, the first is %s: %s", len(bad), shown(key), first)
    return tuple(peers)


def write(path: Path, state: SavedState) -> None:
    """Write the file.

    :raises CannotWrite: an old file is unchanged.
    """
    atomic_file.write_private(path, state.to_json().encode())


def read(path: Path, prefix: str) -> SavedState | None:
    """The state of the network at ``prefix`` that an earlier run has saved.

    None if there is no file, if it is of a different network, or, with a warning, if it is damaged.
    """
    try:
        state = SavedState.from_json(atomic_file.read(path, _MAX_BYTES).decode())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadDocument) as why:  # UnicodeDecodeError is a ValueError
        reason = why.strerror if isinstance(why, OSError) else why
        log.warning("ignoring %s, which an earlier run should have left: %s", path, reason)
        return None
    return state if state.prefix == prefix else None
