"""What systemd keeps for a service: descriptors that one flanneld gives, and the next one gets."""

import fcntl
import os
from collections.abc import Sequence

_FIRST = 3  # sd_listen_fds(3)
_OUT_OF_THE_WAY = 500

# The shell that becomes flanneld: only the process itself knows its number beforehand.
_BECOME = 'LISTEN_PID=$$ exec "$@"'


class KeptFds:
    """As FDSTORE=1 in sd_notify(3) has it."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, int]] = []

    @property
    def names(self) -> list[str]:
        """Of each descriptor that is kept."""
        return [name for name, _ in self._kept]

    def hear(self, message: bytes, fds: Sequence[int]) -> None:
        """A message of the service, and the descriptors that came with it."""
        fields = dict(line.split("=", 1) for line in message.decode().splitlines())
        name = fields.get("FDNAME", "stored")
        if fields.get("FDSTOREREMOVE") == "1":
            gone = [each for each in self._kept if each[0] == name]
            self._kept = [each for each in self._kept if each[0] != name]
            for _, fd in gone:
                os.close(fd)
        elif fields.get("FDSTORE") == "1":
            self._kept += [(name, fd) for fd in fds]
        else:
            assert not fds, message

    def handed_over(self) -> tuple[list[str], dict[str, str], list[int]]:
        """For the next start: words before the command, variables, descriptors to pass on."""
        if not self._kept:
            return [], {}, []
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for _, fd in self._kept]
        names = self.names
        self.clear()
        self._kept = list(zip(names, high, strict=True))
        moves = " ".join(f"{_FIRST + i}<&{fd} {fd}<&-" for i, fd in enumerate(high))
        prefix = ["bash", "-c", f"exec {moves}; {_BECOME}", "bash"]
        return prefix, {"LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": ":".join(names)}, high

    def clear(self) -> None:
        """As when the service is stopped."""
        for _, fd in self._kept:
            os.close(fd)
        self._kept = []
