"""SavedState: what this host served last, kept for a start while the store does not answer.

One JSON document in a private file, whose leases have the form that they have in the store:

    {"Version": 1, "Prefix": "/coreos.com/network", "Config": "{...}",
     "Lease": {"Key": "10.5.1.0-24", "Value": "{...}", "TTL": 86400, "Index": 17},
     "Peers": {"10.5.2.0-24": "{...}", ...}}
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flannel import atomic_file
from flannel.document import BadDocument, Members, load
from flannel.errors import BadLease
from flannel.lease import Lease, LeaseAttrs, parse_subnet_key, subnet_key

log = logging.getLogger(__name__)

FILE_NAME = "state.json"
_VERSION = 1
_MAX_BYTES = 32 << 20
"""Two hundred bytes a peer: more than any network has."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """What was true of one network when it was saved.

    :ivar prefix: of the network's keys in the store.
    :ivar config: the text of the network config.
    :ivar lease: this host's own; None after it was lost or given up.
    :ivar peers: the leases of others.
    """

    prefix: str
    config: str
    lease: Lease | None
    peers: tuple[Lease, ...]

    def to_json(self) -> str:
        """The content of the file."""
        document: dict[str, Any] = {
            "Version": _VERSION,
            "Prefix": self.prefix,
            "Config": self.config,
            "Peers": {subnet_key(peer.subnet): peer.attrs.to_json() for peer in self.peers},
        }
        if self.lease is not None:
            document["Lease"] = {
                "Key": subnet_key(self.lease.subnet),
                "Value": self.lease.attrs.to_json(),
                "TTL": self.lease.ttl,
                "Index": self.lease.index,
            }
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str) -> "SavedState":
        """Read and check all of it.

        :raises BadDocument: it is not what `to_json` makes.
        """
        members = Members(load(text, _MAX_BYTES))
        if members.get("Version") != _VERSION:
            raise members.bad("Version", f"must be {_VERSION}")
        try:
            lease = None
            if "Lease" in members:
                own = Members(members.mapping("Lease"), "Lease.")
                key, value = (own.text(name, "must be a string") for name in ("Key", "Value"))
                ttl = own.integer("TTL", -1, 0, 2**31)
                lease = Lease(
                    parse_subnet_key(key),
                    LeaseAttrs.from_json(value),
                    ttl if ttl >= 0 else None,
                    own.integer("Index", 0, 0, 2**63),
                )
            peers = tuple(
                Lease(parse_subnet_key(key), LeaseAttrs.from_json(str(value)))
                for key, value in members.mapping("Peers").items()
            )
        except BadLease as why:
            raise BadDocument(f"a lease in it is none: {why}") from None
        prefix, config = (members.text(name, "must be a string") for name in ("Prefix", "Config"))
        return cls(prefix, config, lease, peers)


def write(path: Path, state: SavedState) -> None:
    """Write the file.

    :raises CannotWrite: the old one, if any, is as it was.
    """
    atomic_file.write_private(path, state.to_json().encode())


def read(path: Path, prefix: str) -> SavedState | None:
    """What an earlier run has saved of the network at ``prefix``.

    None if there is no file, and, with one warning, if it is of no use.
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
