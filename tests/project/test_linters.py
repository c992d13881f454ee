"""The linters, as tests: what they find is as wrong as a failing test."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
C_FILES = sorted([*(ROOT / "csrc").rglob("*.[ch]"), *(ROOT / "bench").rglob("*.c")])
CDEFS = sorted((ROOT / "csrc").glob("*.cdef"))
WARNINGS = ["-D_GNU_SOURCE", "-Icsrc", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
# To clang a header's inline functions are unused when it looks at the header alone.
COMPILERS = {"gcc": [], "clang": ["-Wno-unused-function"]}


def run(*command: str | Path, stdin: str = "") -> tuple[int, str]:
    """The exit status of a command run at the root of the checkout, and all that it printed."""
    done = subprocess.run(
        command, cwd=ROOT, input=stdin, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout


def assert_clean(*command: str | Path) -> None:
    status, output = run(*command)
    assert status == 0, f"{command[:3]} finds fault:\n{output}"


def test_ruff_finds_nothing() -> None:
    assert_clean(sys.executable, "-m", "ruff", "check", "--quiet", ".")


def test_python_is_formatted() -> None:
    assert_clean(sys.executable, "-m", "ruff", "format", "--check", "--quiet", "--diff", ".")


def test_types_fit() -> None:
    assert_clean(sys.executable, "-m", "mypy", "--no-error-summary")


def test_imports_keep_the_order_of_the_wings() -> None:
    assert_clean(Path(sysconfig.get_path("scripts"), "lint-imports"), "--no-cache")


def test_c_is_formatted() -> None:
    clang_format = Path(sysconfig.get_path("scripts"), "clang-format")
    assert_clean(clang_format, "--dry-run", "-Werror", *C_FILES, *CDEFS)


@pytest.mark.parametrize("path", C_FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_c_compiler_has_no_warning_for(path: Path, compiler: str) -> None:
    """Headers too: each stands alone."""
    warnings = [*WARNINGS, *COMPILERS[compiler]]
    assert_clean(compiler, "-std=gnu11", "-fsyntax-only", *warnings, "-x", "c", path)


@pytest.mark.parametrize(
    ("statement", "door"),
    [
        ("import etcd", "flannel/stores/etcd_endpoints.py"),
        ("from pyroute2 import AsyncIPRoute", "flannel/kernel/netlink.py"),
        ("from flannel.backends.udp._dataplane import lib", "flannel/backends/udp/dataplane.py"),
        ("import subprocess", "flannel/programs.py"),
        ("from asyncio import create_subprocess_exec", "flannel/programs.py"),
    ],
)
def test_each_foreign_thing_has_one_door(statement: str, door: str) -> None:
    def verdict(path: str) -> str:
        select = ["--select", "TID251", "--output-format", "concise", "--stdin-filename", path]
        status, output = run(
            sys.executable, "-m", "ruff", "check", *select, "-", stdin=statement + "\n"
        )
        assert status == (1 if "TID251" in output else 0), output
        return output

    assert "TID251" in verdict("flannel/daemon/life.py")
    assert "TID251" not in verdict(door)
