"""A text that nothing shows: the password in an address.

Rules: it is in no repr, log or pickle. Whoever connects asks for it by name.
"""

from __future__ import annotations

__all__ = ["Secret"]


class Secret:
    """A text that nothing shows; `revealed` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        """Show that there is one."""
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        """Compare the texts."""
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        """Give the hash of the text."""
        return hash(self._text)

    def __reduce__(self) -> str:
        """Refuse to be pickled: a dump would show it."""
        raise TypeError("a password is not pickled")

    @property
    def revealed(self) -> str:
        """The text itself, for whoever connects."""
        return self._text
