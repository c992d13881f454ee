"""Files of networks that container programs read: JSON, ours if they bear our mark.

A file without the mark is somebody else's: it is never changed, nor is a link or a directory of
that name. Another file of the same directory may have the same network; then the reader would take
either of them, so ours is not written.
"""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flannel import atomic_file
from flannel.document import BadDocument, NotAnObject, parse_object
from flannel.errors import CannotHandOver, CannotWrite
from flannel.handover.recipients import MARK, why_foreign
from flannel.printable import as_json, printable

_LARGEST = 1 << 20
"""The most bytes of a file that is read; real ones have a thousand."""
_MOST = 200
"""Files of the directory that are looked at."""


def write(path: Path, document: Mapping[str, Any], owner: str) -> bool:
    """Write the document if there is a different one; return whether there was.

    :param owner: the value of the mark, which the document has.
    :raises CannotHandOver: the file is not ours, or another one has the same network.
    :raises CannotWrite: an old file is unchanged.
    """
    _require_ours(path, owner)
    _require_unique(path, str(document["name"]))
    return atomic_file.write(path, (as_json(document, indent=2) + "\n").encode())


def is_ours(path: Path, owner: str) -> bool:
    """Whether there is a file that bears our mark."""
    try:
        return mark_of(_read(path)) == owner
    except (OSError, ValueError):
        return False


def remove(path: Path, owner: str) -> None:
    """Remove the file if it is ours.

    :raises CannotWrite: it stays.
    """
    if is_ours(path, owner):
        try:
            path.unlink(missing_ok=True)
        except OSError as why:
            raise CannotWrite(f"cannot remove {path}: {why.strerror}") from why


def mark_of(document: Mapping[str, Any]) -> object:
    """The value of the mark: a member of a CNI file, a label of podman's; None without one."""
    labels = document.get("labels")
    return document.get(MARK) or (labels.get(MARK) if isinstance(labels, dict) else None)


def _require_ours(path: Path, owner: str) -> None:
    try:
        mark = mark_of(_read(path))
    except FileNotFoundError:
        return
    except NotADirectoryError:
        return  # writing says so
    except OSError as why:
        reason = "it is a symbolic link" if why.errno == errno.ELOOP else why.strerror
        raise CannotHandOver(f"cannot take {path} for the lease: {reason}") from None
    except ValueError as why:
        raise CannotHandOver(f"cannot take {path} for the lease: {printable(str(why))}") from None
    if mark != owner:
        raise CannotHandOver(f"cannot take {path} for the lease: {why_foreign(mark, MARK)}")


def _require_unique(path: Path, name: str) -> None:
    try:
        others = sorted(path.parent.iterdir())
    except OSError:
        return  # it is made, or writing says why not
    for other in others[:_MOST]:
        if other == path or other.name.startswith(".") or other.suffix not in _SUFFIXES:
            continue
        try:
            has = _read(other).get("name")
        except (OSError, ValueError):
            continue
        if has == name:
            raise CannotHandOver(f"cannot write {path}: {other} has a network {name} already")


_SUFFIXES = (".conf", ".conflist", ".json")
"""libcni's and podman's."""


def _read(path: Path) -> dict[str, Any]:
    """The object in a file.

    :raises OSError: it cannot be read, or is a link.
    :raises ValueError: it has no object.
    """
    content = atomic_file.read(path, _LARGEST)
    try:
        return parse_object(content.decode(), _LARGEST)
    except NotAnObject:
        raise ValueError("it is not a JSON object") from None
    except (BadDocument, UnicodeDecodeError):
        raise ValueError("it is not JSON") from None
