"""Will docker start with its daemon.json beside the options that mk-docker-opts writes?

dockerd refuses to start if an option is a flag and a member of that file, if the file is not a JSON
object, and if ``bridge`` names a bridge beside ``--bip``. Nothing is changed here.
"""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

from flannel.errors import FlannelError

DAEMON_JSON = Path("/etc/docker/daemon.json")
"""dockerd's default for --config-file."""
DOCKER_OPTIONS = Path("/run/flannel/docker")
"""Where flanneld's units have mk-docker-opts write."""

_LARGEST = 1 << 20
"""The most bytes read of either file."""
_FLAG = re.compile(r"--(bip|ip-masq|mtu)=")
"""The flags of mk-docker-opts; dockerd's members have the same names."""


class DaemonJsonUnread(FlannelError):
    """daemon.json cannot be read, so it is not known whether docker starts."""


def refusals() -> list[str]:
    """The reasons for which dockerd will refuse to start; empty if there is none, or no file.

    :raises DaemonJsonUnread: the file exists and cannot be read.
    """
    try:
        text = _read(DAEMON_JSON).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as why:
        raise DaemonJsonUnread(f"cannot read {DAEMON_JSON}: {why.strerror}") from None
    except UnicodeDecodeError:
        return [f"{DAEMON_JSON} is not JSON: it is not UTF-8"]
    if not text.strip():
        return []  # as dockerd takes it since 23.0
    try:
        document = json.loads(text)
    except RecursionError:
        return [f"{DAEMON_JSON} is nested too deeply"]
    except ValueError as why:
        return [f"{DAEMON_JSON} is not JSON: {why}"]
    if not isinstance(document, dict):
        return [f"{DAEMON_JSON} is not a JSON object"]
    return _conflicts(document, _given())


def _conflicts(document: dict[str, Any], given: set[str]) -> list[str]:
    both = sorted(given & document.keys())
    found = [f"{DAEMON_JSON} has {name}, and {DOCKER_OPTIONS} has --{name}" for name in both]
    if "bip" in given and document.get("bridge"):
        found.append(f"{DAEMON_JSON} has bridge, and {DOCKER_OPTIONS} has --bip")
    return found


def _given() -> set[str]:
    """The flags that docker gets from flannel."""
    try:
        return set(_FLAG.findall(_read(DOCKER_OPTIONS).decode(errors="replace")))
    except OSError:
        return set()


def _read(path: Path) -> bytes:
    """The file's content; of what is no regular file, such as a FIFO, nothing.

    :raises OSError: it cannot be read.
    """
    path.stat()  # `is_file` hides why
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_LARGEST)
