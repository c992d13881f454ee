"""The command line of `flannel`, and what is made of it: man page, completion."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from flannel import __version__
from flannel.cli import main
from flannel.cli.findings import KINDS
from flannel.cli.main import SHARED, exit_status, parser
from flannel.options.flags import usage
from flannel.options.table import FLAGS
from flannel.printable import as_json

DIST = Path(__file__).parents[2] / "dist"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DIST / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_man_pages_and_completion_match_the_tables(generate: ModuleType) -> None:
    """If not: run dist/generate.py."""
    for name, text in generate.files().items():
        assert (DIST / name).read_text() == text, name


def test_every_flag_is_in_the_man_page_and_in_help(generate: ModuleType) -> None:
    page, shown = generate.files()["man/flanneld.8"], usage(FLAGS)
    for flag in FLAGS:
        assert f"\\fB\\-{generate.escape(flag.name)}\\fR" in page
        assert f"  -{flag.name} " in shown
        assert flag.variable.replace("-", "\\-") in page


def test_every_finding_is_in_the_man_page(generate: ModuleType) -> None:
    page = generate.files()["man/flannel.8"]
    for name in KINDS:
        assert f"\\fB{generate.escape(name)}\\fR" in page


def test_troff_finds_no_fault_in_the_man_pages(generate: ModuleType) -> None:
    for name in ("flannel.8", "flanneld.8"):
        page = (DIST / "man" / name).read_text()
        assert not [line for line in page.splitlines() if line.startswith("'")]
        assert page.splitlines()[1].startswith(".TH ")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("flannel re", "reserve release"),
        ("flannel config ''", "get check set"),
        ("flannel status --w", "--watch"),
        ("flannel check --etcd-e", "--etcd-endpoints"),
        ("flannel docker-opts -", "-f -d -i -c -m -k --json --help"),
        ("flannel release 10.1.9", "10.1.9.0/24"),
        ("flannel reserve 192.0.2.11 10", "10.1.5.0/24 10.1.9.0/24"),
        ("flannel status --etcd-cafile = /etc/os-rel", "/etc/os-release"),
        ("flannel status --etcd-prefix = ''", ""),
        ("flanneld -ifa", "-iface -iface-regex -iface-can-reach"),
        ("flanneld -iface l", "lo"),
        ("flanneld --iface = l", "lo"),
        ("flanneld -ip-masq =", "true false"),
        ("flanneld -ip-masq = f", "false"),
        ("flanneld -ip-masq -gu", "-guard -guard-mark"),
        ("flanneld -log-format ''", "text json"),
        ("flanneld -state-dir /sys/class/ne", "/sys/class/net"),
    ],
)
def test_completion_offers_what_can_follow(words: str, offered: str) -> None:
    document = as_json({"leases": [{"subnet": f"10.1.{n}.0/24", "ttl": 7} for n in (5, 9)]}, 2)
    script = (
        f"flannel() {{ [ $1 = leases ] && echo '{document}'; }}\n"
        'timeout() { shift; "$@"; }\n'
        f"source {DIST / 'completions/bash/flannel'}\n"
        f"source {DIST / 'completions/bash/flanneld'}\n"
        'complete_() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _$1; }\n'
        f"complete_ {words}\necho ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (offered.split(), "")


def test_the_program_answers_in_one_line_and_by_its_status() -> None:
    for arguments, status, out, err in (
        (["version"], 0, f"{__version__}\n", ""),
        (["version", "--json"], 0, as_json({"version": __version__}, 2) + "\n", ""),
        (["explain", "10.1.5"], 2, "", 'flannel: cannot use this command line: argument ADDRESS: '
         '"10.1.5" is not an IPv4 address; see flannel explain --help\n'),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "flannel.cli.main", *arguments],
            capture_output=True, text=True, env={},
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_output_that_cannot_be_written_is_one_line_and_status_1() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 # a device
        done = subprocess.run(
            [sys.executable, "-m", "flannel.cli.main", "version"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1,
        "flannel: cannot print: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("explode",), "invalid choice: 'explode'"),
        (("explain", "10.1.5"), '"10.1.5" is not an IPv4 address'),
        (("release", "10.1.5.0"), '"10.1.5.0" is no subnet like 10.1.5.0/24'),
        (("release", "10.1.5.1/24"), '"10.1.5.1/24" is no subnet'),
        (("status", "-etcd-endpoints=ftp://x"), "is not a URL like"),
        (("status", "--stat"), "unrecognized arguments: --stat"),
        (
            ("config", "set", "/no/such/file"),
            "cannot read /no/such/file: No such file or directory",
        ),
    ],
)
def test_a_mistake_of_the_operator_is_one_line_and_status_2(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(main._run(arguments, {})) == 2
    done = capsys.readouterr()
    assert (done.out, len(done.err.splitlines())) == ("", 1)
    assert done.err.startswith("flannel: cannot ")
    assert text in done.err


def test_flags_are_taken_as_flanneld_takes_them() -> None:
    for words in (["-etcd-prefix=/x"], ["--etcd-prefix", "/x"], ["-etcd-prefix", "/x"]):
        assert parser().parse_args(["check", *words]).etcd_prefix == "/x"
    assert set(SHARED) <= {flag.name for flag in FLAGS}
