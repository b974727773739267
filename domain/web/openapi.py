"""The shop's endpoints as one table, which makes both the routes and their OpenAPI document.

Rules: an endpoint that is not in the table has no route, and none is described that is not there.
Schemas are made of the structs that read the bodies and are sent, so that none can say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.routing import Route

__all__ = ["Endpoint", "Parameter", "document", "route_of"]


class Parameter(msgspec.Struct, frozen=True):
    """What an endpoint takes in its query string or its headers."""

    name: str
    about: str
    where: str = "query"
    type: str = "string"
    required: bool = False


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    method: str
    path: str
    handler: Callable[[Request], Awaitable[Any]]
    """Its docstring's first line is what the document says of it."""
    group: str
    body: Any = None
    """The struct that a client sends."""
    body_required: bool = True
    answer: Any = None
    """The struct that is sent; None for an answer without a body."""
    status: int = 200
    media_type: str = "application/json"
    parameters: Sequence[Parameter] = ()
    refusals: Sequence[int] = ()


class Problem(msgspec.Struct, frozen=True):
    """Why a request was refused, as RFC 9457 tells it."""

    type: str
    title: str
    status: int
    code: str
    """For programs; stays the same."""
    detail: str
    """For people."""
    resend: str
    """Whether the same request may be sent again."""


REFUSALS: Final[Mapping[int, str]] = {
    400: "A header is missing, repeated or malformed.",
    403: "It may not be done: by a page of another site, or by who asks.",
    404: "There is no such thing.",
    409: "A rule of the shop refuses it; `code` says which.",
    412: "It has another version than `If-Match` names.",
    422: "The request breaks a rule of its form; `detail` says which.",
    503: "The shop cannot now; `Retry-After` says when to ask again.",
}


def route_of(endpoint: Endpoint) -> Route:
    """Give the route of an endpoint."""
    return Route(endpoint.path, endpoint.handler, methods=[endpoint.method])


def document(endpoints: Sequence[Endpoint], title: str, version: str) -> dict[str, Any]:
    """Give the OpenAPI document."""
    structs = [e.body for e in endpoints if e.body] + [e.answer for e in endpoints if e.answer]
    _, components = msgspec.json.schema_components(
        [*structs, Problem], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    lines = (endpoint.handler.__doc__ or "").strip().splitlines()
    names = re.findall(r"\{(\w+)\}", endpoint.path)
    in_path = [Parameter(name, name.replace("_", " "), "path", required=True) for name in names]
    operation: dict[str, Any] = {
        "summary": lines[0].rstrip(".") if lines else endpoint.path,
        "operationId": re.sub(r"\W+", "_", endpoint.method.lower() + endpoint.path).strip("_"),
        "tags": [endpoint.group],
        "parameters": [_parameter(p) for p in (*in_path, *endpoint.parameters)],
        "responses": _responses(endpoint),
    }
    if endpoint.body is not None:
        content = {"application/json": {"schema": _reference(endpoint.body)}}
        operation["requestBody"] = {"required": endpoint.body_required, "content": content}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "required": parameter.required,
        "description": parameter.about,
        "schema": {"type": parameter.type},
    }


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    done: dict[str, Any] = {"description": "Done." if endpoint.method != "GET" else "Found."}
    if endpoint.answer is not None:
        done["content"] = {endpoint.media_type: {"schema": _reference(endpoint.answer)}}
    problem = {"application/problem+json": {"schema": _reference(Problem)}}
    refusals = {
        str(status): {"description": REFUSALS[status], "content": problem}
        for status in endpoint.refusals
    }
    return {str(endpoint.status): done, **refusals}


def _reference(struct: Any) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{struct.__name__}"}
