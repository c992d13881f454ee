"""`flannel config`: what is checked and written, and which hosts follow."""

import json

from flannel_command import flannel
from overlays import VXLAN, start
from world import World


def test_a_config_is_checked_shown_and_swapped(world: World) -> None:
    (host,) = start(world, VXLAN, 1)
    world.configure(VXLAN)
    before = json.dumps(VXLAN)
    assert json.loads(flannel(host, "config", "get").stdout) == VXLAN
    network = '"Network": "10.1.0.0/16"'
    for wrong in ('{"Network": "10.1.0.0/33"}', "/no/such/file",
                  f'{{{network}, "Backend": {{"Type": "vxlan", "VNI": "x"}}}}',
                  f'{{{network}, "Backend": {{"Type": "y"}}}}'):  # fmt: skip
        done = flannel(host, "config", "set", "--yes", wrong)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
    assert json.loads(flannel(host, "config", "get").stdout) == json.loads(before)
    new = '{"Network": "10.9.0.0/16", "Backend": {"Type": "vxlan", "Port": 4789}}'
    shown = flannel(host, "config", "check", new).stdout
    assert 'Network: "10.1.0.0/16" -> "10.9.0.0/16"' in shown
    assert f"no longer fits, gets another subnet: lease {host.subnet} of 192.0.2.11" in shown
    assert "NOT FOR THIS HOST" not in shown
    done = flannel(host, "config", "check", '{"Network": "192.0.0.0/16"}')
    assert done.returncode == 1
    overlap = "NOT FOR THIS HOST: it has address 192.0.2.11/24 of eth0, in that network"
    assert overlap in done.stdout
    done = flannel(host, "config", "set", "--yes", new)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 hosts have followed")
    vni_7 = new.replace('"vxlan"', '"vxlan", "VNI": 7')
    done = flannel(host, "config", "set", "--yes", vni_7)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 hosts have followed")
    host.daemon.stop()
    done = flannel(host, "config", "set", "--yes", new)
    assert (done.returncode, "NOT FOLLOWED" in done.stdout) == (1, True)
    assert json.loads(flannel(host, "config", "get").stdout) == json.loads(new)
