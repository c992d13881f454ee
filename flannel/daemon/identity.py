"""The node identity, NodeID: identifies this host independently of its address.

Two hosts can have one public address (Vagrant gives 10.0.2.15 to each), a host can get a different
address, and a copy of a disk contains subnet.env. So a lease names its host: the NodeID is a hash
of the machine's ids and of random bytes that are generated once and stored.
"""

import hashlib
import logging
import re
import secrets
from contextlib import suppress
from pathlib import Path

from flannel import atomic_file
from flannel.errors import CannotWrite

log = logging.getLogger(__name__)

FILE_NAME = "node-id"

# A machine with a copy of this disk has a different product_uuid, and often a new machine-id.
_MACHINE = (Path("/etc/machine-id"), Path("/sys/class/dmi/id/product_uuid"))


def load(directory: Path) -> str:
    """The NodeID of this host; made if there is no usable one.

    If it cannot be stored, that is logged and the result is "": with a NodeID that differs at each
    start, our own lease would look like another host's.
    """
    return find(directory) or renew(directory)


def find(directory: Path) -> str:
    """The stored NodeID; "" without a file, and, with a warning, of a bad file."""
    path = directory / FILE_NAME
    try:
        text = atomic_file.read(path, 100).decode()
        if re.fullmatch("[0-9a-f]{32}\n", text):
            return _hash(text)
        log.warning(
            "ignoring %s, which an earlier run should have left: it is not an identity", path
        )
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else why
        log.warning("ignoring %s, which an earlier run should have left: %s", path, reason)
    return ""


def renew(directory: Path) -> str:
    """Make and store a new NodeID; the result is that of `load`."""
    text = secrets.token_hex(16) + "\n"
    try:
        atomic_file.write_private(directory / FILE_NAME, text.encode())
    except CannotWrite as why:
        log.warning("%s; this host has no identity but its address", why)
        return ""
    return _hash(text)


def _hash(text: str) -> str:
    digest = hashlib.sha256(b"flannel node " + text.encode())
    for path in _MACHINE:
        with suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
