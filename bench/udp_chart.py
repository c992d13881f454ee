"""The chart that the README shows: bars for each way from host to host, as an SVG file."""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path

Rounds = Mapping[str, list[dict[str, float]]]

PANELS = (
    ("tcp1", "TCP, one stream, Gb/s"),
    ("cpu", "CPU seconds for a GB of it"),
    ("pps64", "64-byte packets, thousands a second"),
)
COLOURS = {"direct": "#b8bec9", "vxlan": "#7d9ec0", "plain": "#d9a066", "ours": "#2e7d4f"}
LABELS = {"direct": "no tunnel", "vxlan": "kernel VXLAN", "plain": "one packet a call",
          "ours": "flannel udp"}  # fmt: skip
CARDS = {"on": "card with all offloads", "nic": "usual card", "off": "card without offloads"}

LEFT, BAR, GAP, WIDTH, PANEL = 150, 13, 12, 210, 260
TOP = 62


def draw(path: Path, found: Mapping[str, Rounds]) -> None:
    """Write the chart of all modes in ``found``; see ``udp_tunnel.py``."""
    ways = list(next(iter(found.values())))
    group = len(ways) * BAR + GAP
    width, height = LEFT + len(PANELS) * PANEL, TOP + len(found) * group
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *_legend(ways),
    ]
    for row, mode in enumerate(found):
        middle = TOP + row * group + len(ways) * BAR / 2 + 4
        lines.append(f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end">{CARDS[mode]}</text>')
    for column, (name, title) in enumerate(PANELS):
        left = LEFT + column * PANEL
        lines.append(f'<text x="{left}" y="{TOP - 12}" font-weight="bold">{title}</text>')
        median = {
            (mode, way): statistics.median(each[name] for each in rounds[way])
            for mode, rounds in found.items()
            for way in ways
        }
        scale = WIDTH / max(median.values())
        for row, mode in enumerate(found):
            for number, way in enumerate(ways):
                value = median[mode, way]
                top = TOP + row * group + number * BAR
                lines.append(
                    f'<rect x="{left}" y="{top}" width="{value * scale:.1f}" height="{BAR - 2}" '
                    f'fill="{COLOURS[way]}"/>'
                    f'<text x="{left + value * scale + 4:.1f}" y="{top + BAR - 3}">{value:.3g}'
                    "</text>"
                )
    lines.append("</svg>")
    path.write_text("\n".join(lines) + "\n")


def _legend(ways: Iterable[str]) -> Iterable[str]:
    for number, way in enumerate(ways):
        x = LEFT + number * 140
        yield f'<rect x="{x}" y="12" width="11" height="11" fill="{COLOURS[way]}"/>'
        yield f'<text x="{x + 16}" y="22">{LABELS[way]}</text>'
