"""Certificates of TLS: read again where their files have changed, and advice where one is refused.

Rules: a server shows what its files have now. Files that cannot be read, as while somebody writes
them, change nothing: what was read before is shown, and a warning says so. Nothing here connects.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any, Final

__all__ = ["ServerCertificate", "refusal_of"]

_NOT_YET: Final = 9
_EXPIRED: Final = 10
_MISMATCHES: Final = (62, 64)
"""Of a name, and of an IP address; these are numbers of OpenSSL (X509_V_ERR_...)."""


def refusal_of(error: ssl.SSLCertVerificationError, host: str, otherwise: str) -> str:
    """Say why a server's certificate is refused, and what to do; `otherwise` for who signs it."""
    why = f"does not prove who it is ({error.verify_message})"
    if error.verify_code == _EXPIRED:
        return f"{why}: renew its certificate there"
    if error.verify_code == _NOT_YET:
        return f"{why}: set the clocks of both machines"
    if error.verify_code in _MISMATCHES:
        return f"{why}: give it a certificate for {host}, or call it by a name that its own has"
    return f"{why}: {otherwise}"


class ServerCertificate:
    """The certificate and key that a server shows."""

    def __init__(self, certificate: str, key: str | None, logger: logging.Logger) -> None:
        """Read both; raise OSError where they cannot be."""
        self._files = certificate, key
        self._logger = logger
        self._seen = self._looked()
        self._newest = self._read()
        self.context = self._read()
        """For a server; each handshake takes the newest."""
        self.context.sni_callback = self._hello

    def _hello(self, tls: Any, _name: object, _context: ssl.SSLContext) -> None:
        """Let a handshake go on with what the files have; asked of each, with a name or without."""
        looked = self._looked()
        if looked != self._seen:
            self._seen = looked
            try:
                self._newest = self._read()
            except OSError as error:
                self._logger.warning(
                    "the certificate in %s has changed and cannot be read (%s): members are shown "
                    "the former one. Put a certificate and its key there",
                    self._files[0],
                    error.strerror or type(error).__name__,
                )
        tls.context = self._newest

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self._files, password="")  # else OpenSSL asks the terminal
        return context

    def _looked(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(path) for path in self._files if path is not None]


def _state_of(path: str) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
