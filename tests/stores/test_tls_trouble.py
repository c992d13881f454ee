"""What a failed handshake is called: real handshakes in memory, of real certificates."""

import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from certificates import write_pair

from flannel.stores.tls_trouble import TlsFiles, find_misfit, why_tls_failed

YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    good, bad = trustme.CA(), trustme.CA()
    good.cert_pem.write_to_path(str(directory / "ca"))
    bad.cert_pem.write_to_path(str(directory / "bad-ca"))
    for name, issued in (
        ("server", good.issue_cert("etcd.example")),
        ("expired", good.issue_cert("etcd.example", not_after=YESTERDAY)),
        ("host", good.issue_cert("host.example")),
        ("stranger", bad.issue_cert("host.example")),
    ):
        write_pair(issued, directory / name, directory / f"{name}.key")
    (directory / "junk").write_text("junk\n")
    subprocess.run(
        ["openssl", "pkey", "-in", directory / "host.key", "-aes256", "-passout", "pass:x",
         "-out", directory / "locked.key"],
        check=True,
    )  # fmt: skip
    return directory


def failure(
    files: Path,
    *,
    ca: str = "ca",
    own: str = "",
    server: str = "server",
    name: str = "etcd.example",
) -> Exception:
    """What ssl raises at a client with these files, of a server that wants a certificate."""
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.load_verify_locations(files / ca)
    if own:
        ours.load_cert_chain(files / own, files / f"{own}.key")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(files / server, files / f"{server}.key")
    theirs.load_verify_locations(files / "ca")
    theirs.verify_mode = ssl.CERT_REQUIRED
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = theirs.wrap_bio(up, down, server_side=True)
    return _outcome(ours.wrap_bio(down, up, server_hostname=name), there)


def _outcome(here: ssl.SSLObject, there: ssl.SSLObject) -> Exception:
    def one(step: Callable[[], object]) -> Exception | None:
        try:
            step()
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as error:
            return error
        return None

    for _ in range(4):
        error = one(here.do_handshake)
        one(there.do_handshake)
        if error:
            return error
    error = one(lambda: here.read(1))  # TLS 1.3: the server looks at our certificate afterwards
    assert error is not None
    return error


def test_a_certificate_of_ours_that_the_server_refuses_is_named(files: Path) -> None:
    known = TlsFiles(files / "ca", files / "stranger", files / "stranger.key")
    why = why_tls_failed(failure(files, own="stranger"), known)
    assert why == f"it refuses our certificate {files}/stranger: unknown ca"


def test_a_server_that_wants_a_certificate_is_distinguished_from_one_that_refuses_it(
    files: Path,
) -> None:
    why = why_tls_failed(failure(files), TlsFiles(files / "ca", None, None))
    assert why.startswith("it wants a certificate of this host, and -etcd-certfile is not set: ")


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ({"ca": "bad-ca"},
         "self-signed certificate in certificate chain (trusted CAs: {files}/bad-ca)"),
        ({"server": "expired"}, "certificate has expired"),
        ({"name": "other.example"},
         "hostname mismatch, certificate is not valid for 'other.example'."),
    ],
)  # fmt: skip
def test_a_refused_certificate_of_the_server_is_distinguished_from_ours(
    files: Path, which: dict[str, str], why: str
) -> None:
    known = TlsFiles(files / which.get("ca", "ca"), files / "host", files / "host.key")
    text = why_tls_failed(failure(files, own="host", **which), known)
    assert text == f"we refuse its certificate: {why.format(files=files)}"


def test_an_unknown_issuer_without_a_ca_file_is_unknown_to_this_system(files: Path) -> None:
    text = why_tls_failed(failure(files, ca="bad-ca"), TlsFiles(None, None, None))
    assert text.endswith("(trusted CAs: the CAs of this system)")


def test_a_server_without_tls_is_named(files: Path) -> None:
    down = ssl.MemoryBIO()
    down.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client = ssl.create_default_context().wrap_bio(down, ssl.MemoryBIO(), server_hostname="x")
    with pytest.raises(ssl.SSLError) as raised:
        client.do_handshake()
    why = why_tls_failed(raised.value, TlsFiles(files / "ca", None, None))
    assert why == "what listens there speaks no TLS: is the endpoint http?"


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("ca", "host", "host.key"), ""),
        (("", "host", "host.key"), ""),
        (("ca", "", ""), ""),
        (("junk", "host", "host.key"), "use {files}/junk: there is no certificate in it"),
        (("gone", "host", "host.key"), "read {files}/gone: No such file or directory"),
        (("ca", "junk", "host.key"), "use {files}/junk: there is no certificate in it"),
        (("ca", "host", "junk"), "use {files}/junk: there is no private key in it"),
        (("ca", "host", "gone"), "read {files}/gone: No such file or directory"),
        (("ca", "host", "server.key"),
         "use {files}/server.key: it is not the key of the certificate in {files}/host"),
        (("ca", "host", "locked.key"),
         "use {files}/locked.key: it is encrypted with a passphrase, and nobody can be asked"),
    ],
)  # fmt: skip
def test_the_file_of_ours_that_cannot_be_used_is_named(
    files: Path, names: tuple[str, str, str], why: str
) -> None:
    ca, cert, key = (files / name if name else None for name in names)
    text = find_misfit(TlsFiles(ca, cert, key))
    assert text == (f"cannot {why.format(files=files)}" if why else "")
    if why:  # whatever OpenSSL calls it
        assert why_tls_failed(ssl.SSLError(1, "[SSL] PEM lib"), TlsFiles(ca, cert, key)) == text
