#!/usr/bin/env python3
"""Makes a Debian package of this checkout: `make deb`. It fits Debian 12 and 13 alike.

    make_deb.py                      build/dist/flannel_VERSION_ARCH.deb
    make_deb.py --wheelhouse DIR     of the wheels there, which `make dist` has left
    make_deb.py --version 1.0~rc1 --into DIR

The libraries are not Debian's, whose versions are too old or too new, but those of the wheelhouse, in
/usr/lib/flannel. All of them, and flannel's own wheel, fit every Python from 3.11 on. cffi's would not:
its part that runs is Debian's python3-cffi-backend, chosen by the version of its binary interface.

Files, units and documents are those of `make install`; what only a package has is in debian/. The
bytes are the same for the same commit, wheels and dpkg-deb (SOURCE_DATE_EPOCH counts).
"""

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from make_dist import CHECKOUT, make, scratch, source_date
from wheelhouse import Failed, fill, run

DEBIAN = CHECKOUT / "dist/debian"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
CONFFILES = ("/etc/default/flanneld",)
HOME = "usr/lib/flannel"
DOC = "usr/share/doc/flannel"
NOT_PACKAGED = ("cffi", "pycparser", "pip")
"""The first is Debian's; its compiler of C declarations and pip only build and install."""
CFFI_API = 0x2601
"""The version that modules made by cffi ask of their backend, unless they embed Python or have
wide characters; python3-cffi-backend provides names with the versions that it serves."""
PROGRAM = """\
#!/usr/bin/python3 -I
import sys

sys.path.insert(0, "/{home}")
from {module} import {function}

sys.exit({function}())
"""


def unpack_wheels(wheelhouse: Path, root: Path) -> tuple[list[str], str]:
    """Unpack the wheels of flannel and its libraries.

    :return: the libraries' names, and the version of libc that the compiled one wants.
    :raises Failed: a wheel does not fit all Pythons, or there is none of flannel's.
    """
    names, libc = [], ""
    for wheel in sorted(wheelhouse.glob("*.whl")):
        name, tag = wheel.name.split("-")[0], wheel.stem.split("-", 2)[2]
        if name in NOT_PACKAGED:
            continue
        if name == "flannel":
            found = re.search(r"abi3-manylinux_(\d+)_(\d+)", tag)
            libc = f"{found[1]}.{found[2]}" if found else ""
        elif not tag.endswith("-none-any"):
            raise Failed(f"cannot package {wheel.name}: it is for one Python only")
        with zipfile.ZipFile(wheel) as archive:
            if any(".data/" in each for each in archive.namelist()):
                raise Failed(f"cannot package {wheel.name}: it has files for other places")
            archive.extractall(root / HOME)
        names.append(name)
    if not libc:
        raise Failed(f"cannot find flannel's wheel, for manylinux, in {wheelhouse}")
    for each in (root / HOME).glob("*.dist-info/RECORD"):
        each.unlink()  # of what pip would remove
    return [name for name in names if name != "flannel"], libc


def write_programs(root: Path) -> None:
    """The programs in /usr/bin: their own libraries come first, no variable brings others."""
    text = (CHECKOUT / "pyproject.toml").read_text()
    section = text.partition("[project.scripts]\n")[2].partition("\n\n")[0]
    for name, module, function in re.findall(r'(?m)^([a-z-]+) = "([\w.]+):(\w+)"$', section):
        program = PROGRAM.format(home=HOME, module=module, function=function)
        (root / "usr/bin" / name).write_text(program)
        (root / "usr/bin" / name).chmod(0o755)


def write_files(root: Path, libraries: list[str]) -> None:
    """All that is not a wheel's: as `make install` has it, and what Debian's policy asks for."""
    environ = {"DESTDIR": str(root), "PREFIX": "/usr"}
    run("put the files together", CHECKOUT / "dist/install.sh", "files", cwd=CHECKOUT, env=environ)
    write_programs(root)
    put(DEBIAN / "default", root / "etc/default/flanneld")
    put(DEBIAN / "flannel.rtupdate", root / "usr/share/python3/runtime.d/flannel.rtupdate", 0o755)
    files = sorted(f"usr/lib/flannel/{name}*" for name in libraries)
    copyright_text = (DEBIAN / "copyright").read_text().format(files="\n ".join(files))
    (root / DOC / "copyright").write_text(copyright_text)
    (root / DOC / "CHANGELOG.md").rename(root / DOC / "changelog")
    (root / DOC / "README.md").write_text(
        (root / DOC / "README.md").read_text().replace("CHANGELOG.md", "changelog.gz")
    )
    for file in [root / DOC / "changelog", *(root / "usr/share/man/man8").iterdir()]:
        compressed = gzip.compress(file.read_bytes(), 9, mtime=0)
        file.with_name(f"{file.name}.gz").write_bytes(compressed)
        file.unlink()


def put(source: Path, destination: Path, mode: int = 0o644) -> None:
    """Copy a file, with the directories above it."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)
    destination.chmod(mode)


def write_control(root: Path, version: str, libc: str) -> None:
    """DEBIAN/ with what dpkg reads."""
    files = sorted(each for each in root.rglob("*") if each.is_file() and not each.is_symlink())
    control = root / "DEBIAN"
    control.mkdir()
    architecture = run("ask dpkg", "dpkg", "--print-architecture", cwd=root).strip()
    text = (DEBIAN / "control").read_text().format(
        version=version, architecture=architecture, libc=libc, cffi_api=CFFI_API,
        kibibytes=sum(-(-each.stat().st_size // 1024) for each in files),
    )  # fmt: skip
    (control / "control").write_text(text)
    (control / "conffiles").write_text("".join(f"{each}\n" for each in CONFFILES))
    summed = [each for each in files if f"/{each.relative_to(root)}" not in CONFFILES]
    sums = {each: hashlib.md5(each.read_bytes(), usedforsecurity=False) for each in summed}
    lines = (f"{found.hexdigest()}  {each.relative_to(root)}\n" for each, found in sums.items())
    (control / "md5sums").write_text("".join(lines))
    for name in SCRIPTS:
        put(DEBIAN / name, control / name, 0o755)


def set_times_and_modes(root: Path, date: int) -> None:
    """What would differ from one build to the next."""
    for each in [root, *root.rglob("*")]:
        if not each.is_symlink():
            each.chmod(0o755 if each.is_dir() or each.stat().st_mode & 0o100 else 0o644)
        os.utime(each, (date, date), follow_symlinks=False)


def make_deb(wheelhouse: Path, into: Path, version: str, date: int) -> Path:
    """The package, in ``into``.

    :raises Failed: a step failed.
    """
    with scratch() as work:
        root = work / "root"
        (root / HOME).mkdir(parents=True)
        libraries, libc = unpack_wheels(wheelhouse, root)
        write_files(root, libraries)
        write_control(root, version, libc)
        set_times_and_modes(root, date)
        # One thread: with several, the bytes depend on their number.
        options = ("--root-owner-group", "-Zxz", "--threads-max=1", "--build")
        env = {"SOURCE_DATE_EPOCH": str(date)}
        out = run("make the package", "dpkg-deb", *options, root, into, cwd=work, env=env)
    found = re.search(r"in '(.*)'", out)
    if found is None:
        raise Failed(f"cannot find the package: {out}")
    return Path(found[1])


def version_here() -> str:
    """The version of this checkout."""
    text = (CHECKOUT / "flannel/__init__.py").read_text()
    found = re.search(r'__version__ = "(.*)"', text)
    assert found is not None
    return found[1]


def main() -> None:
    """Run with the command line of this process."""
    parser = argparse.ArgumentParser(description="make a Debian package")
    parser.add_argument("--into", type=Path, default=CHECKOUT / "build/dist")
    parser.add_argument("--wheelhouse", type=Path, help="default: made anew, in --into")
    parser.add_argument("--version", default=version_here())
    arguments = parser.parse_args()
    into: Path = arguments.into.resolve()
    into.mkdir(parents=True, exist_ok=True)
    try:
        date, wheelhouse = source_date(), arguments.wheelhouse
        if wheelhouse is None:
            wheelhouse = into / "wheelhouse"
            with scratch() as made:
                fill(wheelhouse, make(made, date)[1])
        deb = make_deb(wheelhouse, into, arguments.version, date)
        sys.stdout.write(f"made {deb}, {deb.stat().st_size:,} bytes\n")
    except (Failed, FileNotFoundError, subprocess.SubprocessError) as why:
        sys.exit(str(why))


if __name__ == "__main__":
    main()
