"""Text of somebody who wants more than to be read, and what may become of it."""

import json
import re
from typing import Any

EVIL = (
    "\x1b]0;OWNED\x07\x1b[2J\x1b[1;1Hall is well\x1b[8m\r\nFORGED INFO lease stolen\x9b31m\x7f\0"
    "\u202eright to left\u2066\u2028FORGED\u2029\u0085FORGED\u200b\ufeff\ue000\ud800"
)
"""ANSI and C1 sequences, new lines of every kind, directions, nothing to see, a lone surrogate."""
ENDLESS = EVIL + "x" * 60_000
ENCODABLE = ENDLESS.replace("\ud800", "")
"""For what is logged in a test: pytest-xdist sends the log of each test as UTF-8."""
_LONGEST = 2_000


def assert_harmless(text: str) -> None:
    """It has lines of printable characters, none of them forged or endless."""
    lines = text.removesuffix("\n").split("\n")
    for line in lines:
        assert line.isprintable(), line[:200]
        assert not line.lstrip().startswith("FORGED"), line[:200]
        assert len(line) <= _LONGEST, line[:200]


def assert_harmless_document(text: str) -> Any:
    """It is JSON in ASCII without a control character; return the document."""
    assert text.isascii()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    return json.loads(text)
