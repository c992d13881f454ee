"""Whatever others have written, no command lends it the operator's terminal."""

import errno
import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fake_context import PEER, PEER_HOST, PEER_TUNNEL, TUNNEL, World
from foreign_text import ENDLESS, EVIL, assert_harmless, assert_harmless_document

from flannel import __main__ as flanneld
from flannel.cli.context import DaemonDown
from flannel.cli.main import _run, exit_status
from flannel.errors import StoreUnavailable
from flannel.handover import docker_opts
from flannel.kernel.links import Link
from flannel.lease import LeaseAttrs

CONFIG = json.dumps(
    {"Network": "10.1.0.0/16", "Backend": {"Type": "vxlan", EVIL: EVIL}, EVIL: [EVIL]},
    ensure_ascii=False,
)
COMMANDS = (
    ("status",),
    ("leases",),
    ("peers",),
    ("check",),
    ("explain", "10.1.9.2"),
    ("explain", "10.1.66.2"),
    ("config", "check"),
    ("config", "check", '{"Network": "10.1.0.0/16"}'),
    ("config", "check", "{" + EVIL),
    ("config", "check", f'{{"Network": {json.dumps(EVIL)}}}'),
    ("config", "set", '{"Network": "10.1.0.0/16"}'),
    ("reserve", "192.0.2.50", "10.1.66.0/24"),
    ("release", "10.1.66.0/24"),
    ("hand-back",),
    ("cleanup",),
)


def write_evil_leases(world: World) -> None:
    world.store.put(PEER, LeaseAttrs(PEER_HOST, "vxlan", {ENDLESS: ENDLESS}, EVIL), 3600)
    world.lease(66, ENDLESS, backend_data=ENDLESS, node_id=EVIL)
    world.lease(67, EVIL, backend_data={EVIL: [EVIL, {EVIL: None}]})
    world.reach[PEER_TUNNEL] = 1399


def name_evil_links_and_rules(world: World) -> None:
    name = EVIL.replace("\0", "").replace("\ud800", "\udcff")  # a byte that is no UTF-8
    world.netlink.add(replace(TUNNEL, name=name, alias="flannel"))
    world.netlink.add(Link(2, name, "", 1400, True, ""))
    world.netlink.add(Link(7, name, "tun", 1472, False, "", alias="flannel"))
    world.netlink.address(2, "10.1.77.7/24")
    world.filter(f'-A FORWARD -m comment --comment "{name}" -j DROP', policy="DROP")
    world.programs.install("nft")
    world.programs.prints["nft -j list ruleset"] = f"{{{name}"


def have_flanneld_report_evil(world: World) -> None:
    world.daemon.update(ready=False, unready=ENDLESS, device=EVIL, backend=EVIL, version=EVIL)
    world.daemon["conditions"] = {"nft": ENDLESS, "other-interface": EVIL, EVIL: EVIL}
    world.daemon["repairs"] = {"count": 1, "last": ENDLESS, "last_ago": 1}
    world.daemon["etcd"] |= {"endpoint": EVIL, "trouble": EVIL}
    world.daemon["interface"]["name"] = EVIL
    world.daemon["counters"] = {EVIL: 1}


def have_all_fail_with_evil_words(world: World) -> None:
    world.store.refusal = StoreUnavailable(f"cannot list leases: {ENDLESS}")
    world.pages = DaemonDown(f"cannot ask flanneld: {EVIL}")
    world.netlink.refuses["delete_link"] = errno.EBUSY
    world.env_file.write_text(EVIL, errors="replace")


ARRANGEMENTS = (write_evil_leases, name_evil_links_and_rules, have_flanneld_report_evil,
                have_all_fail_with_evil_words)  # fmt: skip


@pytest.fixture(params=ARRANGEMENTS, ids=lambda each: each.__name__)
def evil(request: pytest.FixtureRequest, world: World) -> World:
    request.param(world)
    return world


def test_text_for_people_is_harmless(evil: World) -> None:
    evil.terminal = "n\n"
    for command in COMMANDS:
        if command == ("hand-back",):
            evil.pages = DaemonDown(EVIL)
        done = evil.run(*command)
        assert_harmless(done.out)
        assert_harmless(done.err)


def test_output_for_programs_is_json_and_harmless(evil: World) -> None:
    evil.terminal = "y\n"
    for command in COMMANDS:
        if command == ("hand-back",):
            evil.pages = DaemonDown(EVIL)
        done = evil.run(*command, "--json")
        assert_harmless(done.err)
        if done.out:
            assert_harmless_document(done.out)


def test_a_config_is_printed_whole_and_means_the_same(world: World) -> None:
    world.store.configure(CONFIG)
    done = world.run("config", "get")
    assert_harmless(done.out)
    assert json.loads(done.out) == json.loads(CONFIG)
    document = assert_harmless_document(world.run("config", "get", "--json").out)
    assert document["config"] == CONFIG
    for command in (("config", "check"), ("config", "check", '{"Network": "10.1.0.0/16"}')):
        assert_harmless(world.run(*command).out)


@pytest.fixture
def collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


WORD = EVIL.replace("\0", "") + "x" * 5_000


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("words", [[WORD], [f"-{WORD}=1"], [f"-iface={WORD}", f"-v={WORD}"],
                                   ["-etcd-endpoints", WORD], ["-etcd-cafile", WORD],
                                   ["-lease-hook", WORD], ["-subnet-len=24", WORD]])  # fmt: skip
def test_a_mistake_on_a_command_line_is_shown_harmlessly(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["flanneld", *words])
    assert flanneld.main() == 2
    for argv in (["status", *words], ["explain", *words], ["config", "check", *words], words):
        assert exit_status(_run(argv, {})) == 2
    assert docker_opts.main(words) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert_harmless(found.err)
    assert found.err.count("\n") == 6


def test_docker_s_options_are_made_of_nothing_evil(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, target = tmp_path / "subnet.env", tmp_path / "docker.env"
    for text in (f"FLANNEL_SUBNET={EVIL}\n", EVIL, "FLANNEL_SUBNET=10.1.5.1/24\nFLANNEL_MTU=\x1b"):
        file.write_bytes(text.encode(errors="surrogatepass"))
        assert docker_opts.main(["-f", str(file), "-d", str(target)]) == 2
        assert not target.exists()
    found = capsys.readouterr()
    assert_harmless(found.out + found.err)
