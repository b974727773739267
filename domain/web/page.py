"""The shop as a page that changes by itself: what waits to be shipped, and what sells best.

Rules: the page is three files beside this one, sent as they are. What comes from the shop reaches
it as JSON, over one stream of server-sent events, and becomes text there. It may load nothing from
anywhere else and run no script but its own, whatever somebody gets written into the shop. Nothing
is decided here.
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

__all__ = ["page_routes"]

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

FILES: Final = (
    ("/", "index.html", "text/html"),
    ("/live.css", "live.css", "text/css"),
    ("/live.js", "live.js", "text/javascript"),
)


def page_routes() -> Sequence[Route]:
    """Give the routes of the page and of what it is made of."""
    return [Route(path, _file(PAGE / name, media_type)) for path, name, media_type in FILES]


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
