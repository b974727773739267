"""The shop's pages: the live one, and the one that shows the OpenAPI document.

Rules: the pages are the files in the folder beside this one, sent as they are. What comes from the
shop reaches them as JSON, and becomes text there. They may load nothing from anywhere else and run
no script but their own, whatever somebody gets written into the shop. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.integrations.asgi import not_modified

__all__ = ["PAGE", "page_routes", "paths"]

PAGE: Final = Path(__file__).parent / "static"

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Kept, and asked for again: a page and its script are always of one release.
    "Cache-Control": "no-cache",
}

TYPES: Final = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
PAGES: Final = {"index.html": "/", "api.html": "/docs"}


def paths() -> dict[str, Path]:
    """Give the file that is sent at each path."""
    files = sorted(path for path in PAGE.iterdir() if path.suffix in TYPES)
    return {PAGES.get(file.name, f"/static/{file.name}"): file for file in files}


def page_routes() -> Sequence[Route]:
    """Give the routes of the pages and of what they are made of."""
    return [Route(path, _file(file, TYPES[file.suffix])) for path, file in paths().items()]


def _file(path: Path, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    """Give the endpoint of one file, which is read once."""
    content = path.read_bytes()
    tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
    headers = {**HEADERS, "ETag": tag, "Content-Type": f"{media_type}; charset=utf-8"}

    async def send(request: Request) -> Response:
        if not_modified(request.headers, tag):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    return send
