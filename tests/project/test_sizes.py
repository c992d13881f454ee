"""Files and functions stay short enough to be read in one go."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("flannel", "csrc", "tests", "netns-tests", "bench", "dist")
FILES = [path for each in FOLDERS for path in sorted((ROOT / each).rglob("*.*"))]
PYTHON = [path for path in FILES if path.suffix == ".py"]
C = [path for path in FILES if path.suffix in (".c", ".h")]
LINES, LINES_OF_A_FUNCTION = 400, 60


def python_functions(text: str) -> Iterator[tuple[str, int]]:
    """Each with its number of lines, from `def` to its end."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def c_functions(text: str) -> Iterator[tuple[str, int]]:
    """The same, in the kernel's style: a body opens and closes with a brace in the first column.

    Nothing before a body is indented but what is continued, so its head begins after the last
    line that ends something: a blank, a comment, a directive.
    """
    lines = text.split("\n")
    for at, line in enumerate(lines):
        if line != "{":
            continue
        begin = at
        while begin and not re.fullmatch(r"|.*\*/|#.*|\}.*|.*;", lines[begin - 1]):
            begin -= 1
        name = re.search(r"(\w+)\(", " ".join(lines[begin:at]))
        assert name is not None, lines[begin:at]
        yield name[1], lines.index("}", at) - begin + 1


def test_functions_are_found_and_measured() -> None:
    """So that what follows can fail."""
    python = "class A:\n    async def f(self):\n        def g():\n            pass\n        g()\n"
    assert dict(python_functions(python)) == {"f": 4, "g": 2}
    c = "/* What f does. */\nstatic int f(int a,\n\t     int b)\n{\n\treturn a;\n}\n"
    assert dict(c_functions(c)) == {"f": 5}


@pytest.mark.parametrize("path", [*PYTHON, *C], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_and_its_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= LINES
    functions = python_functions(text) if path.suffix == ".py" else c_functions(text)
    assert [(name, n) for name, n in functions if n > LINES_OF_A_FUNCTION] == []
