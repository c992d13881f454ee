"""subnet.env on a host whose flanneld serves: changes by others are reverted."""

import stat

import pytest
from namespaces import wait_for
from world import World

CONFIG = {"Network": "10.1.0.0/16", "Backend": {"Type": "alloc"}}


@pytest.mark.parametrize(
    "harm",
    [
        "rm $FILE",
        "echo FLANNEL_SUBNET=10.9.9.1/24 > $FILE",
        "chmod 600 $FILE",
        "ln -sf /dev/null $FILE",
        "rm -r $(dirname $FILE)",
    ],
)
def test_a_changed_or_removed_subnet_env_is_written_again(world: World, harm: str) -> None:
    world.configure(CONFIG)
    host = world.add_host("h1")
    host.subnet_file = host.directory / "run" / "subnet.env"
    host.start_flanneld("-iface=eth0").wait_ready()
    before = host.subnet_file.read_text()

    def is_right() -> bool:
        try:
            mode = host.subnet_file.lstat().st_mode
            return mode == stat.S_IFREG | 0o644 and host.subnet_file.read_text() == before
        except FileNotFoundError:
            return False

    with host.daemon.frozen():
        host.run("env", f"FILE={host.subnet_file}", "sh", "-c", harm)
        assert not is_right()
    wait_for(is_right, 30, "subnet.env")
    said = host.daemon.wait_log("subnet.env was changed or removed; written again")[0]
    assert host.daemon.log.count(said) == 1


def test_a_write_error_is_logged_once_and_tried_until_it_is_over(world: World) -> None:
    world.configure(CONFIG)
    host = world.add_host("h1")
    host.start_flanneld("-iface=eth0").wait_ready()
    before = host.subnet_file.read_text()
    with host.daemon.frozen():
        host.subnet_file.unlink()
        host.subnet_file.mkdir()
    complaint = host.daemon.wait_log("cannot write .*/subnet.env: Is a directory; trying again")[0]
    host.subnet_file.rmdir()
    wait_for(host.subnet_file.exists, 30, "subnet.env")
    assert host.subnet_file.read_text() == before
    assert host.daemon.log.count(complaint) == 1
