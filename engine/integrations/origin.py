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

__all__ = ["Refusal", "is_ours", "names_of", "origins_of", "refusal_of"]

Scope: TypeAlias = MutableMapping[str, Any]
Refusal: TypeAlias = tuple[int, str, str]
"""The status, the code and what to say."""
Host: TypeAlias = tuple[str, str | None]
"""A name and a port, None for a usual one."""

_HOST: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_PORT: Final = re.compile(r":[0-9]*\Z")
_ORIGIN: Final = re.compile(r"(https?)://(.+)")
_SITE: Final = re.compile(
    r"[a-zA-Z][a-zA-Z0-9+.-]*://(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(:[0-9]+)?"
)
_READS: Final = ("GET", "HEAD", "OPTIONS")
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""What a form can send, of another site's page too, without being asked."""

_OTHER_SITE_MEND: Final = (
    "this request comes from a page of another site, which may not send it; who runs the server "
    "adds the site to the origins of its OriginMiddleware, if it may, or has the proxy before it "
    "pass the Host header on as it came"
)
_OTHER_SITE: Final = (403, "other-site", _OTHER_SITE_MEND)
_FORM: Final = (415, "not-json", "send a body with Content-Type: application/json, and no form")


def names_of(hosts: Collection[str]) -> frozenset[str]:
    """Give the names of `hosts` as requests have them: in lower case, addresses in one form.

    Raises TypeError for one text instead of a list, ValueError for what can be no name.
    """
    _refuse_one_text(hosts, "hosts", "shop.example")
    return frozenset("*" if host == "*" else _name_given(host) for host in hosts)


def origins_of(origins: Collection[str]) -> frozenset[str]:
    """Give the origins as browsers send them; raises as `names_of` does."""
    _refuse_one_text(origins, "origins", "https://shop.example")
    return frozenset(map(_origin_given, origins))


def _refuse_one_text(given: Collection[str], what: str, example: str) -> None:
    if isinstance(given, str | bytes):
        raise TypeError(f'{what} is a list of texts, as {what}=["{example}"], and no single text')


def _name_given(host: str) -> str:
    text = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
    found = _host_of(text)
    if found is None or _PORT.search(text):
        raise ValueError(
            f"{host!r} is no name that a Host header can have: give it without scheme, port and "
            'path, as "shop.example" (its xn-- form where it is not ASCII), or "*" behind a proxy '
            "that checks the names"
        )
    return found[0]


def _origin_given(origin: str) -> str:
    if not _SITE.fullmatch(origin):
        raise ValueError(
            f"{origin!r} is no origin of a page: give scheme, name, and the port where it is not "
            'the usual one, as "https://shop.example", without a path; each site by itself'
        )
    return origin.lower()


def refusal_of(
    scope: Scope, hosts: Collection[str], origins: Collection[str], *, forms: bool
) -> Refusal | None:
    """Say why a request is refused, or give None where it passes.

    `hosts` are names that the server goes by, besides those of `is_ours`, as of `names_of`;
    `origins` other sites whose pages may do all; `forms` whether a form's body may be sent.
    """
    named = [_host_of(value) for value in _values(scope, b"host")]
    if not named and scope.get("http_version") == "1.0":
        named = [("", None)]  # a health check: browsers speak 1.1, and name a host
    if len(named) != 1 or named[0] is None:
        return 400, "bad-host", "send one Host header with a name or an address"
    name, port = named[0]
    if name and name not in hosts and "*" not in hosts and not is_ours(name):
        return _wrong_host(name)
    acts = scope["type"] == "websocket" or scope.get("method") not in _READS
    if _is_of_another_site(scope, (name, port), hosts, origins, acts=acts):
        return _OTHER_SITE
    if acts and scope["type"] == "http" and not forms and _has_a_forms_body(scope):
        return _FORM
    return None


def is_ours(name: str) -> bool:
    """Tell whether a host is one that nobody else can make lead here.

    This machine by its own names; an address, which no name server gives another meaning (behind
    a container's port it is not the one at which the request comes in); and a name without a dot,
    which is the own network's, since nobody can register one.
    """
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return "." not in name or _address(name) is not None


def _wrong_host(name: str) -> Refusal:
    # It has the characters of a host only, and is what has to be added.
    detail = (
        f"this server does not go by the name {name}: who runs it adds the name to the hosts of "
        f'its OriginMiddleware, as hosts=["{name}"], if it is one of its own'
    )
    return 421, "wrong-host", detail


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _values(scope: Scope, name: bytes) -> Sequence[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def _host_of(text: str) -> Host | None:
    """Give name and port of a Host header; a port that is usual is none."""
    found = _HOST.fullmatch(text.lower())
    if found is None:
        return None
    port = found[2]
    name, address = found[1].removesuffix("."), _address(found[1])
    if address is not None and address.version == 6:
        name = f"[{address.compressed}]"  # it has many spellings
    return name, None if port in ("80", "443") else port


def _is_of_another_site(
    scope: Scope,
    host: Host,
    hosts: Collection[str],
    origins: Collection[str],
    *,
    acts: bool,
) -> bool:
    sites = _values(scope, b"sec-fetch-site")
    if sites == ["same-origin"]:
        return False  # no page can write it, and a proxy may have given the request another Host
    sent = _values(scope, b"origin")
    if sent:
        return not all(_is_our_page(origin.lower(), host, hosts, origins) for origin in sent)
    if all(site in ("same-origin", "none") for site in sites):
        return False
    # A link from elsewhere may be followed, into a window of its own.
    leads_here = _values(scope, b"sec-fetch-mode") == ["navigate"]
    inside = any(kind != "document" for kind in _values(scope, b"sec-fetch-dest"))
    return acts or not leads_here or inside


def _is_our_page(origin: str, host: Host, hosts: Collection[str], origins: Collection[str]) -> bool:
    if origin in origins:
        return True
    page = _origin_host(origin)
    # Behind a proxy that names another Host, the page has the name that the world knows.
    return page is not None and (page == host or (page[0] in hosts and page[1] is None))


def _origin_host(origin: str) -> Host | None:
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        return None  # "null", or no page of the web
    return _host_of(found[2])


def _has_a_forms_body(scope: Scope) -> bool:
    kinds = _values(scope, b"content-type")
    return any(kind.partition(";")[0].strip().lower() in _FORMS for kind in kinds)
