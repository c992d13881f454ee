"""-hand-over: which recipients can be named, and together."""

import pytest
from typed_options import typed

from flannel.errors import BadOption
from flannel.options.recipients import Target
from flannel.options.table import parse


def test_several_are_given_with_commas_by_the_flag_again_or_by_the_variable() -> None:
    text = "docker-network=fl, cni=/etc/cni/net.d/10-fl.conflist"
    wanted = (Target("docker-network", "fl"), Target("cni", "/etc/cni/net.d/10-fl.conflist"))
    assert parse([], {"FLANNELD_HAND_OVER": text}).hand_over == wanted
    first, second = text.split(", ")
    given = typed(f"-hand-over={first}", f"-hand-over={second}", f"-hand-over={first}")
    assert given.hand_over == wanted
    assert [str(each) for each in wanted] == text.split(", ")


@pytest.mark.parametrize(
    ("path", "network"),
    [
        ("/etc/cni/net.d/10-flannel.conflist", "flannel"),
        ("/etc/cni/net.d/flannel.conflist", "flannel"),
        ("/a/10-20-x.conflist", "20-x"),
        ("/a/b c/net.1.conflist", "net.1"),
    ],
)
def test_a_cni_network_has_the_name_of_its_file(path: str, network: str) -> None:
    (found,) = typed(f"-hand-over=cni={path}").hand_over
    assert found.network == network


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("flannel", "is not docker-network=NAME, cni=PATH or podman=NAME"),
        ("docker=flannel", "is not docker-network=NAME"),
        ("docker-network", "has no name of a network"),
        ("docker-network=", "has no name of a network"),
        ("docker-network=a b", "has no name of a network"),
        ("docker-network=-x", "has no name of a network"),
        ("docker-network=a/../b", "has no name of a network"),
        ("docker-network=ü", "has no name of a network"),
        ("docker-network=a\nb", "has no name of a network"),
        ("docker-network=" + "a" * 64, "has no name of a network"),
        ("podman=../../etc/x", "has no name of a network"),
        ("docker-network=docker0", "docker0 is docker's own bridge, not a network"),
        ("docker-network=bridge", "is a name that docker has taken itself"),
        ("podman=podman", "is a name that podman has taken itself"),
        ("cni=net.conflist", "is not the path of a file, /....conflist"),
        ("cni=/etc/cni/net.d", "is not the path of a file, /....conflist"),
        ("cni=/etc/cni/net.d/10-x.conf", "is not the path of a file"),
        ("cni=/etc/../x.conflist", "has .. in it"),
        ("cni=/a/\0.conflist", "is not the path of a file"),
        ("cni=/a/10-.conflist", "has no name of a network"),
        ("docker-network=a,", "is not docker-network=NAME"),
        ("docker-network=a,docker-network=b", "docker-network can have one network"),
        ("podman=a,podman=b", "podman can have one network"),
        (",".join(f"cni=/{n}x.conflist" for n in range(5)), "names 5 recipients, and 4 can share"),
    ],
)
def test_a_mistake_is_named_with_the_flag(text: str, why: str) -> None:
    with pytest.raises(BadOption) as raised:
        typed(f"-hand-over={text}")
    assert str(raised.value).startswith("cannot use -hand-over: ")
    assert why in str(raised.value)
    assert str(raised.value).isprintable()
