"""The linters, as tests: a finding is a failing test."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
C_FILES = sorted(
    path
    for folder in ("csrc", "bench", "tests", "netns-tests")
    for path in (ROOT / folder).rglob("*.[ch]")
)
CDEFS = sorted((ROOT / "csrc").glob("*.cdef"))
WARNINGS = ["-D_GNU_SOURCE", "-Icsrc", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror"]
# To clang a header's inline functions are unused when it looks at the header alone.
COMPILERS = {"gcc": [], "clang": ["-Wno-unused-function"]}


SHELL = sorted((ROOT / "dist/completions/bash").iterdir())
SHELL += [
    path
    for folder in (".ci", "bench", "csrc", "dist", "netns-tests", "tests")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.is_file() and re.match(rb"#!.*\b(ba|da)?sh\b", path.read_bytes()[:50])
]


def run(*command: str | Path, stdin: str = "") -> tuple[int, str]:
    """The exit status of a command run at the root of the checkout, and all that it printed."""
    done = subprocess.run(
        command, cwd=ROOT, input=stdin, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout


def program(name: str) -> Path:
    """Of the environment that runs the tests, where versions are pinned."""
    return Path(sysconfig.get_path("scripts"), name)


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
    assert_clean(program("lint-imports"), "--no-cache")


def test_words_are_spelt_right() -> None:
    assert_clean(program("codespell"))


def test_codespell_knows_a_wrong_word() -> None:
    """So its silence means something."""
    word = "rec" + "ieve"
    assert word in run(program("codespell"), "-", stdin=word)[1]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_has_no_complaint_about(path: Path) -> None:
    assert_clean(program("shellcheck"), "--shell=bash", path)


def test_shellcheck_complains_of_a_word_that_may_fall_apart() -> None:
    status, output = run(program("shellcheck"), "--shell=bash", "-", stdin="rm $1\n")
    assert status == 1
    assert "SC2086" in output


def test_c_is_formatted() -> None:
    assert_clean(program("clang-format"), "--dry-run", "-Werror", *C_FILES, *CDEFS)


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
        ("from pyroute2 import AsyncIPRoute", "flannel/kernel/pyroute2_part.py"),
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


def test_pre_commit_runs_each_linter() -> None:
    """From .venv/, so that its version is pinned in one place; and nothing runs there alone."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    entries = re.findall(r"(?m)^ +entry: \.venv/bin/([a-z-]+)(.*)$", hooks)
    assert len(entries) == hooks.count("- id: ") == hooks.count("language: system")
    here = Path(__file__).read_text()
    called = {*re.findall(r'program\("([a-z-]+)"\)', here), *re.findall(r'"-m", "([a-z]+)"', here)}
    assert {name for name, _ in entries} == called
