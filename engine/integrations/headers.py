"""The headers of a request, in whatever class a framework has them."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Headers"]


class Headers(Protocol):
    """Headers that are found whatever their case, or a mapping that has them in lower case.

    Starlette's, Litestar's, Django's and Flask's are such, and so is a dict.
    """

    def get(self, key: str, /) -> Any:
        """Give the text of a header, or None where it is not there."""
        ...

    def __contains__(self, key: str, /) -> bool:
        """Tell whether a header is there."""
        ...
