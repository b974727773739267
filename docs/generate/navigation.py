"""The navigation of one kind of page: what the index.md of its folder lists, in that order.

Rules: each line `- [Title](page.md)` of the index is an entry, and each `## Heading` above such
lines is a section. A page that no index lists is an error of the build.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

__all__ = ["entries"]

_ENTRY = re.compile(r"^(?:## (?P<section>.+)|- \[(?P<title>[^]]+)\]\((?P<page>[^)#:]+\.md)\).*)$")


def entries(folder: str, index: str) -> list[Any]:
    """Give the navigation of a folder (`howto/`) from the text of its index."""
    pages: list[Any] = [f"{folder}index.md"]
    section: list[Any] | None = None
    for line in index.splitlines():
        found = _ENTRY.match(line)
        if found is None:
            continue
        if title := found["section"]:
            section = []
            pages.append({title: section})
        else:
            target = pages if section is None else section
            target.append({found["title"]: posixpath.normpath(folder + found["page"])})
    return [entry for entry in pages if isinstance(entry, str) or [] not in entry.values()]
