"""The kernel's traffic counters of a link."""

from collections.abc import Mapping
from pathlib import Path

_TRAFFIC = ("bytes", "packets", "errors", "drops")  # proc_pid_net(5), dev: the first of each half


def device_traffic(device: str, text: str | None = None) -> dict[str, int]:
    """The kernel's counters of a link, as ``rx_bytes`` and the like; empty without such a link.

    :param text: the content of /proc/net/dev; None: read it.
    """
    if text is None:
        try:
            # The thread's own: "self" is the main thread, which may be in another namespace.
            text = Path("/proc/thread-self/net/dev").read_text(errors="replace")
        except OSError:
            return {}
    for line in text.splitlines():
        name, colon, numbers = line.partition(":")
        if colon and name.strip() == device:
            each = [int(number) for number in numbers.split()]
            halves: Mapping[str, list[int]] = {"rx": each[:8], "tx": each[8:]}
            return {
                f"{way}_{what}": half[place]
                for way, half in halves.items()
                for place, what in enumerate(_TRAFFIC)
            }
    return {}
