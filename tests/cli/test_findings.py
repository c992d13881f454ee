"""The findings of `flannel check` as text."""

from flannel.cli.findings import KINDS, Finding


def test_a_finding_is_one_line() -> None:
    for name in KINDS:
        line = str(Finding(name, "something is wrong"))
        assert line.isprintable()
        assert " -> " in line
