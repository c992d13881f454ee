"""Texts that become values; the bad ones are in test_table.py, each with its flag."""

from datetime import timedelta

import pytest
from typed_options import typed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("90m", 5400), ("1h30m", 5400), ("60", 60), ("3600s", 3600), ("1h60", 3660)],
)
def test_times_are_written_as_in_go_or_in_seconds(text: str, seconds: int) -> None:
    assert typed(f"-subnet-lease-ttl={text}").subnet_lease_ttl == timedelta(seconds=seconds)
