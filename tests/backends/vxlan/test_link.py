"""The VXLAN link replaced, found under another name, removed from another namespace."""

import errno
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from vxlan_host import ETH0, MAC, OTHER_MAC, OURS, SETTINGS, Host

from flannel.errors import KernelError
from flannel.kernel import other_namespaces
from flannel.kernel.links import Link
from flannel.kernel.other_namespaces import Stray


@pytest.fixture(autouse=True)
def no_ipv6_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flannel.kernel.sysctls.refuse_ipv6", lambda *_: None)


class TestSuccessors:
    """Another port or GBP flag needs another link; the old one goes when that is there."""

    WANTED = replace(SETTINGS, port=4789)

    def links(self, host: Host) -> list[str]:
        return [link.name for link in host.netlink.links.values()]

    def test_the_old_link_is_deleted_last(self) -> None:
        host = Host(OURS)
        host.ensure(self.WANTED)
        assert host.netlink.calls == [
            "create_vxlan flannel-next",
            "set_alias flannel-next",
            "bring_up flannel-next",
            "delete_link flannel.1",
            "rename_link flannel-next",
        ]
        assert host.ours.alias == "flannel"
        assert host.ours.up

    def test_a_link_with_the_same_port_comes_up_after_the_old_one_is_deleted(self) -> None:
        host = Host(OURS)
        host.ensure(replace(SETTINGS, gbp=True))
        assert host.netlink.calls[-1] == "bring_up flannel.1"

    @pytest.mark.parametrize("step", ["create_vxlan", "bring_up", "delete_link", "rename_link"])
    def test_the_old_link_stays_while_the_new_one_fails(self, step: str) -> None:
        host = Host(OURS)
        host.netlink.refuses_once[step] = errno.EADDRINUSE if step == "bring_up" else errno.EPERM
        with pytest.raises(KernelError):
            host.ensure(self.WANTED)
        assert "flannel-next" not in self.links(host)
        if step != "rename_link":
            assert host.ours == OURS
        host.ensure(self.WANTED)
        assert host.ours.vxlan == self.WANTED

    def test_a_successor_that_an_earlier_run_has_left_is_replaced(self) -> None:
        left = Link(9, "flannel-next", "vxlan", 1450, True, "", replace(SETTINGS, vni=5))
        host = Host(OURS, left)
        host.ensure(self.WANTED)
        assert self.links(host) == ["eth0", "flannel.1"]

    def test_a_successor_whose_run_ended_before_it_got_the_name_gets_it(self) -> None:
        host = Host(replace(OURS, name="flannel-next"))
        host.ensure()
        assert host.ours == OURS

    def test_a_link_that_has_to_go_first_is_made_again_if_its_successor_fails(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = replace(OURS, vxlan=replace(SETTINGS, local=IPv4Address("192.0.2.77")))
        host = Host(old)
        host.netlink.refuses["move_vxlan"] = errno.EOPNOTSUPP
        host.netlink.refuses_once["create_vxlan"] = errno.EADDRNOTAVAIL
        with pytest.raises(KernelError, match="Cannot assign requested address"):
            host.ensure()
        assert (host.ours.vxlan, host.ours.mac) == (old.vxlan, old.mac)


class TestRenamed:
    """Our link has another name now."""

    @pytest.mark.parametrize(
        "renamed",
        [
            replace(OURS, name="x", mac=OTHER_MAC),  # known by its alias
            replace(OURS, name="x", alias=""),  # known by its MAC
        ],
    )
    def test_a_renamed_link_gets_its_name_back_with_its_addresses_and_routes(
        self, renamed: Link
    ) -> None:
        host = Host(renamed)
        assert host.ensure().index == OURS.index
        assert host.ours == OURS
        assert "its name was x" in host.noted()

    def test_a_renamed_link_is_brought_up_and_repaired_at_once(self) -> None:
        host = Host(replace(OURS, name="x", up=False, mtu=1300))
        host.ensure()
        assert host.ours == OURS
        assert host.noted() == "its name was x; its MTU was 1300; it was down"

    def test_a_renamed_link_that_kept_its_name_as_an_alternative_name_is_found(self) -> None:
        host = Host(replace(OURS, name="x"))
        host.netlink.altnames["flannel.1"] = OURS.index
        host.ensure()
        assert host.ours == OURS
        assert host.netlink.altnames == {}

    def test_something_else_may_have_its_name_now(self) -> None:
        host = Host(replace(OURS, name="x"), Link(5, "flannel.1", "bridge", 1500, True, ""))
        assert host.ensure().index == OURS.index
        assert [link.name for link in host.netlink.links.values()] == ["eth0", "flannel.1"]

    def test_a_renamed_link_with_other_settings_is_deleted_and_made_again(self) -> None:
        host = Host(replace(OURS, name="x", vxlan=replace(SETTINGS, gbp=True)))
        link = host.ensure()
        assert link.vxlan == SETTINGS
        assert [link.name for link in host.netlink.links.values()] == ["eth0", "flannel.1"]

    @pytest.mark.parametrize(
        "other",
        [
            replace(OURS, name="x", vxlan=replace(SETTINGS, vni=2)),
            replace(OURS, name="x", vxlan=replace(SETTINGS, port=4789)),
            Link(4, "x", "bridge", 1450, True, MAC, alias="flannel"),
        ],
    )
    def test_a_link_that_is_not_in_the_way_keeps_its_name(self, other: Link) -> None:
        host = Host(other)
        assert host.ensure().index != other.index
        assert host.netlink.links[other.index] == other

    def test_a_link_of_another_vni_may_have_its_name_now(self) -> None:
        other = replace(OURS, index=5, vxlan=replace(SETTINGS, vni=2), alias="", mac=OTHER_MAC)
        host = Host(replace(OURS, name="x"), other)
        assert host.ensure().index == OURS.index
        assert [link.name for link in host.netlink.links.values()] == ["eth0", "flannel.1"]

    def test_a_link_with_our_name_as_alternative_name_is_not_ours(self) -> None:
        host = Host()
        host.netlink.altnames["flannel.1"] = ETH0.index
        host.netlink.refuses["create_vxlan"] = errno.EEXIST
        with pytest.raises(KernelError) as raised:
            host.ensure()
        assert str(raised.value) == (
            "cannot create vxlan flannel.1: it is an alternative name of link eth0: File exists"
        )
        assert host.netlink.links[ETH0.index] == ETH0

    def test_a_link_of_others_with_our_vni_and_port_is_named(self) -> None:
        host = Host(replace(OURS, name="theirs", mac=OTHER_MAC, alias=""))
        with pytest.raises(KernelError) as raised:
            host.ensure()
        assert str(raised.value) == (
            "cannot create VXLAN link flannel.1: link theirs has VNI 1 and port 8472: File exists"
        )
        assert host.netlink.links[OURS.index].name == "theirs"


class TestMoved:
    """Our link is in another network namespace, where it keeps its VNI."""

    STRAY = Stray(3, 4, "flannel.1", "flannel", SETTINGS.local)

    @pytest.fixture
    def host(self, monkeypatch: pytest.MonkeyPatch) -> Host:
        host = Host()

        async def create(name: str, **settings: object) -> None:
            if host.strays:
                raise KernelError(f"create VXLAN link {name}", errno.EEXIST)
            await create_vxlan(name, **settings)  # type: ignore[arg-type] # they are passed on

        def delete(stray: Stray) -> None:
            host.strays.remove(stray)
            host.deleted_strays.append(stray)

        create_vxlan = host.netlink.create_vxlan
        monkeypatch.setattr(host.netlink, "create_vxlan", create)
        monkeypatch.setattr(other_namespaces, "find_vxlan", lambda *_: list(host.strays))
        monkeypatch.setattr(other_namespaces, "delete", delete)
        return host

    def test_a_link_in_another_namespace_is_deleted_there_and_made_again_here(
        self, host: Host, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.strays = [self.STRAY]
        host.ensure()
        assert host.ours.vxlan == SETTINGS
        assert host.deleted_strays == [self.STRAY]
        assert "removed flannel.1 from another network namespace" in caplog.text
        assert host.noted() == "it was gone"

    @pytest.mark.parametrize(
        "other",
        [replace(STRAY, alias=""), replace(STRAY, local=IPv4Address("192.0.2.9"))],
        ids=["without our alias", "of another host's address"],
    )
    def test_a_link_of_others_is_named_and_left_alone(self, host: Host, other: Stray) -> None:
        host.strays = [replace(other, name="vx-4097")]
        with pytest.raises(KernelError) as raised:
            host.ensure()
        assert str(raised.value) == (
            "cannot create VXLAN link flannel.1: link vx-4097 of another network namespace has "
            "VNI 1 and port 8472: File exists"
        )
        assert host.deleted_strays == []

    def test_without_a_trace_of_it_the_kernels_words_are_all_there_is(
        self, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host.strays = [self.STRAY]
        monkeypatch.setattr(other_namespaces, "find_vxlan", lambda *_: [])
        with pytest.raises(KernelError, match=r"create VXLAN link flannel\.1: File exists"):
            host.ensure()
