"""Will docker start with its daemon.json beside the options that mk-docker-opts writes?

dockerd refuses to start if an option is a flag and a member of that file, if the file is not a JSON
object, and if ``bridge`` names a bridge beside ``--bip``. Where docker's unit does not pass the
options on to dockerd, as without our drop-in, the members are the operator's way to hand the lease
over, and nothing is refused. Nothing is changed here.
"""

import errno
import os
import re
from pathlib import Path
from typing import Any

from flannel import programs
from flannel.document import BadDocument, NotAnObject, parse_object
from flannel.errors import CannotRun, FlannelError

DAEMON_JSON = Path("/etc/docker/daemon.json")
"""dockerd's default for --config-file."""
DOCKER_OPTIONS = Path("/run/flannel/docker")
"""Where flanneld's units have mk-docker-opts write."""

_LARGEST = 1 << 20
"""The most bytes read of either file."""
_FLAG = re.compile(r"--(bip|ip-masq|mtu)=")
"""The flags of mk-docker-opts; dockerd's members have the same names."""
_SHOW_UNIT = ("systemctl", "show", "--property=EnvironmentFiles,ExecStart", "docker.service")
_TIMEOUT = 10.0
"""Seconds in which systemd has to describe docker's unit."""


class DaemonJsonUnread(FlannelError):
    """daemon.json cannot be read, so it is not known whether docker starts."""


async def refusals() -> list[str]:
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
        document = parse_object(text, _LARGEST)
    except NotAnObject:
        return [f"{DAEMON_JSON} is not a JSON object"]
    except BadDocument as why:
        return [f"{DAEMON_JSON} {str(why).removeprefix('it ')}"]
    if not document.keys() & {"bip", "bridge", "ip-masq", "mtu"}:
        return []
    return _conflicts(document, await _given())


def _conflicts(document: dict[str, Any], given: set[str]) -> list[str]:
    both = sorted(given & document.keys())
    found = [f"{DAEMON_JSON} has {name}, and {DOCKER_OPTIONS} has --{name}" for name in both]
    if "bip" in given and document.get("bridge"):
        found.append(f"{DAEMON_JSON} has bridge, and {DOCKER_OPTIONS} has --bip")
    return found


async def _given() -> set[str]:
    """The flags that dockerd gets from flannel at its next start."""
    try:
        lines = _read(DOCKER_OPTIONS).decode(errors="replace").splitlines()
    except OSError:
        return set()
    unit = await _docker_unit()
    if unit is not None:
        taken = _variables(unit)
        lines = [line for line in lines if line.partition("=")[0] in taken]
    return set(_FLAG.findall("\n".join(lines)))


async def _docker_unit() -> str | None:
    """What docker's unit runs, with which files of variables; None if systemd does not answer."""
    try:
        done = await programs.run(_SHOW_UNIT, timeout=_TIMEOUT)
    except CannotRun:
        return None
    return done.stdout.decode(errors="replace") if done.status == 0 else None


def _variables(unit: str) -> set[str]:
    """The variables on dockerd's command line, if the unit reads them from our file."""
    files = re.findall(r"(?m)^EnvironmentFiles=(\S+)", unit)
    return set(re.findall(r"\$\{?(\w+)", unit)) if str(DOCKER_OPTIONS) in files else set()


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
