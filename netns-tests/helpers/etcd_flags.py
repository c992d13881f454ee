"""Flags of the etcds that tests start; programs beside pytest find this one, too."""

import subprocess
from functools import cache


@cache
def without_fsync() -> tuple[str, ...]:
    """The flag with which etcd does not wait for the disk, of which others want something as well.

    What it has written outlasts its own end, and no test ends the machine. Old etcds have none.
    """
    flag = "--unsafe-no-fsync"
    done = subprocess.run(["etcd", flag, "--version"], capture_output=True)
    return (flag,) if done.returncode == 0 else ()
