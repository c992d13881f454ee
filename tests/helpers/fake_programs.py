"""Programs of a host that are only names in a directory: what they print is written down."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from flannel import programs
from flannel.errors import CannotRun


class FakePrograms:
    """Stands in for `programs.run`, and for $PATH.

    :ivar prints: what a command prints, by its words joined; a command that is not here fails.
    :ivar hangs: commands that do not end in time.
    :ivar ran: the commands that ran, in order; :ivar stdin: what each was given.
    """

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._directory = directory
        self.prints: dict[str, str] = {}
        self.hangs: set[str] = set()
        self.ran: list[str] = []
        self.stdin: list[str] = []
        directory.mkdir(exist_ok=True)
        monkeypatch.setenv("PATH", str(directory))
        monkeypatch.setattr(programs, "run", self._run)

    def install(self, *names: str) -> None:
        """Have programs of these names in $PATH."""
        for name in names:
            (self._directory / name).touch(0o755)

    def install_iptables(self, name: str, kind: str, *, prints: str = "") -> None:
        """Have an iptables of kind ``nf_tables`` or ``legacy``; ``prints``: what it saves."""
        self.install(name, f"{name}-save", f"{name}-restore")
        self.prints[f"{name} --version"] = f"iptables v1.8.9 ({kind})\n"
        self.prints[f"{name}-save"] = prints

    async def _run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,  # noqa: ASYNC109 # the signature of what it stands for
        stdin: bytes = b"",
        environ: Mapping[str, str] | None = None,
    ) -> programs.Done:
        command = " ".join(argv)
        self.ran.append(command)
        self.stdin.append(stdin.decode())
        if command in self.hangs:
            raise CannotRun(f"cannot run {argv[0]}: it did not end within {timeout:g} s")
        if command not in self.prints:
            return programs.Done(1, b"", f"{argv[0]}: refused\n".encode())
        return programs.Done(0, self.prints[command].encode(errors="surrogateescape"), b"")
