"""Reads the URL of an UmaDB server, and keeps its API key to itself.

Rules: an option that there is not is refused by name. The key is in no message, no repr and no
name. Off this machine the connection is encrypted, unless the URL says less by name. Nothing is
connected or resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

import msgspec

from ...errors import DefinitionError
from ...runtime.secret import Secret
from ..contract.hosts import is_this_machine

__all__ = ["SCHEME", "Address", "read_address"]

SCHEME: Final = "umadb"

_OPTIONS: Final = ("tls", "ca", "allow", "patience", "lease")
_PLACE: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})/?")
_SECONDS: Final = re.compile(r"[0-9]{1,3}")
_PORTS: Final = 1 << 16
LEASE_MAX: Final = 250
"""Seconds; they stand in one byte of the log's register."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says: where the server is, how it is spoken to, and for how long it is waited."""

    place: str
    """Host and port."""
    key: Secret | None = None
    tls: bool = False
    ca: str | None = None
    """The file of the certificate that signs the server's; None for those that the system knows."""
    patience_seconds: float = 30.0
    """How long a server that has gone is waited for."""
    lease_seconds: int = 9
    """How long an engine that has gone keeps the log from the next one."""

    @property
    def name(self) -> str:
        """What people call the store: its URL without the key and the options."""
        return f"{SCHEME}://{self.place}"

    @property
    def url(self) -> str:
        """What the client is given."""
        return f"{'https' if self.tls else 'http'}://{self.place}"

    def __repr__(self) -> str:
        """Show the name only."""
        return f"Address({self.name!r})"


def read_address(url: str) -> Address:
    """Read `umadb://KEY@HOST:PORT?lease=SECONDS`; raise DefinitionError for what it cannot mean."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    key, _, place = place.rpartition("@")
    found = _PLACE.fullmatch(place)
    if scheme != SCHEME or found is None or not 0 < int(found["port"]) < _PORTS:
        raise _refused("write umadb://HOST:PORT, or umadb://KEY@HOST:PORT with an API key")
    options = _options(query)
    is_local = is_this_machine(found["host"].strip("[]"))
    tls = options.get("tls", "off" if is_local else "on")
    if tls not in ("on", "off"):
        raise _refused("tls takes on or off")
    if tls == "off" and key:
        raise _refused("its API key is sent over TLS only: add tls=on, or take the key away")
    if tls == "off" and not is_local and options.get("allow") != "plaintext":
        raise _refused(
            "it leaves this machine without encryption: take tls=off away, or add allow=plaintext "
            "if whoever reads the network may read and change everything"
        )
    return Address(
        place=place.rstrip("/"),
        key=Secret(unquote(key)) if key else None,
        tls=tls == "on",
        ca=options.get("ca"),
        patience_seconds=_seconds(options, "patience", 30),
        lease_seconds=_seconds(options, "lease", 9),
    )


def _options(query: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, _, value = part.partition("=")
        if name not in _OPTIONS:
            shown = repr(name) if re.fullmatch(r"[a-z_]{1,30}", name) else "a part of it"
            raise _refused(f"{shown} is none of the options that there are: {', '.join(_OPTIONS)}")
        if not value or name in found:
            raise _refused(f"the option {name} has no value, or is given twice")
        if name == "allow" and value != "plaintext":
            raise _refused("allow takes plaintext, and nothing else")
        found[name] = unquote(value)
    return found


def _seconds(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not _SECONDS.fullmatch(text) or not 1 <= int(text) <= LEASE_MAX:
        raise _refused(f"{name} takes whole seconds from 1 to {LEASE_MAX}")
    return int(text)


def _refused(why: str) -> DefinitionError:
    # Nothing of the URL is shown: what cannot be read may have its key anywhere.
    return DefinitionError(f"the URL of an UmaDB store is refused: {why}. Nothing was made")
