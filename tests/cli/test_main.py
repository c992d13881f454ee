"""The operator's command: its line, its tables, what it makes of documents."""

import importlib.util
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import ModuleType

import pytest

from flannel import __version__
from flannel.cli import config, context, main
from flannel.cli.context import duration, pairs, table
from flannel.cli.findings import KINDS, Finding
from flannel.cli.main import SHARED, exit_status, parser
from flannel.errors import BadNetworkConfig, BadOption
from flannel.health.peer_probe import is_ready, overlay_address, question
from flannel.lease import Lease, LeaseAttrs
from flannel.options.flags import usage
from flannel.options.table import FLAGS

DIST = Path(__file__).parents[2] / "dist"
LEASE = Lease(IPv4Network("10.1.5.0/24"), LeaseAttrs(IPv4Address("192.0.2.11"), "vxlan"), 60)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DIST / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_man_pages_and_completion_are_what_the_tables_say(generate: ModuleType) -> None:
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


def test_completion_offers_commands_actions_and_flags() -> None:
    script = (
        f"source {DIST / 'completions/bash/flannel'}\n"
        'complete_() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _flannel; echo ${COMPREPLY[@]}; }'
        "\n"
        "complete_ flannel re\ncomplete_ flannel config ''\ncomplete_ flannel status --w\n"
        "complete_ flannel check --etcd-e\n"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "reserve release",
        "get check set",
        "--watch",
        "--etcd-endpoints",
    ]
    assert done.stderr == ""


def test_the_program_answers_in_one_line_and_by_its_status() -> None:
    for arguments, status, out, err in (
        (["version"], 0, f"{__version__}\n", ""),
        (["explain", "10.1.5"], 2, "", 'flannel: cannot use this command line: argument ADDRESS: '
         '"10.1.5" is not an IPv4 address; see flannel explain --help\n'),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "flannel.cli.main", *arguments],
            capture_output=True, text=True, env={},
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


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


def test_without_a_terminal_nobody_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    asking = context.Context(options=None)  # type: ignore[arg-type] # none are read
    with pytest.raises(BadOption, match="--yes says so"):
        asking.confirm("Really?")
    assert context.Context(None, yes=True).confirm("Really?")  # type: ignore[arg-type]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert table([("a", 1.5), ("long", None)], ("NAME", "MS")) == [
        "NAME    MS",
        "a     1.50",
        "long     -",
    ]
    assert table([], ("NAME", "MS")) == ["NAME  MS"]
    assert pairs([("a", "x"), ("long", "y"), ("none", None)]) == ["a     x", "long  y"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (5, "5 s"), (65, "1 min 5 s"), (3600, "1 h"), (86399, "23 h 59 min"),
     (90000, "1 d 1 h"), (-7200, "-2 h")],
)  # fmt: skip
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_finding_is_one_line() -> None:
    for name in KINDS:
        line = str(Finding(name, "something is wrong"))
        assert line.isprintable()
        assert " -> " in line


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"Network": "10.1.0.0/33"}',
        '{"Network": "10.1.0.0/16", "Backend": {"Type": "warp"}}',
        '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", "VNI": "one"}}',
        '{"Network": "10.1.0.0/16", "Backend": {"Type": "udp", "Port": 70000}}',
    ],
)
def test_a_config_is_refused_as_a_host_would_refuse_it(text: str) -> None:
    with pytest.raises(BadNetworkConfig):
        config.validate(text)


def test_a_change_of_config_says_who_is_affected() -> None:
    before = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}'
    after = '{"Network": "10.2.0.0/24", "SubnetLen": 26, "Backend": {"Type": "host-gw"}}'
    report = config.report(before, after, [LEASE])
    assert report["losing"] == ["10.1.5.0/24 of 192.0.2.11"]
    assert report["other_backend"] == ["10.1.5.0/24 of 192.0.2.11"]
    assert {each["member"] for each in report["changes"]} == {
        "Network",
        "SubnetLen",
        "Backend.Type",
    }
    assert config.report(before, before, [LEASE])["changes"] == []


def test_upper_and_lower_case_make_no_difference_of_a_config() -> None:
    before = '{"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan"}}'
    after = '{"network": "10.1.0.0/16", "backend": {"type": "vxlan", "vni": 7}}'
    assert config.report(before, after, [])["changes"] == [
        {"member": "backend.vni", "before": None, "after": 7}
    ]


def test_a_probes_answer_belongs_to_its_question() -> None:
    assert question(b"12345678") == b"flannel?12345678"
    assert is_ready(b"flannel!12345678", b"12345678") is True
    assert is_ready(b"flannel-12345678", b"12345678") is False
    for wrong in (b"flannel!12345679", b"flannel?12345678", b"", b"flannel!123456789"):
        assert is_ready(wrong, b"12345678") is None


def test_a_host_without_a_tunnel_has_no_address_in_the_overlay() -> None:
    assert overlay_address(LEASE) == IPv4Address("10.1.5.0")
    plain = Lease(LEASE.subnet, LeaseAttrs(LEASE.attrs.public_ip, "host-gw"), 60)
    assert overlay_address(plain) is None
