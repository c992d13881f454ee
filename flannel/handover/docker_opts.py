"""mk-docker-opts: turns subnet.env into a file of docker options, for a unit's EnvironmentFile=.

Flags, output and order are those of upstream's shell script. The script runs subnet.env in a shell;
this program parses it and passes on only addresses, numbers and options of a known form, because
docker runs as root with these options. A missing file gives empty options.
"""

import getopt
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flannel import atomic_file
from flannel.document import shown
from flannel.errors import BadOption, FlannelError
from flannel.handover import subnet_env
from flannel.printable import as_json, complain, say, say_whole

FILE_NAME = "docker"
"""What our units have it write, beside subnet.env: the options that dockerd is started with."""

_USAGE = """\
usage: mk-docker-opts [-f SUBNET-ENV] [-d DOCKER-ENV] [-i] [-c] [-m] [-k NAME] [--json]

Make options for the docker daemon of what flanneld has leased.
  -f FILE  read this; default /run/flannel/subnet.env
  -d FILE  write this; default /run/docker_opts.env
  -i       write one variable for each option: DOCKER_OPT_BIP, ..._IPMASQ, ..._MTU
  -c       write one variable with all of them, after what it has in the environment
           (without -i and -c: both)
  -m       leave --ip-masq out, for a docker too old to know it
  -k NAME  the variable of -c; default DOCKER_OPTS
  --json   print a JSON document of the written file and its variables
  -h, --help  print this
"""


@dataclass(frozen=True, slots=True)
class Job:
    """What the flags ask for; see the usage text."""

    subnet_env: Path
    docker_env: Path
    individual: bool
    combined: bool
    ip_masq: bool
    key: str
    as_json: bool


def main(argv: Sequence[str] | None = None, program: str = "mk-docker-opts") -> int:
    """Run with the command line and environment of this process; return the exit status."""
    try:
        job = parse(sys.argv[1:] if argv is None else argv)
        if job is None:
            say(*_USAGE.replace("mk-docker-opts", program).splitlines())
            return 0
        found = variables(job, os.environ)
        text = "".join(f'{name}="{value}"\n' for name, value in found)
        atomic_file.write(job.docker_env, text.encode())
        if job.as_json:
            say_whole(as_json({"file": job.docker_env, "variables": dict(found)}, indent=2))
    except FlannelError as why:
        complain(f"{program}: {why}")
        return 2 if isinstance(why, BadOption) else 1
    except OSError as why:  # of stdout
        complain(f"{program}: cannot print: {why.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed again at the end
        return 1
    return 0


def parse(argv: Sequence[str]) -> Job | None:
    """Read the command line; None asks for the usage text.

    :raises BadOption: naming the flag or word.
    """
    try:
        pairs, words = getopt.getopt(argv, "f:d:icmk:h", ["help", "json"])
    except getopt.GetoptError as why:
        flag = f"{'-' if len(why.opt) == 1 else '--'}{why.opt}"
        raise BadOption(f"cannot use {shown(flag)}: {why.msg}; see -h") from None
    if words:
        raise BadOption(f"cannot use {shown(words[0])}: it belongs to no flag; see -h")
    given = dict(pairs)
    if {"-h", "--help"} & given.keys():
        return None
    key = given.get("-k", "DOCKER_OPTS")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key):
        raise BadOption(f"cannot use -k: {shown(key)} is not the name of a variable")
    both = not {"-i", "-c"} & given.keys()
    return Job(
        subnet_env=Path(given.get("-f", "/run/flannel/subnet.env")),
        docker_env=Path(given.get("-d", "/run/docker_opts.env")),
        individual=both or "-i" in given,
        combined=both or "-c" in given,
        ip_masq="-m" not in given,
        key=key,
        as_json="--json" in given,
    )


def variables(job: Job, environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The lines of the docker options file, each as a name and its value.

    :raises BadOption: subnet.env, or what the environment has for the combined variable, holds
        something that must not get there.
    """
    options = _docker_options(job)
    found = list(options.items()) if job.individual else []
    if job.combined:
        # As upstream: two blanks after an old value; one before the first option without one.
        before = _before(environ, job.key)
        combined = "".join(f" {each}" for each in options.values())
        found.append((job.key, (f"{before} " if before else "") + combined))
    return found


def _docker_options(job: Job) -> dict[str, str]:
    """The options by their variables' names, in upstream's order."""
    try:
        names = subnet_env.read_assignments(job.subnet_env)
        options = {}
        if "FLANNEL_SUBNET" in names:
            options["DOCKER_OPT_BIP"] = f"--bip={subnet_env.subnet_of(names)}"
        if job.ip_masq and "FLANNEL_IPMASQ" in names:
            # Exactly one of docker and flanneld masquerades.
            docker_does = not subnet_env.ip_masq_of(names)
            options["DOCKER_OPT_IPMASQ"] = f"--ip-masq={str(docker_does).lower()}"
        if "FLANNEL_MTU" in names:
            options["DOCKER_OPT_MTU"] = f"--mtu={subnet_env.mtu_of(names)}"
        return options
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else why
        raise BadOption(f"cannot use {job.subnet_env}: {reason}") from None


def _before(environ: Mapping[str, str], key: str) -> str:
    value = environ.get(key, "")
    # These characters end the quotes, or have a meaning inside them, for systemd or a shell.
    if re.search(r'["\\$`]|[^ -~]', value):
        raise BadOption(f"cannot keep the value of ${key}: it has quotes, $, \\ or the like in it")
    return value
