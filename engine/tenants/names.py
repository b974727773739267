"""Names of tenants, and the store that each has: a file of a folder, or a schema of a database.

Rules: a name is of small letters, digits, `-` and `_`, so that no name leads out of the folder, and
no two names to one store on any file system. There is no dot in it, so that none is the name of
another tenant's views. What is no name is refused before anything is looked for.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Final

from ..errors import DefinitionError, InvalidInput
from ..model.given import shown
from ..runtime.ports import Ports
from ..stores.urls import open_database

__all__ = ["DatabaseStores", "FolderStores", "check_name", "stores_of"]

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_SCHEMA_LENGTH_MAX: Final = 48
_ENDING: Final = ".db"
_BEGINNING: Final = "t_"
"""Of the schema of each tenant."""
OPEN_MAX: Final = 200
CONNECTIONS: Final = 8
"""That an engine with its log and its views in a server has at most: each takes five, and more with
projections and queries."""


def check_name(name: object) -> str:
    """Give a name as it is, or raise InvalidInput."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise InvalidInput(
        "the name of a tenant is 1 to 40 small letters, digits, '-' and '_', and begins with a "
        "letter or a digit: nothing was opened"
    )


class FolderStores:
    """A file for each tenant."""

    patience_seconds = 0.0
    """How long a store that is away is waited for."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        self.folder = Path(fspath(folder)).absolute()
        if "?" in str(self.folder):
            raise DefinitionError(f"folder={shown(folder)}: a '?' in a path begins an option")

    def url(self, name: str) -> str:
        """Give the store of a tenant."""
        return f"sqlite:{self.folder / (name + _ENDING)}"

    def prepare(self) -> None:
        """Make the folder, if it is not there. It blocks."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def open_max(self, asked: int, logger: logging.Logger) -> int:  # noqa: ARG002
        """Give how many engines may be open at once: as the host asked, if it did."""
        return asked or OPEN_MAX

    def close(self) -> None:
        """Do nothing: no file is kept open."""

    def is_there(self, name: str) -> bool:
        """Tell whether a tenant has a store. It blocks."""
        return (self.folder / (name + _ENDING)).exists()

    def names(self) -> Mapping[str, object]:
        """Give the names of all tenants, sorted, each with what changes with its file.

        It blocks.
        """
        found: dict[str, list[tuple[int, int]]] = {}
        for path in sorted(self.folder.glob(f"*{_ENDING}")):
            if _NAME.fullmatch(name := path.name.removesuffix(_ENDING)):
                found[name] = [_stamp(path), _stamp(path.with_name(f"{path.name}-wal"))]
        return found


class DatabaseStores:
    """A schema for each tenant, in one database of a PostgreSQL server."""

    def __init__(self, url: str, ports: Ports) -> None:
        if "schema=" in url:
            raise DefinitionError("database= names no schema: each tenant has its own")
        self._url = url
        self._database = open_database(url, ports)
        self.patience_seconds = self._database.patience_seconds

    def url(self, name: str) -> str:
        """Give the store of a tenant; raise InvalidInput where its name is too long for a schema.

        No two names have one schema: `_` is never alone in it.
        """
        schema = _schema_of(name)
        if len(schema) > _SCHEMA_LENGTH_MAX:
            raise InvalidInput(
                f"the name of this tenant makes a schema of {len(schema)} characters, and "
                f"{_SCHEMA_LENGTH_MAX} are possible: nothing was opened"
            )
        return f"{self._url}{'&' if '?' in self._url else '?'}schema={schema}"

    def prepare(self) -> None:
        """Do nothing: an engine makes its schema."""

    def open_max(self, asked: int, logger: logging.Logger) -> int:
        """Give how many engines may be open at once: as the host asked, if it did.

        Else as many as there are connections for. It blocks. Raises StoreFailed or StoreRefused.
        """
        connections = self._database.connections_max()
        room = max(1, connections // CONNECTIONS)
        if asked > room:
            text = (
                "open_max=%d tenants may want %d connections each, and the server gives %d in all: "
                "tenants could not be opened, and lose their leases. Write open_max=%d, or raise "
                "max_connections there"
            )
            logger.warning(text, asked, CONNECTIONS, connections, room)
        return asked or min(OPEN_MAX, room)

    def is_there(self, name: str) -> bool:
        """Tell whether a tenant has a store. It blocks. Raises StoreFailed or StoreRefused."""
        schema = _schema_of(name)
        return schema in self._database.logs(schema)

    def names(self) -> Mapping[str, object]:
        """Give the names of all tenants, sorted, each with what changes with its timers.

        It blocks. Raises StoreFailed or StoreRefused.
        """
        found: dict[str, object] = {}
        for schema, changes in self._database.logs(_BEGINNING).items():
            name = schema.removeprefix(_BEGINNING).replace("_d", "-").replace("_u", "_")
            if _NAME.fullmatch(name) and _schema_of(name) == schema:
                found[name] = changes
        return dict(sorted(found.items()))

    def close(self) -> None:
        """Ask the server nothing more."""
        self._database.close()


def _stamp(path: Path) -> tuple[int, int]:
    """Give when a file was written last, and its size; zeros for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _schema_of(name: str) -> str:
    return _BEGINNING + name.replace("_", "_u").replace("-", "_d")


def stores_of(
    folder: str | PathLike[str] | None, database: str | None, ports: Ports
) -> FolderStores | DatabaseStores:
    """Give where tenants are kept; raise DefinitionError unless exactly one place is given."""
    if (folder is None) == (database is None):
        raise DefinitionError("give Tenants either folder= or database=")
    if database is not None:
        return DatabaseStores(database, ports)
    assert folder is not None, "one of them is given"
    return FolderStores(folder)
