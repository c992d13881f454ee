"""Options: how etcd is reached, and that no secret is shown."""

import stat
from pathlib import Path

import pytest
from typed_options import SECRET, refusal, typed

from flannel.options.table import parse


def files(directory: Path, *names: str) -> list[str]:
    for name in names:
        (directory / name).touch(mode=0o600)
    return [str(directory / name) for name in names]


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("http://a:1, HTTP://B:02/", ("http://a:1", "http://b:2")),
        ("http://a:1,http://a:1/", ("http://a:1",)),
        ("http://etcd-1.example.com", ("http://etcd-1.example.com:80",)),
        ("https://10.0.0.1", ("https://10.0.0.1:443",)),
        ("http://[FD00::1]:2379", ("http://[fd00::1]:2379",)),
    ],
)
def test_endpoints_get_one_form(text: str, endpoints: tuple[str, ...]) -> None:
    assert typed(f"-etcd-endpoints={text}").etcd.endpoints == endpoints


def test_the_root_can_be_the_prefix() -> None:
    assert typed("-etcd-prefix=/").etcd.prefix == ""


def test_tls_is_configured_with_a_ca_alone_or_with_a_client_certificate(tmp_path: Path) -> None:
    ca, cert, key = files(tmp_path, "ca", "cert", "key")
    https = ("-etcd-endpoints=https://a:2379", f"-etcd-cafile={ca}")
    assert typed(*https).etcd.cafile == Path(ca)
    both = typed(*https, f"-etcd-certfile={cert}", f"-etcd-keyfile={key}")
    assert (both.etcd.certfile, both.etcd.keyfile) == (Path(cert), Path(key))
    assert both.warnings == ()


@pytest.mark.parametrize(("given", "other"), [("certfile", "keyfile"), ("keyfile", "certfile")])
def test_certificate_and_key_need_each_other(tmp_path: Path, given: str, other: str) -> None:
    [path] = files(tmp_path, "file")
    why = f": it needs -etcd-{other} as well"
    assert refusal(f"-etcd-{given}={path}") == f"cannot use -etcd-{given}{why}"
    variable = f"FLANNELD_ETCD_{given.upper()}"
    assert refusal(**{variable: path}) == f"cannot use {variable}{why}"


def test_tls_files_with_http_are_warned_of(tmp_path: Path) -> None:
    [ca] = files(tmp_path, "ca")
    [warning] = typed(f"-etcd-cafile={ca}").warnings
    assert "TLS is not used" in warning
    assert ca in warning


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    cert, key = files(tmp_path, "cert", "key")
    Path(key).write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    text = refusal(f"-etcd-certfile={cert}", f"-etcd-keyfile={key}")
    assert text.startswith(f"cannot use -etcd-keyfile: '{key}' is encrypted with a passphrase, ")


def test_a_key_that_everybody_can_read_is_warned_of(tmp_path: Path) -> None:
    cert, key = files(tmp_path, "cert", "key")
    Path(key).chmod(0o640 | stat.S_IROTH)
    argv = ("-etcd-endpoints=https://a:1", f"-etcd-certfile={cert}", f"-etcd-keyfile={key}")
    [warning] = typed(*argv).warnings
    assert "can read the private key" in warning


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (["-etcd-password", "my", SECRET], {}),
        ([f"-etcd-passwort={SECRET}"], {}),
        ([f"-etcd-password={SECRET}", "-v=x"], {}),
        ([f"-etcd-endpoints=http://me:x,{SECRET}@a:1"], {}),
        ([], {"FLANNELD_ETCD_ENDPOINTS": f"https://me:{SECRET}@a:1,http://b:1"}),
        (["-v=x"], {"FLANNELD_ETCD_PASSWORD": SECRET}),
        ([], {"FLANNELD_ETCD_PASSWORD": SECRET}),
    ],
)
def test_no_refusal_shows_a_password(argv: list[str], environ: dict[str, str]) -> None:
    assert SECRET not in refusal(*argv, **environ)


def test_nothing_else_shows_the_password() -> None:
    options = typed("-etcd-username=me", f"-etcd-password={SECRET}", "-ip-masq")
    assert options.etcd.password == SECRET
    assert SECRET not in repr(options)
    assert SECRET not in "".join(options.warnings)


def test_a_password_is_warned_of_on_the_command_line_and_not_in_its_variable() -> None:
    [warning] = typed("-etcd-username=me", f"-etcd-password={SECRET}").warnings
    assert "FLANNELD_ETCD_PASSWORD" in warning
    assert parse(["-etcd-username=me"], {"FLANNELD_ETCD_PASSWORD": SECRET}).warnings == ()
