"""Certificates for servers in tests, each signed by itself."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certify(folder: Path, name: str, place: str, *, signs: bool = True) -> Path:
    """Make a key and a certificate that signs itself, for a server at a place.

    Some clients take none from a server that could sign others.
    """
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    files = ("-keyout", str(key), "-out", str(certificate))
    subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={place}")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    ends = () if signs else ("-addext", "basicConstraints=critical,CA:FALSE")
    command = ["openssl", "req", "-x509", "-nodes", "-days", "2", *kind, *subject, *ends, *files]
    subprocess.run(command, check=True, capture_output=True)
    return certificate
