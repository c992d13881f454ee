"""What the tests in namespaces share."""

import os
from collections.abc import Iterator

import pytest
from world import World


def pytest_sessionstart() -> None:
    """Without root nothing here can run, and nothing here may pass unseen."""
    if os.geteuid() != 0:
        pytest.exit("netns-tests need root to make network namespaces", returncode=1)


@pytest.fixture
def world() -> Iterator[World]:
    """Namespaces with a real etcd, removed after the test."""
    with World() as made:
        made.start_etcd()
        yield made
