"""What is published has the same bytes whenever and wherever it is made.

The building itself is in netns-tests/test_dist.py: it needs a network.
"""

import io
import os
import tarfile
import zipfile
from pathlib import Path

from make_dist import rewrite_tar, rewrite_zip, unpack

DATE = 1_700_000_000  # 2023-11-14 22:13:20 UTC
NAMES = ["b.py", "a.py", "run"]


def made_tar(path: Path, names: list[str], *, mtime: int, uid: int, mask: int) -> Path:
    """As somebody else makes it: at another time, in another order, with another umask."""
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"flannel-1/{name}")
            member.size, member.mtime, member.uid, member.uname = 4, mtime, uid, f"user{uid}"
            member.mode = (0o777 if name == "run" else 0o666) & ~mask
            archive.addfile(member, io.BytesIO(b"text"))
    return path


def test_an_sdist_does_not_depend_on_its_maker_time_and_place(tmp_path: Path) -> None:
    one = made_tar(tmp_path / "one.tar.gz", NAMES, mtime=1, uid=0, mask=0o022)
    other = made_tar(tmp_path / "other.tar.gz", NAMES[::-1], mtime=2, uid=1000, mask=0o077)
    assert one.read_bytes() != other.read_bytes()
    written = [rewrite_tar(each, each.with_suffix(".new"), DATE) for each in (one, other)]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_an_sdist_keeps_its_files_and_which_of_them_can_be_run(tmp_path: Path) -> None:
    one = made_tar(tmp_path / "one.tar.gz", NAMES, mtime=1, uid=0, mask=0o022)
    tree = unpack(rewrite_tar(one, tmp_path / "new.tar.gz", DATE), tmp_path / "tree")
    assert sorted(each.name for each in tree.iterdir()) == sorted(NAMES)
    assert {each.name for each in tree.iterdir() if os.access(each, os.X_OK)} == {"run"}
    # What an unpacked sdist is made of says when: without git there is nothing else.
    assert {each.stat().st_mtime for each in tree.iterdir()} == {DATE}


def test_a_wheel_does_not_depend_on_its_maker_time_and_place(tmp_path: Path) -> None:
    names = ["flannel-1.dist-info/RECORD", "flannel/a.py", "flannel/loop.so"]
    written = []
    for number, order in enumerate((names, names[::-1])):
        path = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in order:
                entry = zipfile.ZipInfo(name, (2000 + number, 1, 1, 0, 0, 0))
                entry.external_attr = (0o600 + number) << 16
                archive.writestr(entry, name)
        written.append(rewrite_zip(path, tmp_path / f"{number}.new", DATE))
    assert written[0].read_bytes() == written[1].read_bytes()
    with zipfile.ZipFile(written[0]) as archive:
        assert archive.testzip() is None
        found = [(each.filename, each.external_attr >> 16) for each in archive.infolist()]
        assert {each.date_time for each in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
    # RECORD at the end, as PEP 427 wants it.
    assert found == [(names[1], 0o100644), (names[2], 0o100755), (names[0], 0o100644)]
