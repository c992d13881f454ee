"""flannel check and explain: docker's own rules; check: docker's configuration file."""

import json
from ipaddress import IPv4Address
from typing import Any

import pytest
from fake_context import DOCKER0, World

from flannel.kernel.links import Way

RULE = "-A PREROUTING -d 10.1.5.{}/32 ! -i docker0 -j DROP"


def findings(world: World) -> dict[str, str]:
    """What was found, by its kind."""
    return {
        each["finding"]: each["what"] for each in world.run("check", "--json").document["findings"]
    }


def nft_ruleset(*containers: str) -> str:
    """As docker's nft backend makes it."""

    def rule(address: str) -> dict[str, Any]:
        payload = {"payload": {"protocol": "ip", "field": "daddr"}}
        link = {"meta": {"key": "iifname"}}
        expr = [
            {"match": {"op": "==", "left": payload, "right": address}},
            {"match": {"op": "!=", "left": link, "right": "docker0"}},
            {"counter": {"packets": 0, "bytes": 0}},
            {"drop": None},
        ]
        where = {"family": "ip", "table": "docker-bridges", "chain": "raw-PREROUTING"}
        return {"rule": where | {"expr": expr}}

    chain = {"family": "ip", "table": "docker-bridges", "name": "raw-PREROUTING",
             "type": "filter", "hook": "prerouting", "prio": -300, "policy": "accept"}  # fmt: skip
    return json.dumps({"nftables": [{"chain": chain}, *map(rule, containers)]})


class TestDirectRouting:
    def test_docker_s_rules_for_containers_are_one_finding(self, world: World) -> None:
        world.filter(RULE.format(7), RULE.format(8), table="raw")
        text = f"iptables raw PREROUTING: {RULE.format(7)} drops 10.1.9.2 -> 10.1.5.7"
        assert findings(world) == {"direct-routing": f"{text}, and likewise to 1 more"}

    def test_docker_s_rules_are_found_in_the_form_of_nft(self, world: World) -> None:
        world.programs.install("nft")
        world.programs.prints["nft -j list ruleset"] = nft_ruleset("10.1.5.2")
        assert findings(world)["direct-routing"].endswith("drops 10.1.9.2 -> 10.1.5.2")
        assert "forward-drop" not in findings(world)

    def test_a_rule_for_the_whole_subnet_is_found(self, world: World) -> None:
        world.filter("-A PREROUTING -d 10.1.5.0/24 ! -i docker0 -j DROP", table="raw")
        assert findings(world).keys() == {"direct-routing"}

    @pytest.mark.parametrize(
        "rules",
        [
            [RULE.format(2).replace("docker0", "flannel.1")],
            ["-A PREROUTING -d 10.1.5.2/32 -i flannel.1 -j ACCEPT", RULE.format(2)],
            ["-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP"],
        ],
    )
    def test_rules_that_let_the_overlay_in_are_no_finding(
        self, world: World, rules: list[str]
    ) -> None:
        world.filter(*rules, table="raw")
        assert findings(world) == {}

    def test_a_rule_that_names_no_container_is_another_finding(self, world: World) -> None:
        world.filter("-A PREROUTING -i flannel.1 -j DROP", RULE.format(3), table="raw")
        assert findings(world).keys() == {"forward-drop"}

    def test_dropping_rules_of_others_are_found_beside_docker_s(self, world: World) -> None:
        world.filter(RULE.format(2), "-A FORWARD -i flannel.1 -j DROP", table="raw")
        assert findings(world).keys() == {"direct-routing", "forward-drop"}
        assert findings(world)["forward-drop"].endswith("10.1.9.2 -> 10.1.5.3")

    def test_explain_follows_a_peer_s_packet_to_the_rule(self, world: World) -> None:
        world.filter(RULE.format(3), table="raw")
        world.netlink.ways[IPv4Address("10.1.5.3")] = Way(DOCKER0.index, None, None)
        argv = ("explain", "10.1.5.3", "--source", "10.1.9.2", "--json")
        steps = {each["name"]: each for each in world.run(*argv).document["steps"]}
        assert steps["firewall"]["text"].endswith(f"by iptables raw PREROUTING: {RULE.format(3)}")
        assert steps["firewall"]["ends"]


class TestDaemonJson:
    def test_what_docker_will_refuse_is_a_fault(self, world: World) -> None:
        world.daemon_json.write_text('{"mtu": 1400}')
        assert findings(world) == {}
        world.docker_options.write_text('DOCKER_OPT_MTU="--mtu=1450"\n')
        assert findings(world).keys() == {"daemon-json"}

    def test_a_daemon_json_that_cannot_be_read_is_named(self, world: World) -> None:
        world.daemon_json.mkdir()
        assert findings(world) == {"unseen": f"cannot read {world.daemon_json}: Is a directory"}
