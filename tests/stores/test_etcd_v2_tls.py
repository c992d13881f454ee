"""The store and a real etcd with TLS and passwords."""

import asyncio
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from certificates import write_pair
from etcd_leases import (
    ME,
    A,
    B,
    run,
    store_at,
)
from etcd_server import EtcdServer

from flannel.errors import FlannelError, StoreDenied, StoreUnavailable
from flannel.lease import Lease
from flannel.stores.etcd_v2 import EtcdV2Store


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    good, bad = trustme.CA(), trustme.CA()
    good.cert_pem.write_to_path(str(directory / "ca.pem"))
    bad.cert_pem.write_to_path(str(directory / "bad-ca.pem"))
    for name, issued in (
        ("server", good.issue_cert("127.0.0.1")),
        ("client", good.issue_cert("client.example")),
        ("bad", bad.issue_cert("client.example")),
    ):
        write_pair(issued, directory / f"{name}.pem", directory / f"{name}-key.pem")
    return directory


@pytest.fixture(params=["server", "mutual"])
def tls(
    request: pytest.FixtureRequest, certificates: Path, tmp_path: Path, patience: None
) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path, scheme="https")
    flags = [
        f"--cert-file={certificates / 'server.pem'}",
        f"--key-file={certificates / 'server-key.pem'}",
    ]
    if request.param == "mutual":
        flags += ["--client-cert-auth", f"--trusted-ca-file={certificates / 'ca.pem'}"]
    server.name = f"tls-{request.param}"
    server.start(flags=flags)
    server.wait_ready()
    yield server
    server.stop()


class TestWhoIsWho:
    def client(self, server: EtcdServer, certificates: Path, ca: str, name: str) -> EtcdV2Store:
        return store_at(
            server.url,
            cafile=certificates / ca if ca else None,
            certfile=certificates / f"{name}.pem" if name else None,
            keyfile=certificates / f"{name}-key.pem" if name else None,
        )

    def create(self, store: EtcdV2Store) -> Lease:
        async def main() -> Lease:
            while True:
                try:
                    return await store.create(A, ME, 100)
                except StoreUnavailable:  # it listens, but has no leader yet
                    await asyncio.sleep(0.1)

        return run(main())

    def refused(self, store: EtcdV2Store) -> FlannelError:
        """Why a request fails, once it has time to: a handshake may take a busy machine long."""

        async def main() -> FlannelError:
            while True:
                try:
                    found = await store.snapshot()
                except FlannelError as why:
                    if "no answer in time" not in str(why):
                        return why
                else:
                    raise AssertionError(found)

        return run(main())

    def test_the_right_certificates_are_enough(self, tls: EtcdServer, certificates: Path) -> None:
        name = "client" if tls.name == "tls-mutual" else ""  # a CA alone checks the server
        assert self.create(self.client(tls, certificates, "ca.pem", name)) == Lease(A, ME)

    @pytest.mark.parametrize(("ca", "name"), [("bad-ca.pem", "client"), ("", "client")])
    def test_an_untrusted_server_is_refused_with_the_reason(
        self, tls: EtcdServer, certificates: Path, ca: str, name: str
    ) -> None:
        why = self.refused(self.client(tls, certificates, ca, name))
        assert isinstance(why, StoreDenied)
        assert re.search(r"TLS: we refuse .*(self-signed|unable to get).*trusted CAs", str(why))

    @pytest.mark.parametrize("name", ["", "bad"])
    def test_a_client_that_the_server_does_not_know_is_refused(
        self, tls: EtcdServer, certificates: Path, name: str
    ) -> None:
        if tls.name != "tls-mutual":
            assert self.create(self.client(tls, certificates, "ca.pem", name)) == Lease(A, ME)
            return
        why = self.refused(self.client(tls, certificates, "ca.pem", name))
        assert isinstance(why, StoreDenied)
        refusal = "refuses our certificate .*/bad.pem: " if name else "wants a certificate of this"
        assert re.search(f"TLS: it {refusal}", str(why))

    def test_a_member_with_a_bad_certificate_is_skipped(
        self, tls: EtcdServer, certificates: Path, tmp_path: Path
    ) -> None:
        other = EtcdServer(tmp_path, "other", scheme="https")
        other.start(
            flags=[
                f"--cert-file={certificates / 'bad.pem'}",
                f"--key-file={certificates / 'bad-key.pem'}",
            ]
        )
        other.wait_ready()
        self.create(self.client(tls, certificates, "ca.pem", "client"))
        store = store_at(
            other.url,
            tls.url,
            cafile=certificates / "ca.pem",
            certfile=certificates / "client.pem",
            keyfile=certificates / "client-key.pem",
        )
        try:
            assert run(store.find(A)) == Lease(A, ME)
        finally:
            other.stop()

    @pytest.mark.usefixtures("patience")
    def test_a_password_is_accepted_and_never_printed(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = EtcdServer(tmp_path)
        server.start()
        server.wait_ready()
        caplog.set_level(logging.DEBUG)
        secret = "s3cret-w0rd"

        def etcdctl(*arguments: str) -> None:
            subprocess.run(
                [
                    "etcdctl",
                    f"--endpoints={server.url}",
                    "--timeout=100s",
                    "--total-timeout=100s",
                    *arguments,
                ],
                env={**os.environ, "ETCDCTL_API": "2"},
                check=True,
                capture_output=True,
            )

        try:
            etcdctl("user", "add", f"root:{secret}")
            etcdctl("auth", "enable")
            etcdctl("-u", f"root:{secret}", "role", "revoke", "guest", "-path", "/*", "-readwrite")
            right = store_at(server.url, username="root", password=secret)
            assert run(right.create(A, ME, 100)) == Lease(A, ME)
            for wrong in (
                store_at(server.url, username="root", password=secret + "x"),
                store_at(server.url),
            ):
                with pytest.raises(StoreDenied, match="user name or password refused") as error:
                    run(wrong.create(B, ME, 100))
                assert secret not in str(error.value)
            assert secret not in caplog.text
        finally:
            server.stop()
