"""Whose page a request comes from, as far as its browser says: nobody else's may read or act.

Rules: a browser lets a page of any site send requests to a server on this machine, and says with
each whose it is. Who names no host of ours has got here by a name that somebody made lead here
(DNS rebinding), and is answered nothing. What acts comes from a page of our own, or from no page.
What no browser sent has no such headers and passes: this is no authentication.
"""

from __future__ import annotations

import re
from collections.abc import Collection, MutableMapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeAlias

__all__ = ["Refusal", "is_ours", "refusal_of"]

Scope: TypeAlias = MutableMapping[str, Any]
Refusal: TypeAlias = tuple[int, str, str]
"""The status, the code and what to say."""

_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN: Final = re.compile(r"(https?)://(.+)")
_READS: Final = ("GET", "HEAD", "OPTIONS")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""What a form can send, of another site's page too, without being asked."""

_WRONG_HOST: Final = (
    421,
    "wrong-host",
    "this server does not go by the name that the request has; who runs it can add the name",
)
_OTHER_SITE: Final = (
    403,
    "other-site",
    "this request comes from a page of another site, which may not send it",
)
_FORM: Final = (415, "not-json", "send a body with Content-Type: application/json, and no form")


def refusal_of(
    scope: Scope, hosts: Collection[str], origins: Collection[str], *, forms: bool
) -> Refusal | None:
    """Say why a request is refused, or give None where it passes.

    `hosts` are names that the server goes by, besides those of `is_ours`; `origins` other sites
    whose pages may do all; `forms` whether a form's body may be sent.
    """
    named = [_host_of(value) for value in _values(scope, b"host")]
    if len(named) != 1 or named[0] is None:
        return 400, "bad-host", "send one Host header with a name or an address"
    name, port = named[0]
    if name not in hosts and "*" not in hosts and not is_ours(name, scope):
        return _WRONG_HOST
    acts = scope["type"] == "websocket" or scope.get("method") not in _READS
    if _is_of_another_site(scope, (name, port), origins, acts=acts):
        return _OTHER_SITE
    if acts and scope["type"] == "http" and not forms and _has_a_forms_body(scope):
        return _FORM
    return None


def is_ours(name: str, scope: Scope) -> bool:
    """Tell whether a host is one that nobody else can make lead here.

    This machine by its own names; the address at which the request came in; and a name without a
    dot, which is the own network's, since nobody can register one.
    """
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    if address is None:
        return "." not in name
    if address.is_loopback or address.is_unspecified:
        return True
    server = scope.get("server") or ("", None)
    return _address(str(server[0])) == address


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _values(scope: Scope, name: bytes) -> Sequence[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def _host_of(text: str) -> tuple[str, str | None] | None:
    """Give name and port of a Host header; a port that is usual is none."""
    found = _HOST.fullmatch(text.lower())
    if found is None:
        return None
    port = found[2]
    return found[1].removesuffix("."), None if port in ("80", "443") else port


def _is_of_another_site(
    scope: Scope, host: tuple[str, str | None], origins: Collection[str], *, acts: bool
) -> bool:
    sent = _values(scope, b"origin")
    if sent:
        return not all(origin in origins or _origin_host(origin) == host for origin in sent)
    sites = _values(scope, b"sec-fetch-site")
    if all(site in ("same-origin", "none") for site in sites):
        return False
    # A link from elsewhere may be followed, into a window of its own.
    leads_here = _values(scope, b"sec-fetch-mode") == ["navigate"]
    inside = any(kind != "document" for kind in _values(scope, b"sec-fetch-dest"))
    return acts or not leads_here or inside


def _origin_host(origin: str) -> tuple[str, str | None] | None:
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None:
        return None  # "null", or no page of the web
    return _host_of(found[2])


def _has_a_forms_body(scope: Scope) -> bool:
    kinds = _values(scope, b"content-type")
    return any(kind.partition(";")[0].strip().lower() in _FORMS for kind in kinds)
