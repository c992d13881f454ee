"""`make dist` and `make deb`: what is published is the same each time, and can be installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from make_dist import unpack

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of `make dist` but the sdist's own unit tests, which take as long as `make unit`.

    It fails where two builds differ, or do not run without a compiler.
    """
    made = tmp_path_factory.mktemp("published")
    command = (sys.executable, CHECKOUT / "dist/make_dist.py", "--no-tests", "--into", made)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_the_sdist_and_the_wheels_are_all_that_a_host_needs(
    published: Path, tmp_path: Path
) -> None:
    wheelhouse = published / "wheelhouse"
    names = sorted(each.name for each in published.iterdir() if each != wheelhouse)
    assert len(names) == 2
    assert re.fullmatch(r"flannel-[\d.]+-cp311-abi3-manylinux\S+_x86_64\.whl", names[0])
    assert re.fullmatch(r"flannel-[\d.]+\.tar\.gz", names[1])
    tree = unpack(published / names[1], tmp_path / "unpacked")
    # What has no place of its own in a package: the documents, and all that they name.
    tests = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = subprocess.run(
        (*tests, "tests/project/test_docs.py"), cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    # A host with Python and the copied files: no network, no compiler, no python3-venv.
    destdir = tmp_path / "destdir"
    install = ("make", "install", f"DESTDIR={destdir}", f"WHEELHOUSE={wheelhouse}")
    done = subprocess.run(
        ("unshare", "--net", "env", "CC=/bin/false", *install, "PYTHON=/usr/bin/python3"),
        cwd=tree, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    libraries = destdir / "usr/lib/flannel/lib"
    assert [each.name for each in libraries.rglob("_dataplane*.so")] == ["_dataplane.abi3.so"]
    assert not list(libraries.glob("python3*/site-packages/pip"))


def deb(published: Path, into: Path) -> Path:
    """The package, made of the wheels."""
    command = [sys.executable, str(CHECKOUT / "dist/make_deb.py"), f"--into={into}"]
    subprocess.run([*command, f"--wheelhouse={published / 'wheelhouse'}"], check=True)
    (made,) = into.glob("flannel_*.deb")
    return made


def ask(*command: str | Path) -> str:
    """What a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_deb_has_what_make_install_has_and_runs(
    published: Path, installed: Path, tmp_path: Path
) -> None:
    """Installing it is tried by `make deb-trial`, on hosts of both releases."""
    one, other, root = (tmp_path / name for name in ("one", "other", "root"))
    made = deb(published, one)
    assert made.read_bytes() == deb(published, other).read_bytes()
    ask("dpkg-deb", "--raw-extract", made, root)
    control = root / "DEBIAN"
    assert (control / "conffiles").read_text() == "/etc/default/flanneld\n"
    done = subprocess.run(["md5sum", "--quiet", "--check", control / "md5sums"], cwd=root)
    assert done.returncode == 0
    assert "python3 (>= 3.11), libc6 (>= 2." in ask("dpkg-deb", "--field", made, "Depends")
    for script in ("preinst", "postinst", "prerm", "postrm"):
        ask("sh", "-n", control / script)
    # The same files in the same places, but for how programs find their libraries.
    listed = (installed / "usr/lib/flannel/installed").read_text().split()
    renamed = {"/usr/share/doc/flannel/CHANGELOG.md": "/usr/share/doc/flannel/changelog.gz"}
    names = [renamed.get(each, each) for each in listed if not each.endswith("/")]
    names = [f"{each}.gz" if "/man8/" in each else each for each in names]
    assert [each for each in names if not (root / each.lstrip("/")).exists()] == []
    # No part of it is for one Python only; cffi's is Debian's.
    found = {each.name for each in (root / "usr/lib/flannel").rglob("*.so")}
    assert found == {"_dataplane.abi3.so"}
    program = root / "usr/bin/flanneld"
    assert program.read_text().startswith("#!/usr/bin/python3 -I\n")
    here = program.read_text().replace("/usr/lib/flannel", f"{root}/usr/lib/flannel")
    shown = subprocess.run(
        ["/usr/bin/python3", "-Ic", here, "--version"], capture_output=True, text=True
    )
    assert re.fullmatch(r"[\d.]+\n", shown.stderr), shown
