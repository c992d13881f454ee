"""mk-docker-opts: the same bytes as upstream's script, without running a shell."""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

SUBNET_ENV = """\
FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.74.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
"""
BIP = 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\n'
IPMASQ = 'DOCKER_OPT_IPMASQ="--ip-masq=true"\n'
MTU = 'DOCKER_OPT_MTU="--mtu=1472"\n'
ALL = " --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"


class Program:
    """mk-docker-opts with files of its own."""

    def __init__(self, directory: Path) -> None:
        self.subnet_env = directory / "subnet.env"
        self.docker_env = directory / "docker_opts.env"
        self.subnet_env.write_text(SUBNET_ENV)

    def run(self, *flags: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        # `make coverage` measures it as well.
        measured = {name: text for name, text in os.environ.items() if "COVERAGE" in name}
        files = ["-f", str(self.subnet_env), "-d", str(self.docker_env)]
        return subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from flannel.handover.docker_opts import main;sys.exit(main())",
                *files,
                *flags,
            ],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", **measured, **environ},
        )

    def output(self, *flags: str, **environ: str) -> str:
        done = self.run(*flags, **environ)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return self.docker_env.read_text()

    def refusal(self, *flags: str, **environ: str) -> str:
        done = self.run(*flags, **environ)
        assert (done.returncode, done.stdout) == (2, "")
        assert not self.docker_env.exists()
        assert re.fullmatch("mk-docker-opts: cannot .*: .*\n", done.stderr)
        return done.stderr


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], BIP + IPMASQ + MTU + f'DOCKER_OPTS="{ALL}"\n'),
        (["-i", "-c"], BIP + IPMASQ + MTU + f'DOCKER_OPTS="{ALL}"\n'),
        (["-ic"], BIP + IPMASQ + MTU + f'DOCKER_OPTS="{ALL}"\n'),
        (["-i"], BIP + IPMASQ + MTU),
        (["-c"], f'DOCKER_OPTS="{ALL}"\n'),
        (["-k", "CUSTOM_KEY"], BIP + IPMASQ + MTU + f'CUSTOM_KEY="{ALL}"\n'),
        (["-ckKEY_2"], f'KEY_2="{ALL}"\n'),
        (["-m"], BIP + MTU + 'DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"\n'),
    ],
)
def test_the_output_is_upstreams(program: Program, flags: list[str], expected: str) -> None:
    assert program.output(*flags) == expected


def test_docker_masquerades_if_and_only_if_flannel_does_not(program: Program) -> None:
    program.subnet_env.write_text(SUBNET_ENV.replace("false", "true"))
    assert 'DOCKER_OPT_IPMASQ="--ip-masq=false"\n' in program.output()


def test_existing_options_stay_in_front(program: Program) -> None:
    """With two blanks, as upstream has it."""
    assert program.output("-c", DOCKER_OPTS="--debug") == f'DOCKER_OPTS="--debug {ALL}"\n'
    assert program.output("-c", "-k", "X", DOCKER_OPTS="--debug") == f'X="{ALL}"\n'
    assert program.output("-c", "-k", "X", X="-H fd://") == f'X="-H fd:// {ALL}"\n'


def test_a_missing_file_gives_empty_options(program: Program) -> None:
    program.subnet_env.unlink()
    assert program.output() == 'DOCKER_OPTS=""\n'
    assert program.output("-i") == ""


def test_a_missing_line_omits_one_option(program: Program) -> None:
    program.subnet_env.write_text("FLANNEL_MTU=1472\n")
    assert program.output() == MTU + 'DOCKER_OPTS=" --mtu=1472"\n'


def test_the_file_is_replaced_whole_and_readable_by_all(program: Program) -> None:
    program.docker_env.symlink_to("elsewhere")
    program.output()
    assert not program.docker_env.is_symlink()
    assert stat.S_IMODE(program.docker_env.stat().st_mode) == 0o644


def test_the_file_is_not_run_by_a_shell(program: Program, tmp_path: Path) -> None:
    program.subnet_env.write_text(f"{SUBNET_ENV}X=$(touch {tmp_path}/pwned)\n")
    program.output()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "line",
    [
        "FLANNEL_SUBNET=10.1.74.1/24 --host=tcp://0.0.0.0:2375",
        'FLANNEL_SUBNET=10.1.74.1/24"',
        "FLANNEL_SUBNET=fc00::1/64",
        "FLANNEL_MTU=1472 --insecure-registry=evil",
        "FLANNEL_MTU=$(reboot)",
        "FLANNEL_IPMASQ=maybe",
        "reboot",
    ],
)
def test_values_that_are_not_addresses_or_numbers_do_not_reach_docker(
    program: Program, line: str
) -> None:
    program.subnet_env.write_text(f"{SUBNET_ENV}{line}\n")
    assert line.partition("=")[0] in program.refusal()


@pytest.mark.parametrize("value", ['--label="x"', "a\nB=1", "$HOME", "`id`", "a\\", "\u00fc"])
def test_options_that_would_end_the_quotes_are_refused(program: Program, value: str) -> None:
    assert "$DOCKER_OPTS" in program.refusal(DOCKER_OPTS=value)
    program.output("-i", DOCKER_OPTS=value)


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["-x"], "-x"), (["-k"], "-k"), (["-k", "A-B"], "A-B"), (["-i", "true"], "true")],
)
def test_a_wrong_flag_is_named(program: Program, flags: list[str], named: str) -> None:
    assert named in program.refusal(*flags)


def test_a_file_that_cannot_be_written_is_exit_status_1(program: Program) -> None:
    program.docker_env.mkdir()
    done = program.run()
    assert done.returncode == 1
    assert done.stderr == f"mk-docker-opts: cannot write {program.docker_env}: Is a directory\n"


def test_help_names_every_flag(program: Program) -> None:
    done = program.run("-h")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(re.findall(r"(?m)^  -(\w) ", done.stdout)) == set("fdicmk")
    assert not program.docker_env.exists()


def test_a_json_document_has_what_was_written(program: Program) -> None:
    done = program.run("-i", "--json")
    assert json.loads(done.stdout) == {
        "file": str(program.docker_env),
        "variables": {
            "DOCKER_OPT_BIP": "--bip=10.1.74.1/24",
            "DOCKER_OPT_IPMASQ": "--ip-masq=true",
            "DOCKER_OPT_MTU": "--mtu=1472",
        },
    }
    assert program.docker_env.read_text() == BIP + IPMASQ + MTU


def test_long_flags_are_named_whole(program: Program) -> None:
    assert program.run("--help").stdout == program.run("-h").stdout
    assert 'cannot use "--colour": option --colour not recognized' in program.refusal("--colour")
