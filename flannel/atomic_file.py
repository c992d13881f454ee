"""Write a small file atomically: a reader finds either the old or the new content, whole."""

import os
import secrets
import stat
from pathlib import Path

from flannel.errors import CannotWrite


def write(path: Path, content: bytes) -> bool:
    """Make ``path`` a file of this process's user with ``content`` and mode 0644.

    Root writes to directories where other users may have put files: no link is followed, neither at
    ``path``, which is replaced, nor at the temporary file beside it, whose name cannot be guessed.
    The modes of the file and of directories made for it do not depend on the umask. A file that
    already has this content, owner and mode is not written.

    :return: whether it was written.
    :raises CannotWrite: the file at ``path`` is unchanged; no temporary file is left.
    """
    return _write(path, content, 0o644, 0o755)


def write_private(path: Path, content: bytes) -> None:
    """The same for a file that only its owner may read: mode 0600, in a directory of mode 0700."""
    _write(path, content, 0o600, 0o700)


def read(path: Path, max_bytes: int) -> bytes:
    """The content of a file, which somebody else may have written.

    :raises OSError: it cannot be read, or is a link.
    :raises ValueError: it is not a regular file, or larger; a phrase without its name.
    """
    # O_NONBLOCK: opening a FIFO that has no writer would block.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is not a file")
        if found.st_size > max_bytes:
            raise ValueError(f"it has more than {max_bytes} bytes")
        return file.readall()


def _write(path: Path, content: bytes, mode: int, directory_mode: int) -> bool:
    try:
        make_directory(path.parent, directory_mode)
        if _is_written(path, content, mode):
            return False
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            _create(temporary, content, mode)
            temporary.replace(path)
            _sync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, ValueError) as why:  # ValueError: a NUL in the name
        reason = why.strerror if isinstance(why, OSError) else why
        raise CannotWrite(f"cannot write {path}: {reason}") from why
    return True


def make_directory(path: Path, mode: int) -> None:
    """Make a directory with this mode, and missing parents with mode 0755.

    :raises OSError: it cannot be made.
    """
    if path.is_dir():
        return
    make_directory(path.parent, 0o755)
    path.mkdir(mode, exist_ok=True)
    path.chmod(mode)


def _is_written(path: Path, content: bytes, mode: int) -> bool:
    try:
        # O_NONBLOCK: opening a FIFO that has no writer would block.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(fd, "rb", buffering=0) as file:
        found = os.fstat(fd)
        return (
            stat.S_ISREG(found.st_mode)
            and stat.S_IMODE(found.st_mode) == mode
            and found.st_uid == os.geteuid()
            and found.st_size == len(content)
            and file.read(len(content)) == content
        )


def _sync_directory(path: Path) -> None:
    """Make the new name survive a loss of power.

    A NodeID must not change after it has been published.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(path: Path, content: bytes, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)
        file.flush()
        os.fsync(fd)
