"""Short runs of `make fuzz` and `make race`, with what was once found."""

import subprocess
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "csrc" / "fuzz"
TARGETS = sorted(path.stem.removeprefix("fuzz_") for path in FUZZ.glob("fuzz_*.c"))


def run(*command: str | Path) -> str:
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_fuzzing_finds_nothing() -> None:
    output = run(FUZZ / "run", "40000", "1")
    assert [line.split(":")[0] for line in output.splitlines()] == TARGETS


def test_a_table_is_swapped_under_threads_that_read_it_without_a_race() -> None:
    output = run(FUZZ / "run-race", "2000", "50000")
    assert output.endswith("0 at a wrong host\n")
