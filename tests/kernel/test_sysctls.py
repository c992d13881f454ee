"""The settings of our device, on files that stand for those in /proc."""

import errno
from pathlib import Path

import pytest

from flannel.errors import KernelError
from flannel.kernel import sysctls

WRONG = {
    "ipv4/conf/flannel.1/rp_filter": "2",
    "ipv4/conf/flannel.1/accept_redirects": "1",
    "ipv4/conf/flannel.1/send_redirects": "1",
    "ipv6/conf/flannel.1/disable_ipv6": "0",
    "ipv6/conf/flannel.1/accept_redirects": "1",
    "ipv6/conf/flannel.1/accept_ra": "1",
}
RIGHT = dict(zip(WRONG, ("1", "0", "0", "1", "0", "0"), strict=True))


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in the place of /proc/sys/net."""

    def path(text: str) -> Path:
        return tmp_path / text.removeprefix("/proc/sys/net/")

    monkeypatch.setattr(sysctls, "Path", path)
    return tmp_path


def fill(proc: Path, values: dict[str, str]) -> None:
    for name, value in values.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(f"{value}\n")


def values(proc: Path) -> dict[str, str]:
    return {name: (proc / name).read_text().strip() for name in WRONG if (proc / name).exists()}


def test_sysctls_that_differ_are_set_and_named(proc: Path) -> None:
    fill(proc, WRONG)
    changed = sysctls.ensure("flannel.1")
    assert changed == [f"{name.split('/')[0]} {name.rpartition('/')[2]}" for name in WRONG]
    assert values(proc) == RIGHT
    assert sysctls.ensure("flannel.1") == []


def test_a_new_device_gets_the_sysctls_for_ipv6_first(proc: Path) -> None:
    fill(proc, WRONG)
    sysctls.refuse_ipv6("flannel.1")
    assert values(proc) == {name: (RIGHT if "ipv6" in name else WRONG)[name] for name in WRONG}


def test_a_new_device_is_made_where_sysctls_cannot_be_written(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(proc, WRONG)

    def refuse(self: Path, text: str) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    sysctls.refuse_ipv6("flannel.1")  # `ensure` reports it
    assert values(proc) == WRONG


def test_a_kernel_without_ipv6_has_fewer_sysctls(proc: Path) -> None:
    fill(proc, {name: value for name, value in WRONG.items() if "ipv4" in name})
    assert len(sysctls.ensure("flannel.1")) == 3


def test_without_the_device_there_is_nothing_to_set(proc: Path) -> None:
    assert sysctls.ensure("flannel.1") == []


def test_a_sysctl_that_cannot_be_written_is_named(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(proc, WRONG)

    def refuse(self: Path, text: str) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(KernelError, match=r"set .*rp_filter to 1: Permission denied"):
        sysctls.ensure("flannel.1")


def test_a_device_that_is_deleted_meanwhile_is_not_an_error(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(proc, WRONG)

    def vanish(self: Path, text: str) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file")

    monkeypatch.setattr(Path, "write_text", vanish)
    assert sysctls.ensure("flannel.1") == []
