"""A request that is wrong itself: its status, its code, and words that show nothing of its body."""

from __future__ import annotations

__all__ = ["BadRequest"]


class BadRequest(Exception):
    """The request itself is wrong; `status` is the HTTP status that says how."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        """Say what is wrong, in words that show nothing of the body."""
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail
