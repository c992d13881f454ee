"""The reason why TLS with an endpoint fails: which side refuses which certificate, and why.

    why_tls_failed(error, files)    # "it refuses our certificate /etc/flannel/host.pem: unknown ca"

`error` is what ssl or urllib3 raised, without their wrappers. There are three kinds: the server
sends an alert, because of our certificate; we do not accept its certificate; our own files cannot
be used. OpenSSL's texts for the third kind name neither file nor reason, so the files are loaded
once more, one by one.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from flannel.printable import printable

_ALERTS = ("TLSV1_ALERT_", "TLSV13_ALERT_", "SSLV3_ALERT_")
"""What OpenSSL's reasons begin with where the server has sent an alert (RFC 8446, 6)."""
_ABOUT_CERTIFICATES = (
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "UNSUPPORTED_CERTIFICATE",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
    "DECRYPT_ERROR",
)
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons where the first bytes of the server are no TLS record."""
_PASSPHRASE = "it is encrypted with a passphrase, and nobody can be asked"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Our files; None where there is none.

    :ivar cafile: the certificates that the server's must derive from; None: those of the system.
    """

    cafile: Path | None
    certfile: Path | None
    keyfile: Path | None


def why_tls_failed(error: object, files: TlsFiles) -> str:
    """The reason, for messages."""
    reason = str(getattr(error, "reason", None) or "")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"we refuse its certificate: {_lower(error.verify_message)}{_trusted(error, files)}"
    for start in _ALERTS:
        if reason.startswith(start):
            return _why_refused(reason.removeprefix(start), files)
    misfit = find_misfit(files)
    if misfit:
        return misfit
    if reason in _NOT_TLS:
        return "what listens there speaks no TLS: is the endpoint http?"
    return _lower(reason.replace("_", " ")) or "no TLS"


def _why_refused(alert: str, files: TlsFiles) -> str:
    text = alert.lower().replace("_", " ")
    if alert not in _ABOUT_CERTIFICATES:
        return f"it refuses us: {text}"
    if files.certfile is None:
        return f"it wants a certificate of this host, and -etcd-certfile is not set: {text}"
    return f"it refuses our certificate {printable(str(files.certfile))}: {text}"


def _trusted(error: ssl.SSLCertVerificationError, files: TlsFiles) -> str:
    """The CAs that we trust, if the certificate derives from none of them."""
    # X509_verify_cert_error_string(3): 2, 18 to 21 are about the issuer.
    if error.verify_code not in (2, 18, 19, 20, 21):
        return ""
    cas = printable(str(files.cafile)) if files.cafile else "the CAs of this system"
    return f" (trusted CAs: {cas})"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


class _Encrypted(Exception):
    """OpenSSL wants a passphrase."""


def find_misfit(files: TlsFiles) -> str:
    """Why our own files cannot be used, with the name of the file; "" if they can."""
    return _misfit_of_ca(files.cafile) or _misfit_of_pair(files.certfile, files.keyfile)


def _misfit_of_ca(cafile: Path | None) -> str:
    if cafile is None:
        return ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile)
    except ssl.SSLError:
        return f"cannot use {printable(str(cafile))}: there is no certificate in it"
    except OSError as why:
        return f"cannot read {printable(str(cafile))}: {why.strerror}"
    return ""


def _misfit_of_pair(certfile: Path | None, keyfile: Path | None) -> str:
    if certfile is None or keyfile is None:
        return ""
    cert, key = printable(str(certfile)), printable(str(keyfile))
    for path in (certfile, keyfile):
        try:
            path.open("rb").close()
        except OSError as why:  # of ssl's errors it is not known which file they mean
            return f"cannot read {printable(str(path))}: {why.strerror}"

    def refuse() -> str:
        raise _Encrypted

    try:
        # The callback keeps OpenSSL from asking at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certfile, keyfile, refuse)
    except _Encrypted:
        return f"cannot use {key}: {_PASSPHRASE}"
    except ssl.SSLError as why:
        if why.reason == "KEY_VALUES_MISMATCH":
            return f"cannot use {key}: it is not the key of the certificate in {cert}"
        return _misfit_of_part(certfile, keyfile)
    except OSError as why:  # it was removed since
        return f"cannot read {cert} and {key}: {why.strerror}"
    return ""


def _misfit_of_part(certfile: Path, keyfile: Path) -> str:
    """Which of the two is no PEM file of its kind."""
    # A file with a certificate is a list of CAs as well.
    if _misfit_of_ca(certfile):
        return f"cannot use {printable(str(certfile))}: there is no certificate in it"
    return f"cannot use {printable(str(keyfile))}: there is no private key in it"
