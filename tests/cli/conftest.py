"""What the tests of the command share."""

from pathlib import Path

import pytest
from fake_context import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)
