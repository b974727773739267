"""Conditions of a request, as RFC 9110 has them: lists of entity tags, weak ones, and `*`.

Rules: what is read is compared as its header says: `If-None-Match` weakly, so that a proxy that
compresses may make a tag weak, and `If-Match` strongly. What is malformed is told from what does
not match. Nothing is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from .bad_request import BadRequest
from .headers import Headers

__all__ = ["asks_for_current", "check_match", "expected_version", "not_modified"]

_VERSION_TAG: Final = re.compile(r'"([0-9]{1,18})"')
_TAG: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


class Tags(msgspec.Struct, frozen=True):
    """What a header names."""

    any: bool
    """Whether it is `*`: whatever there is."""
    strong: Sequence[str] = ()
    weak: Sequence[str] = ()


def tags_of(headers: Headers, name: str) -> Tags | None:
    """Give what a header names, or None where it is not there; raise ValueError where malformed."""
    # Of a header that comes twice some frameworks show all, and it is one list.
    several = getattr(headers, "getlist", None)
    found: list[str] = several(name) if several is not None else [headers.get(name) or ""]
    if not found or (several is None and name not in headers):
        return None
    text = ",".join(found).strip(" \t")
    if text == "*":
        return Tags(any=True)
    strong: list[str] = []
    weak: list[str] = []
    place = 0
    while place < len(text):
        tag = _TAG.match(text, place)
        if tag is None:
            raise ValueError(f"{name} is no list of entity tags")
        (weak if tag[1] else strong).append(tag[2])
        rest = text[tag.end() :].lstrip(" \t")
        if rest and not rest.startswith(","):
            raise ValueError(f"{name} is no list of entity tags")
        place = len(text) - len(rest.lstrip(", \t"))
    if not strong and not weak:
        raise ValueError(f"{name} names nothing")
    return Tags(any=False, strong=strong, weak=weak)


def matches(tags: Tags, current: str | None) -> bool:
    """Tell whether `If-Match` holds of the opaque tag of what there is, None where nothing is."""
    return current is not None and (tags.any or current in tags.strong)


def none_matches(tags: Tags, current: str | None) -> bool:
    """Tell whether `If-None-Match` holds: that none of them is what there is."""
    return current is None or not (tags.any or current in tags.strong or current in tags.weak)


def expected_version(
    headers: Headers, *, required: bool = False, current: int | None = None
) -> int | None:
    """Give the version that `If-Match: "3"` or `If-None-Match: *` (none yet, 0) asks for.

    All other forms (lists, weak tags, `*`) need the `current` version, 0 where there is nothing:
    ask `asks_for_current`. Where they hold of it, it is the version that is given, so that
    a change between is found. Raises BadRequest: 400 for a malformed one, or another form without
    `current`; 412 where it does not hold; 428 for a missing one if `required`.
    """
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if match is not None and none_match is not None:
        raise BadRequest(400, "bad-precondition", "send If-Match or If-None-Match, and not both")
    if match is None and none_match is None:
        if required:
            raise BadRequest(428, "precondition-required", "send If-Match with the ETag you read")
        return None
    if (simple := _simple_version(match, none_match)) is not None:
        return simple
    name = "if-none-match" if match is None else "if-match"
    tags = _tags(headers, name)
    if tags is None or current is None:
        raise BadRequest(
            400, "bad-precondition", "If-Match names one strong ETag that was read here"
        )
    there = str(current) if current else None
    if not (matches if name == "if-match" else none_matches)(tags, there):
        raise _not_fulfilled()
    return current


def asks_for_current(headers: Headers) -> bool:
    """Say whether `expected_version` needs the current version: no single tag is named."""
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    there = match is not None or none_match is not None
    return there and _simple_version(match, none_match) is None


def check_match(headers: Headers, tag: str) -> None:
    """Raise BadRequest where a GET has an `If-Match` that does not hold of this ETag: 412."""
    tags = _tags(headers, "if-match")
    if tags is not None and not matches(tags, _opaque(tag)):
        raise _not_fulfilled()


def not_modified(headers: Headers, tag: str) -> bool:
    """Say whether a GET is answered with 304: its `If-None-Match` has this ETag, in any form.

    A malformed one is taken for none, so that the client gets the whole answer.
    """
    try:
        tags = tags_of(headers, "if-none-match")
    except ValueError:
        return False
    return tags is not None and not none_matches(tags, _opaque(tag))


def _simple_version(match: str | None, none_match: str | None) -> int | None:
    if none_match is not None:
        return 0 if none_match.strip() == "*" else None
    found = _VERSION_TAG.fullmatch((match or "").strip())
    return None if found is None else int(found[1])


def _tags(headers: Headers, name: str) -> Tags | None:
    try:
        return tags_of(headers, name)
    except ValueError:
        raise BadRequest(
            400, "bad-precondition", f"{name} is * or a list of ETags in quotes"
        ) from None


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")[1:-1]


def _not_fulfilled() -> BadRequest:
    detail = "the version is not one that the request names: read again, then decide"
    return BadRequest(412, "wrong-version", detail)
