"""What MkDocs calls while it builds the site (`hooks:` in mkdocs.yml).

Rules: whatever is written is written into memory or into a folder of this build, never into the
checkout. The package is shown as `foldline`, its name where it is installed; its folder here is
`engine/`.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]  # mkdocs loads this file by its path, outside of any package

from docs.generate import (  # noqa: E402
    api,
    commands,
    console,
    errors,
    limits,
    metrics,
    mutants,
    navigation,
)

_installed = tempfile.TemporaryDirectory(prefix="foldline-site-")
(Path(_installed.name) / "foldline").symlink_to(ROOT / "engine", target_is_directory=True)

_ROOT_PAGES: Final = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "AGENTS.md": "agents.md",
    "LICENSE": "LICENSE.txt",
}
"""Files of the root that are pages of the site as well."""


@event_priority(100)  # before mkdocstrings reads where the package lies
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set where the package lies, and the navigation."""
    settings: Any = config  # its attributes are found by descriptors that have no types
    settings.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [_installed.name]
    nav: list[dict[str, str]] = settings.nav
    settings.nav = [_expanded(title, place) for entry in nav for title, place in entry.items()]
    return config


def _expanded(title: str, place: str) -> dict[str, Any]:
    if not place.endswith("/"):
        return {title: place}
    return {title: navigation.entries(place, (ROOT / "docs" / place / "index.md").read_text())}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated."""
    for name, page in _ROOT_PAGES.items():
        files.append(File.generated(config, page, content=_rooted((ROOT / name).read_text())))
    for page, text in api.pages(ROOT / "engine"):
        files.append(File.generated(config, page, content=text))
    return files


GENERATED: Final[dict[str, Callable[[], str]]] = {
    "commands": commands.sections,
    "console": console.tables,
    "errors": errors.tables,
    "limits": lambda: limits.tables(ROOT / "engine"),
    "metrics": metrics.tables,
    "mutants": lambda: mutants.tables(ROOT / "docs" / "reference" / "promises.md"),
}
"""What a page has in place of `<!-- generated: NAME -->`."""


_BOOSTS: Final = {
    "howto/": 3.0,
    "tutorial/": 1.5,
    "reference/api/": 1.0,
    "reference/mutants": 0.2,
    "reference/": 2.5,
    "changelog": 0.2,
}
"""How much more, or less, a page counts in a search than others: who searches has a question."""


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Put generated parts where a page asks for them, and say how much it counts in a search."""
    boosts = [boost for start, boost in _BOOSTS.items() if page.file.src_uri.startswith(start)]
    page.meta.setdefault("search", {"boost": boosts[0] if boosts else 1.0})
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), markdown)


def _rooted(text: str) -> str:
    """Let links of a file of the root lead where they lead from inside docs/."""
    text = re.sub(r"\]\((?:\./)?docs/", "](", text)
    text = re.sub(r'(src|srcset)="docs/', r'\1="', text)
    for name, page in _ROOT_PAGES.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text
