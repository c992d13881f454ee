"""flanneld as a process: signals without a meaning, and missing descriptors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flannel import __main__ as program

SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def run(script: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A process of its own that runs ``script``."""
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


def test_signals_without_a_meaning_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for number in SIGNALS:
        program._ignore(number)
    assert [line.partition(";")[0] for line in caplog.messages] == [
        f"ignoring {number.name}: there is nothing to reload" for number in SIGNALS
    ]


def test_a_signal_without_a_meaning_does_not_end_a_flanneld_that_starts() -> None:
    script = (
        "import os, signal, sys\n"
        "from flannel import __main__ as program\n"
        "def parse(*_):\n"
        "    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):\n"
        "        os.kill(os.getpid(), number)\n"
        "    raise program.BadOption('cannot use it')\n"
        "program.parse = parse\n"
        "sys.exit(program.main())\n"
    )
    done = run(script)
    assert (done.returncode, done.stderr) == (2, "flanneld: cannot use it\n")


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_opened_so_that_no_file_gets_the_log(
    tmp_path: Path, closed: str
) -> None:
    script = (
        "import json, os, sys\n"
        "from flannel import __main__ as program, logs\n"
        "program._open_standard_descriptors()\n"
        "logs.set_up(0, 'text', {})\n"
        "made = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "program.log.warning('a line')\n"
        "os.write(made, json.dumps([made, os.readlink('/proc/self/fd/2')]).encode())\n"
    )
    path = tmp_path / "made"
    command = f'exec "$0" -c "$1" "$2" {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable, script, str(path)])
    assert done.returncode == 0
    number, stderr = json.loads(path.read_text())
    assert number > 2
    assert stderr == os.devnull


def test_a_closed_log_does_not_end_flanneld() -> None:
    script = (
        "import os, sys\n"
        "from flannel import __main__ as program, logs\n"
        "logs.set_up(0, 'text', {})\n"
        "read, write = os.pipe()\n"
        "os.dup2(write, 2)\n"
        "os.close(read)\n"
        "program.log.warning('a line')\n"
        "os.write(1, b'it goes on')\n"
        "os._exit(0)\n"
    )
    done = run(script)
    assert (done.returncode, done.stdout) == (0, "it goes on")


def test_flanneld_runs_until_sigterm_and_leaves_device_and_routes(tmp_path: Path) -> None:
    script = (
        "import asyncio, os, signal, sys\n"
        "from flannel import __main__ as program\n"
        "from flannel.daemon import daemon\n"
        "def refuse(secrets): raise program.KernelError('drop capabilities', 1)\n"
        "async def run(options, store, status):\n"
        "    while not os.path.exists(f'{sys.argv[1][13:-11]}/flanneld.sock'):\n"
        "        await asyncio.sleep(0.01)\n"
        "    program._start_is_over()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    await asyncio.sleep(600)\n"
        "program.privileges.drop, daemon.run = refuse, run\n"
        "sys.exit(program.main())\n"
    )
    flags = [f"-subnet-file={tmp_path}/subnet.env", f"-state-dir={tmp_path}/state"]
    done = run(script, *flags)
    assert done.returncode == 0, done.stderr
    assert [line.split(" ", 3)[3] for line in done.stderr.splitlines()] == [
        "cannot drop capabilities: Operation not permitted; running with more privileges than "
        "needed",
        "flanneld 0.1.0, etcd at http://127.0.0.1:4001, http://127.0.0.1:2379",
        "stopped; device and routes stay",
    ]
    assert not (tmp_path / "flanneld.sock").exists()
