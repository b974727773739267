"""What `help` says of a struct: its docstring, and below it the text that stands beside each field.

Rules: the text beside a field is the only place where the field is explained. It is read out of the
source when somebody asks for it, and never before. Without a source the docstring stands alone.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from typing import Any, SupportsIndex

__all__ = ["explain"]


def explain(cls: type) -> None:
    """Let `help` and `inspect.getdoc` of a class tell what its fields are."""
    explained = _Explained(inspect.cleandoc(cls.__doc__ or ""))
    explained.cls = cls
    type.__setattr__(cls, "__doc__", explained)


class _Explained(str):
    """The docstring of a class, to which its fields are added when it is read."""

    cls: type

    def __get__(self, instance: object, owner: type | None = None) -> str:
        try:
            fields = "\n".join(_fields_of(self.cls))
        except (OSError, TypeError, SyntaxError):
            return str(self)
        return f"{self}\n\nFields:\n\n{fields}" if fields else str(self)

    def expandtabs(self, tabsize: SupportsIndex = 8) -> str:
        """Be read by `help`, which takes this object out of the class, and then cleans it."""
        return self.__get__(None).expandtabs(tabsize)


def _fields_of(cls: type) -> Iterator[str]:
    """Give each field as it is declared, and under it the text that stands there."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(declared, ast.ClassDef)
    for field, below in zip(declared.body, [*declared.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        yield ast.unparse(field)
        text: Any = below.value if isinstance(below, ast.Expr) else None
        if isinstance(text, ast.Constant):
            yield textwrap.indent(inspect.cleandoc(str(text.value)), "    ")
