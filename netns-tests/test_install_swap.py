"""A second `make install` that fails, wherever it does, leaves the first as it was.

A stand-in for Python makes small environments in no time; test_install.py has the real one.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
from namespaces import Completed

INSTALL = Path(__file__).parent.parent / "dist/install.sh"
# Makes what the venv module makes, with a mark of the version in it; $FAILS is the step that fails,
# and $KILLS the one at which the whole installation is killed.
PYTHON = """\
#!/bin/sh
case "$*" in
*"-m venv"*) step=venv ;;
*"-m pip install"*) step=pip ;;
*import*ctypes*) exec /usr/bin/python3 "$@" ;;
*"import flannel"*) step=load ;;
*) step=other ;;
esac
[ "$step" != "$KILLS" ] || kill -KILL 0
[ "$step" != "$FAILS" ] || exit 1
if [ $step = venv ]; then
    for last; do :; done
    mkdir -p "$last/bin" "$last/lib"
    cp "$0" "$last/bin/python"
    echo "home = /usr/bin" >"$last/pyvenv.cfg"
    echo "$VERSION" >"$last/lib/version"
    for each in flanneld flannel mk-docker-opts; do echo "#!$last" >"$last/bin/$each"; done
fi
"""
# In a mount namespace of its own: a directory $1 that cannot be written.
READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; shift; exec "$@"'
# The tree $1 on a disk without room for another; exit status 28 if it is unchanged after a failure.
FULL = """
top=$1; shift
mount -t tmpfs tmpfs "$top.disk"
cp -a "$top" "$top.disk/copy"
mount -t tmpfs -o size=1000k tmpfs "$top"
cp -a "$top.disk/copy/." "$top"
head -c 1M /dev/zero >"$top/filler" 2>/dev/null || true
if "$@"; then exit 0; fi
rm "$top/filler"
diff -r --no-dereference "$top" "$top.disk/copy"
exit 28
"""


class Tree:
    """A tree to install into.

    :ivar top: DESTDIR.
    """

    def __init__(self, directory: Path) -> None:
        self.top = directory / "destdir"
        self._python = directory / "python"
        self._python.write_text(PYTHON)
        self._python.chmod(0o755)

    def install(self, version: str, *around: str, **environ: str) -> Completed:
        """Run `install.sh install`, perhaps as the end of another command."""
        variables = {"DESTDIR": str(self.top), "VERSION": version, **environ}
        return subprocess.run(
            [*around, INSTALL, "install", self._python],
            capture_output=True, text=True, env={**os.environ, **variables},
            start_new_session=True,
        )  # fmt: skip

    def remove(self) -> Completed:
        """Run `install.sh remove`."""
        environ = {**os.environ, "DESTDIR": str(self.top)}
        return subprocess.run([INSTALL, "remove"], capture_output=True, text=True, env=environ)

    @property
    def version(self) -> str:
        """The version of the environment that is installed."""
        return (self.top / "usr/lib/flannel/lib/version").read_text().strip()

    def content(self) -> dict[str, bytes]:
        """All files and links of the tree, but what a killed installation has left aside."""
        found = {}
        for each in sorted(self.top.rglob("*")):
            name = str(each.relative_to(self.top))
            if each.is_symlink():
                found[name] = os.fsencode(each.readlink())
            elif each.is_file():
                found[name] = each.read_bytes()
        return {name: data for name, data in found.items() if "flannel.new." not in name}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """One with a first installation."""
    made = Tree(tmp_path)
    done = made.install("1")
    assert done.returncode == 0, done.stderr
    assert made.version == "1"
    return made


def test_a_second_installation_replaces_the_first(tree: Tree) -> None:
    listed = tree.top / "usr/lib/flannel/installed"
    stale = tree.top / "usr/lib/sysctl.d/49-old.conf"
    stale.write_text("")
    listed.write_text(listed.read_text() + "/usr/lib/sysctl.d/49-old.conf\n")
    before = tree.content()
    done = tree.install("2")
    assert done.returncode == 0, done.stderr
    assert tree.version == "2"
    changed = {"usr/lib/flannel/lib/version", "usr/lib/flannel/installed"}
    assert {name for name, data in before.items() if tree.content().get(name) != data} == {
        *changed,
        "usr/lib/sysctl.d/49-old.conf",  # only the first had it
    }
    assert [each.name for each in (tree.top / "usr/lib").glob("flannel*")] == ["flannel"]
    assert tree.remove().returncode == 0
    assert list(tree.top.iterdir()) == []


def test_a_failed_installation_changes_nothing(tree: Tree, tmp_path: Path) -> None:
    before = tree.content()
    for step in ("venv", "pip", "load"):
        done = tree.install("2", FAILS=step)
        assert done.returncode != 0
        assert "the installation before is as it was" in done.stderr
        assert tree.content() == before
        assert [each.name for each in (tree.top / "usr/lib").glob("flannel*")] == ["flannel"]
    done = tree.install("2", WHEELHOUSE=str(tmp_path))
    assert f"cannot install: {tmp_path} has no wheels; make dist fills" in done.stderr
    done = tree.install("2", "flock", str(tree.top / "usr/lib"))
    assert "another make install or uninstall is running" in done.stderr
    assert tree.content() == before


def test_a_killed_installation_changes_nothing_and_the_next_one_works(tree: Tree) -> None:
    before = tree.content()
    assert tree.install("2", KILLS="load").returncode < 0
    assert tree.content() == before
    assert tree.install("3").returncode == 0
    assert tree.version == "3"
    assert tree.remove().returncode == 0
    assert list(tree.top.iterdir()) == []


def test_an_installation_that_fails_half_way_is_rolled_back(tree: Tree) -> None:
    """The units are in place by then, and the programs."""
    unit = tree.top / "usr/lib/systemd/system/flanneld.service"
    unit.write_text("# of an earlier version\n")
    before = tree.content()
    read_only = str(tree.top / "usr/share/man")
    done = tree.install("2", "unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", read_only)
    assert done.returncode != 0
    assert re.search(
        "mv: .*man.*: Read-only file system|mv: .*Device or resource busy", done.stderr
    )
    assert tree.content() == before


def test_an_installation_on_a_full_disk_changes_nothing(tree: Tree) -> None:
    tree.top.with_suffix(".disk").mkdir()
    done = tree.install("2", "unshare", "--mount", "sh", "-ec", FULL, "sh", str(tree.top))
    assert done.returncode == 28, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
