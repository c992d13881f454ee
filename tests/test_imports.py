"""What of a library is loaded: a part alone, or later; and what flanneld and flannel load."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flannel.imports import bare_package, deferred

HEAVY = ("pyroute2", "etcd", "dns", "urllib3", "prometheus_client", "multiprocessing", "unittest")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package whose ``__init__`` imports all that it has, which is two modules."""
    directory = tmp_path / "lib"
    directory.mkdir()
    (directory / "__init__.py").write_text("from lib import used, unused\n")
    (directory / "used.py").write_text("VALUE = 1\n")
    (directory / "unused.py").write_text("VALUE = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "lib"
    for name in loaded("lib"):
        del sys.modules[name]


def loaded(name: str) -> list[str]:
    return [each for each in sys.modules if each.partition(".")[0] == name]


def load(name: str) -> object:
    __import__(name)
    return sys.modules[name]


class TestBarePackage:
    def test_the_imports_of_its_init_are_not_loaded(self, package: str) -> None:
        with bare_package(package):
            load("lib.used")
        assert loaded("lib") == ["lib.used"]

    def test_a_later_import_has_all_of_it_and_the_same_modules(self, package: str) -> None:
        with bare_package(package):
            used = load("lib.used")
        whole = load("lib")
        assert {*loaded("lib")} == {"lib", "lib.used", "lib.unused"}
        assert whole.used is used  # type: ignore[attr-defined]

    def test_a_package_that_is_loaded_stays_loaded(self, package: str) -> None:
        whole = load("lib")
        with bare_package(package):
            assert load("lib") is whole
        assert load("lib") is whole

    def test_a_package_that_does_not_exist_raises_module_not_found(self) -> None:
        with pytest.raises(ModuleNotFoundError, match="nosuch"), bare_package("nosuch"):
            pass

    def test_the_package_is_not_loaded_after_an_error_in_the_block(self, package: str) -> None:
        with pytest.raises(ModuleNotFoundError), bare_package(package):
            load("lib.nosuch")
        assert loaded("lib") == []


class TestDeferred:
    def test_a_deferred_module_is_loaded_when_it_is_used(self, package: str) -> None:
        with deferred("lib.used"), bare_package(package):
            bound = load("lib.used")
        assert "lib.used" not in sys.modules
        assert bound.VALUE == 1  # type: ignore[attr-defined]
        assert "lib.used" in sys.modules

    def test_a_later_import_has_the_real_one(self, package: str) -> None:
        with deferred("lib.used"):
            bound = load("lib.used")
        real = load("lib.used")
        assert real is not bound
        assert real.VALUE == 1  # type: ignore[attr-defined]
        assert load("lib").used is real  # type: ignore[attr-defined]

    def test_a_module_that_is_loaded_stays_loaded(self, package: str) -> None:
        real = load("lib.used")
        with deferred("lib.used"):
            assert load("lib.used") is real
        assert load("lib.used") is real


def modules_after(script: str) -> set[str]:
    """The modules that a process has loaded which ran ``script``."""
    command = [sys.executable, "-c", f"{script}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    return set(done.stdout.split())


class TestPrograms:
    """A start costs what it loads: 0.1 s of CPU for the whole of pyroute2 alone."""

    def test_flanneld_loads_of_its_libraries_what_it_uses(self) -> None:
        found = modules_after(
            "from flannel.daemon import daemon\n"
            "from flannel.health import pages, status\n"
            "from flannel.kernel import pyroute2_part\n"
            "from flannel.options.table import parse\n"
            "from flannel.stores import open_store\n"
            "open_store(parse([], {}).etcd).close()\n"
        )
        assert found >= {"etcd", "pyroute2.iproute.linux"}
        assert not found & {"pyroute2", "dns.resolver", "prometheus_client"}
        assert not [name for name in found if name.startswith("pyroute2.ndb")]
        assert len([name for name in found if name.startswith("pyroute2")]) < 110
        assert len(found) < 480

    @pytest.mark.parametrize("command", ["status", "leases", "explain"])
    def test_a_command_of_flannel_loads_no_library_before_it_asks_one(self, command: str) -> None:
        found = modules_after(f"from flannel.cli import context, {command}, main")
        assert not [name for name in found if name.partition(".")[0] in HEAVY]
        assert len(found) < 320
