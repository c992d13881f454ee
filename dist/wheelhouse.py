"""All wheels that an installation needs, in a directory: `make install WHEELHOUSE=DIR`, offline.

It has flannel's own wheel, those of the libraries, and pip's: the host needs Python, and neither
a compiler nor a network nor Debian's python3-venv. Of a library that is compiled for one Python
each, cffi, it has one for each of `PYTHONS`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13")
"""Those that the tests run on."""


class Failed(Exception):
    """One line: what could not be made, and why."""


def run(what: str, *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a program prints, on both outputs; it has to succeed.

    :raises Failed: it did not.
    """
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        raise Failed(f"cannot {what}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


def fill(directory: Path, wheel: Path) -> list[Path]:
    """Fill a directory anew with ``wheel`` and all that it needs; return its files by name.

    :raises Failed: pip found no wheel.
    """
    with tempfile.TemporaryDirectory(prefix=f"{directory.name}-", dir=directory.parent) as name:
        new = Path(name)
        pip: tuple[str, ...] = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        # Libraries that are published as source only become wheels here.
        run("make wheels", *pip, "wheel", "--quiet", "--wheel-dir", new, "pip", wheel, cwd=new)
        for found in sorted(new.glob("*-cp3*.whl")):
            if found.name != wheel.name:
                library, version = found.name.split("-")[:2]
                _download(pip, new, f"{library}=={version}")
        new.chmod(0o755)
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(new, directory)
    return sorted(directory.iterdir())


def _download(pip: tuple[str, ...], into: Path, requirement: str) -> None:
    """The wheels of a compiled library for each of `PYTHONS`."""
    for python in PYTHONS:
        which = ("--python-version", python, "--implementation", "cp", "--only-binary", ":all:")
        command = (*pip, "download", "--quiet", "--no-deps", *which, requirement)
        run(f"get {requirement} for Python {python}", *command, cwd=into)
