"""Reads the URL of a table in DynamoDB.

Rules: an option that there is not is refused by name. Credentials are no part of it: the client
finds them as AWS's own tools do. Off this machine the connection is encrypted, unless the URL says
less by name. Nothing is connected or resolved here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from ...errors import DefinitionError
from ..contract.hosts import is_this_machine

__all__ = ["SCHEME", "Address", "read_address"]

SCHEME: Final = "dynamodb"

_OPTIONS: Final = ("endpoint", "create", "allow", "patience", "lease")
_REGION: Final = r"(?P<region>[a-z]{2}(-[a-z]+)+-[0-9]{1,2})"
_PLACE: Final = re.compile(_REGION + r"/(?P<table>[A-Za-z0-9_.-]{3,255})")
_HOST: Final = r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
_ENDPOINT: Final = re.compile(r"(?P<scheme>https?)://" + _HOST + "/?")
_PORTS: Final = 1 << 16
_SECONDS: Final = re.compile(r"[0-9]{1,3}")
_SECONDS_MAX: Final = 250


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL says: which table, where, and for how long it is waited."""

    region: str
    table: str
    endpoint: str | None = None
    """Where the service is; None for the one of the region."""
    creates: bool = False
    """Whether a table that is missing is made."""
    patience_seconds: float = 30.0
    """How long a service that has gone is waited for."""
    lease_seconds: int = 9
    """How long an engine that has gone keeps the log from the next one."""

    @property
    def name(self) -> str:
        """What people call the store: its URL without the options."""
        return f"{SCHEME}://{self.region}/{self.table}"


def read_address(url: str) -> Address:
    """Read `dynamodb://REGION/TABLE?lease=SECONDS`; raise DefinitionError for what it is not."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    found = _PLACE.fullmatch(place)
    if "@" in place:
        raise _refused("credentials are no part of it: give them as AWS's own tools take them")
    if scheme != SCHEME or found is None:
        raise _refused("write dynamodb://REGION/TABLE, as in dynamodb://eu-west-1/bank")
    options = _options(query)
    endpoint = options.get("endpoint")
    if endpoint is not None:
        _check_endpoint(endpoint, is_allowed="allow" in options)
    return Address(
        region=found["region"],
        table=found["table"],
        endpoint=endpoint,
        creates="create" in options,
        patience_seconds=_seconds(options, "patience", 30),
        lease_seconds=_seconds(options, "lease", 9),
    )


def _check_endpoint(endpoint: str, *, is_allowed: bool) -> None:
    if "@" in endpoint:
        raise _refused("credentials are no part of it: give them as AWS's own tools take them")
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not 0 < int(found["port"] or 443) < _PORTS:
        raise _refused("endpoint takes http://HOST:PORT or https://HOST, and nothing behind it")
    is_here = is_this_machine(found["host"].strip("[]"))
    if found["scheme"] == "http" and not is_here and not is_allowed:
        raise _refused(
            "it leaves this machine without encryption: give an endpoint with https, or add "
            "allow=plaintext if whoever reads the network may read and change everything"
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
        if name == "create" and value != "table":
            raise _refused("create takes table, and nothing else")
        found[name] = value
    return found


def _seconds(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not _SECONDS.fullmatch(text) or not 1 <= int(text) <= _SECONDS_MAX:
        raise _refused(f"{name} takes whole seconds from 1 to {_SECONDS_MAX}")
    return int(text)


def _refused(why: str) -> DefinitionError:
    # Nothing of the URL is shown: what cannot be read may have a secret anywhere.
    return DefinitionError(f"the URL of a DynamoDB store is refused: {why}. Nothing was made")
