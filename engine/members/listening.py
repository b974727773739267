"""Reads where an owner is met by members of other machines: `listen="tcp://..."`, or "nats://...".

Rules: off this machine nobody is spoken to without TLS, and nobody is heard without the token.
A slip is refused, with nothing of the token in what is said. Nothing is opened here.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote

import msgspec

from ..brokers.address import Address, read_address
from ..brokers.client import check_installed
from ..errors import DefinitionError
from ..runtime.secret import Secret

__all__ = ["Listen", "ListenOnNats", "is_this_machine", "read_listen"]

TOKEN_CHARACTERS_MIN: Final = 16
_URL: Final = re.compile(
    r"tcp://(?::(?P<token>[^@/?#]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})"
    r"(?:\?(?P<options>[^#]*))?"
)
_OPTIONS: Final = ("sslcert", "sslkey", "sslrootcert", "advertise")
_OF_NATS: Final = re.compile(r"(nats|tls)://[^?#]*(?:\?(?P<options>[^#]*))?")
_OPTIONS_OF_NATS: Final = ("token", "sslrootcert")
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")
_PORTS: Final = 1 << 16
_EVERYWHERE: Final = ("0.0.0.0", "::")  # noqa: S104 - refused unless a name is given beside it


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """What such a URL says."""

    host: str
    port: int
    """0 for any that is free."""
    token: Secret | None
    """What each process shows to the owner that it joins."""
    sslcert: str | None
    sslkey: str | None
    sslrootcert: str | None
    """What signs the certificates of owners; None for those that the system trusts."""
    advertise: str
    """The name or the address by which others find this machine."""

    def __repr__(self) -> str:
        """Show where, and nothing of the token."""
        return f"Listen({self.host!r}, {self.port})"


class ListenOnNats(msgspec.Struct, frozen=True, kw_only=True):
    """What such a URL says, where members and owners meet on a NATS server."""

    address: Address
    token: Secret | None
    """What each process proves to the other that it has."""
    sslrootcert: str | None
    """What signs the certificate of the server; None for those that the system trusts."""

    def __repr__(self) -> str:
        """Show where, and nothing of the token."""
        return f"ListenOnNats({str(self.address)!r})"

    def tls(self) -> ssl.SSLContext | None:
        """Give what encrypts the connection, where it is to be; raise OSError for a wrong file."""
        root = self.sslrootcert
        return self.address.tls(None if root is None else ssl.create_default_context(cafile=root))


def read_listen(url: object) -> Listen | ListenOnNats:
    """Read such a URL; raise DefinitionError for what it cannot mean, or for what is not safe.

    `tcp://:TOKEN@HOST:PORT?sslcert=FILE&sslkey=FILE&sslrootcert=FILE&advertise=NAME`, or
    `tls://USER:PASSWORD@HOST:PORT?token=TOKEN&sslrootcert=FILE` of a NATS server. On loopback the
    token and the options may be left out, and the second may be `nats://`.
    """
    of_nats = _OF_NATS.fullmatch(url) if isinstance(url, str) else None
    return _read_tcp(url) if of_nats is None else _read_nats(of_nats)


def _read_nats(found: re.Match[str]) -> ListenOnNats:
    options = _options(found["options"], _OPTIONS_OF_NATS)
    address = read_address(found[0].partition("?")[0], ["plaintext"])
    check_installed(address)
    token = options.get("token")
    _check_token(token)
    local = all(is_this_machine(host) for host, _ in address.hosts)
    if not local and (token is None or not address.is_encrypted):
        raise _refused(
            "others than this machine can reach that NATS server: write tls://, and give a token "
            "by token="
        )
    return ListenOnNats(
        address=address,
        token=None if token is None else Secret(token),
        sslrootcert=options.get("sslrootcert"),
    )


def _check_token(token: str | None) -> None:
    if token is not None and len(token) < TOKEN_CHARACTERS_MIN:
        raise _refused(f"its token has fewer than {TOKEN_CHARACTERS_MIN} characters")


def _read_tcp(url: object) -> Listen:
    found = _URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        raise _refused(
            'write "tcp://:TOKEN@HOST:PORT?sslcert=FILE&sslkey=FILE", or "tls://HOST?token=TOKEN" '
            "of a NATS server"
        )
    host, port = found["host"].strip("[]"), int(found["port"])
    options = _options(found["options"], _OPTIONS)
    if port >= _PORTS:
        raise _refused("its port is no number from 0 to 65535")
    token = unquote(found["token"]) if found["token"] else None
    _check_token(token)
    if ("sslcert" in options) != ("sslkey" in options):
        raise _refused("sslcert and sslkey are given together or not at all")
    advertise = options.get("advertise", host).strip("[]")
    if advertise in _EVERYWHERE or not _HOST.fullmatch(advertise):
        raise _refused("add advertise=NAME, the name or the address by which others find it")
    local = is_this_machine(host) and is_this_machine(advertise)
    if not local and (token is None or "sslcert" not in options):
        raise _refused(
            "others than this machine can reach it there: give it a token, and a certificate by "
            "sslcert= and sslkey="
        )
    return Listen(
        host=host,
        port=port,
        token=None if token is None else Secret(token),
        sslcert=options.get("sslcert"),
        sslkey=options.get("sslkey"),
        sslrootcert=options.get("sslrootcert"),
        advertise=advertise,
    )


def is_this_machine(host: str) -> bool:
    """Tell whether what is sent to a host stays on this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _options(text: str | None, known: tuple[str, ...]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in text.split("&") if text else ():
        name, _, value = part.partition("=")
        if name not in known:
            raise _refused(f"its options are {', '.join(known)}, and one of them is another")
        if not value or name in found:
            raise _refused(f"its option {name} is empty or given twice")
        found[name] = unquote(value)
    return found


def _refused(why: str) -> DefinitionError:
    # Nothing of the URL is shown: its token may stand anywhere in it.
    return DefinitionError(f"listen= is refused: {why}. Nothing was made")
