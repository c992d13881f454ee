"""Certificates of trustme in files."""

from pathlib import Path

import trustme


def write_pair(issued: trustme.LeafCert, certificate: Path, key: Path) -> None:
    """Write a certificate and its private key into two files."""
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
