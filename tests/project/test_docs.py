"""All names in the documents exist: flags, commands, metrics, links; and none is missing."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from flannel import conditions, errors
from flannel.cli.findings import KINDS
from flannel.cli.main import parser
from flannel.conditions import Condition
from flannel.options.table import FLAGS

ROOT = Path(__file__).parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
DOCS = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").glob("*.md"))]
TROUBLESHOOT = (ROOT / "docs/troubleshoot.md").read_text()
SOURCES = sorted((ROOT / "flannel").rglob("*.py"))

each_document = pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)


def code(text: str) -> str:
    """What is set as code: spans, and blocks that are indented or fenced."""
    blocks = re.findall(r"(?ms)^```.*?^```|^    [^\n]*$", text)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", text)])


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", document.read_text())
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def words(text: str) -> str:
    """With all blanks alike."""
    return " ".join(text.split())


@each_document
def test_relative_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = document.parent / name if name else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_the_end_of_each_condition_has_its_place_in_troubleshoot() -> None:
    logged_elsewhere = {Condition.INTERFACE, Condition.RUN}
    assert set(conditions._OVER) == set(Condition) - logged_elsewhere
    said = words(TROUBLESHOOT)
    assert [text for text in conditions._OVER.values() if f"`{text}`" not in said] == []


def test_each_condition_has_its_place_in_operate() -> None:
    table = (ROOT / "docs/operate.md").read_text().partition("### Conditions")[2].partition("##")[0]
    first_cells = "".join(re.findall(r"(?m)^\| ([^|]*) \|", table))
    assert sorted(re.findall(r"`([^`]+)`", first_cells)) == sorted(Condition)


@each_document
def test_flags_and_variables_named_in_documents_exist(document: Path) -> None:
    text = document.read_text()
    flags = {flag.name for flag in FLAGS}
    # flags of our two daemons' command lines stand in spans of their own: `-iface=eth1`
    named = set(re.findall(r"`--?([a-z][a-z_-]+)(?:=[^`]*)?`", text))
    of_commands = {"json", "watch", "yes", "no-wait", "keep-lease", "source", "subnet", "help"}
    assert named - flags - of_commands == set()
    variables = set(re.findall(r"\bFLANNELD_[A-Z_0-9]+\b", text))
    assert variables <= {flag.variable for flag in FLAGS}


@each_document
def test_commands_named_in_documents_exist(document: Path) -> None:
    subparsers = next(
        action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
    )
    text = code(document.read_text())
    commands = set(re.findall(r"(?m)(?:^|^ +|# |[;|] )flannel ([a-z][a-z-]*)", text))
    assert commands <= subparsers.choices.keys()
    targets = set(re.findall(r"(?m)(?:^|^ +|[;|] )make ([a-z]+)\b", text))
    assert targets <= set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))


def test_every_flag_that_does_something_is_in_some_document() -> None:
    everything = "".join(path.read_text() for path in DOCS)
    useful = [flag for flag in FLAGS if not flag.refused and flag.name != "version"]
    unsaid = [f for f in useful if f"-{f.name}" not in everything and f.variable not in everything]
    assert [flag.name for flag in unsaid] == []


def test_metrics_named_in_documents_exist() -> None:
    source = (ROOT / "flannel/health/metrics.py").read_text()
    calls = re.findall(
        r'(_gauge|_counter|_info|CounterMetricFamily)\(\s*f?"(flannel_[a-z_{}]+)"', source
    )
    endings = {"_gauge": "", "_info": "_info"}
    served = {name.replace("{what}", "bytes") + endings.get(kind, "_total") for kind, name in calls}
    named = re.findall(r"\bflannel_[a-z_]*[a-z]\b", (ROOT / "docs/operate.md").read_text())
    assert set(named) == served


def test_every_finding_of_check_has_an_entry_and_no_other_has() -> None:
    _, _, section = TROUBLESHOOT.partition("## Findings of flannel check\n")
    section = re.split(r"(?m)^## ", section)[0]
    assert re.findall(r"(?m)^### (\S+)$", section) == list(KINDS)


LEVELS = ("info", "warning", "warn", "report", "error", "exception")


def texts_of_the_log() -> Iterator[tuple[str, str]]:
    """All log texts but those of level debug, and the errors that may be a reason in them.

    Each with its place, and the beginning of its longest constant part.
    """
    reasons = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.FlannelError)
    } - {
        "BadOption",
        "KernelError",
    }  # printed on stderr with status 2; and in the kernel's own words
    for path in SOURCES:
        if "cli" in path.parts or path.name in ("docker_opts.py", "reservations.py"):
            continue  # they answer an operator's command
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(ast.Attribute(where, name), [first, *_] as arguments) if (
                    name in LEVELS
                ):
                    # Those of Once and Conditions have a subject before the text.
                    text = first if ast.unparse(where) == "log" else arguments[-1]
                case ast.Call(ast.Name(name), [text, *_]) if name in {*reasons, "Reaction"}:
                    pass
                case ast.Assign([ast.Name("message")], text):
                    pass
                case _:
                    continue
            yield f"{path.relative_to(ROOT)}:{node.lineno}", longest_part(text)[:30].rstrip(" (")


def longest_part(text: ast.expr) -> str:
    """Of a message, between what varies."""
    if isinstance(text, ast.JoinedStr):
        parts = [cast(str, v.value) if isinstance(v, ast.Constant) else "\0" for v in text.values]
        template = "".join(parts)
    elif isinstance(text, ast.Constant) and isinstance(text.value, str):
        template = re.sub(r"%[a-z]", "\0", text.value)
    else:
        return ""  # a variable: its text stands elsewhere
    return max((words(part) for part in template.split("\0")), key=len)


def test_every_message_of_the_log_has_an_entry() -> None:
    said = words(TROUBLESHOOT)
    texts = list(texts_of_the_log())
    assert len(texts) > 60
    assert [(where, text) for where, text in texts if text not in said] == []


@pytest.mark.parametrize("backend", ["vxlan", "udp"])
def test_every_member_that_a_backend_reads_is_in_its_table(backend: str) -> None:
    source = (ROOT / f"flannel/backends/{backend}/__init__.py").read_text()
    read = set(re.findall(r'members\.(?:integer|boolean)\(\s*"(\w+)"', source))
    read |= {"MTU"} if "mtu.read(members" in source else set()
    text = (ROOT / "docs/backends.md").read_text()
    section = re.split(r"(?m)^#+ ", text.partition(f"### {backend}\n")[2])[0]
    assert set(re.findall(r"(?m)^\| `(\w+)` \|", section)) == read


MAP = (ROOT / "CONTRIBUTING.md").read_text()
WINGS = sorted(path.parent for path in (ROOT / "flannel").rglob("__init__.py"))


@pytest.mark.parametrize("wing", WINGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_docstring_of_a_wing_is_its_map(wing: Path) -> None:
    """Each file in it has a line there; those of `flannel/` itself are in CONTRIBUTING.md."""
    text = MAP if wing.name == "flannel" else ast.get_docstring(ast.parse(source(wing))) or ""
    names = {path.stem for path in wing.glob("*.py")} - {"__init__"}
    names |= {path.parent.name for path in wing.glob("*/__init__.py")}
    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()


def source(wing: Path) -> str:
    """The text of its ``__init__.py``."""
    return (wing / "__init__.py").read_text()


def test_the_map_names_every_folder_and_program() -> None:
    places = ["csrc", "tests", "netns-tests", "bench", "dist"]
    named = [f"{place}/" for place in places] + ["netns-tests/demo.py", "chaos.py", "soak.py"]
    assert [name for name in named if f"`{name}`" not in MAP] == []
    assert all((ROOT / place).is_dir() for place in places)


def test_a_newcomers_questions_lead_to_files_that_exist() -> None:
    """And to each wing: a question about it is missing otherwise."""
    _, _, section = MAP.partition("## Where is...?\n")
    rows = re.findall(r"(?m)^\| (.*\?) \| (.*) \|$", re.split(r"(?m)^## ", section)[0])
    assert len(rows) >= 10
    named = [re.findall(r"`([^` ]+/[^` ]+\.[a-z]+)`", answer) for _, answer in rows]
    assert [question for (question, _), files in zip(rows, named, strict=True) if not files] == []
    assert [file for files in named for file in files if not (ROOT / file).is_file()] == []
    wings = {path.name for path in (ROOT / "flannel").iterdir() if (path / "__init__.py").exists()}
    assert wings - {Path(file).parts[1] for files in named for file in files} == set()


def test_the_files_and_folders_that_contributing_names_exist() -> None:
    named = set(re.findall(r"`((?:flannel|csrc|tests|netns-tests|dist|docs)/[^` ]*)`", MAP))
    assert len(named) > 40
    assert {name for name in named if not (ROOT / name).exists()} == set()
