"""Which lines and branches of flannel/ the tests reach: `make coverage`.

`coverage_table.py UNIT [NETNS]` reads the files that coverage.py has left in these directories, and
prints a row for each file of flannel/: its lines, the percentage of lines and branches that the
unit tests reach, the same for both suites together, and the lines that no test reaches. A mistake
in a line that only the second suite reaches is found minutes later, and by root alone.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from coverage import Coverage

ROOT = Path(__file__).parents[2]
_MISSING = 60
"""Characters of the list of lines that nothing reaches."""


@dataclass(frozen=True)
class Reached:
    """What is reached of a file, of a wing, of it all."""

    lines: int
    branches: int
    """Ways out of the lines that have several."""
    covered: int
    """Of both."""

    @property
    def percent(self) -> str:
        all_of_it = self.lines + self.branches
        return f"{100 * self.covered / all_of_it:.0f} %" if all_of_it else "-"


def files_of(directories: list[Path]) -> dict[str, dict[str, Any]]:
    """coverage.py's report about each file, from all that was measured."""
    with tempfile.TemporaryDirectory() as scratch:
        measured = Coverage(
            data_file=str(Path(scratch, "data")), config_file=ROOT / "pyproject.toml"
        )
        measured.combine([str(each) for each in directories], keep=True)
        report = Path(scratch, "report.json")
        measured.json_report(outfile=str(report))
        files: dict[str, dict[str, Any]] = json.loads(report.read_text())["files"]
    return {str(Path(ROOT, name).relative_to(ROOT)): each for name, each in files.items()}


def reached(files: dict[str, dict[str, Any]], names: list[str]) -> Reached:
    """Of the files ``names`` together."""
    of = [files[name]["summary"] for name in names if name in files]
    return Reached(
        sum(each["num_statements"] for each in of),
        sum(each["num_branches"] for each in of),
        sum(each["covered_lines"] + each["covered_branches"] for each in of),
    )


def ranges(numbers: list[int]) -> str:
    """``1-3, 7`` of 1, 2, 3, 7."""
    found = []
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        found.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(found)


def table(suites: list[dict[str, dict[str, Any]]]) -> list[str]:
    """A row for each file, for each wing, and for all; the last of ``suites`` is the union."""
    names = sorted(suites[-1])
    width = max(len(name) for name in names)

    def row(title: str, of: list[str], missing: str = "") -> str:
        cells = "".join(f"{reached(files, of).percent:>8}" for files in suites)
        return f"{title:{width}} {reached(suites[-1], of).lines:>6}{cells}  {missing}".rstrip()

    rows = []
    for wing, group in groupby(names, key=lambda name: name.split("/")[1]):
        inside = list(group)
        for name in inside:
            missing = ranges(suites[-1][name]["missing_lines"])
            rows.append(row(name, [name], missing[:_MISSING]))
        if len(inside) > 1:
            rows += [row(f"  flannel/{wing}/", inside), ""]
    return [*rows, row("all", names)]


def main(directories: list[Path]) -> None:
    """Print it."""
    suites = [files_of(directories[: n + 1]) for n in range(len(directories))]
    titles = ["unit", "both"][: len(suites)]
    width = max(len(name) for name in suites[-1])
    heads = "".join(f"{title:>8}" for title in titles)
    print(f"{'':{width}} {'lines':>6}{heads}  lines that no test reaches")
    print("\n".join(table(suites)))


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]])
