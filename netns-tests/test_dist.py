"""`make dist`: what is published can be built from itself, twice alike, and installed anywhere."""

import re
import subprocess
import sys
from pathlib import Path

from make_dist import unpack

CHECKOUT = Path(__file__).parent.parent


def test_two_builds_are_equal_and_run_without_a_compiler(tmp_path: Path) -> None:
    """All of `make dist` but the sdist's own unit tests, which take as long as `make unit`."""
    command = (sys.executable, CHECKOUT / "dist/make_dist.py", "--no-tests", "--into", tmp_path)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(each.name for each in tmp_path.iterdir())
    assert len(names) == 2
    assert re.fullmatch(r"flannel-[\d.]+-cp311-abi3-manylinux\S+_x86_64\.whl", names[0])
    assert re.fullmatch(r"flannel-[\d.]+\.tar\.gz", names[1])
    tree = unpack(tmp_path / names[1], tmp_path / "unpacked")
    # What has no place of its own in a package: the documents, and all that they name.
    tests = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = subprocess.run(
        (*tests, "tests/project/test_docs.py"), cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
