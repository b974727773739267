"""Reads what names a store, its URL or its path, and gives what it opens.

Rules: whatever takes the name of a store reads it here. A name that nobody gives a file, and that a
slip makes (an option that there is not, a space or a line end behind it, quotes, too many slashes),
is refused: it would else be the name of a new and empty log. A path is looked for from the folder
where the process is at that moment, wherever it goes later and however often it is opened. Nothing
is made or opened here.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from functools import partial
from importlib import import_module
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from ..errors import DefinitionError
from ..runtime.ports import Ports
from .contract.backend import Backend
from .contract.keys import KeyStore
from .contract.log import Store
from .contract.opener import MakeViews, Opener, OpenerOfTables
from .contract.tables import Database, Tables
from .memory import MemoryStore
from .own import OwnBackend, views_in_memory
from .sqlite.backend import SqliteBackend
from .sqlite.files import beside, files_of
from .sqlite.keys import SqliteKeys
from .sqlite.lock_files import absolute, exists
from .sqlite.log.store import SqliteStore
from .sqlite.outside.tables import SqliteTables
from .sqlite.process.store import SqliteProcessStore
from .sqlite.views.store import SqliteViews

__all__ = [
    "StoreName",
    "backend_of_text",
    "backends",
    "key_stores",
    "open_backend",
    "open_database",
    "open_keys",
    "open_store",
    "open_tables",
    "open_url",
    "path_of_text",
    "sql_of_schema",
    "store_of_text",
]

StoreName: TypeAlias = str | PathLike[str]
"""A URL, or the path of a log's file."""

_WRITERS: Final = {"thread": SqliteStore, "process": SqliteProcessStore}
_OPTIONS: Final = (
    'the one option that there is: "?writer=thread" (as without it) or "?writer=process"'
)
_ROOMS: Final = {
    "postgresql": "postgres",
    "postgres": "postgres",
    "umadb": "umadb",
    "dynamodb": "dynamodb",
}
"""Schemes of servers, and the folder of each, which is imported when its URL is opened."""
_WITH_TABLES: Final = "postgres"
_SLASHES_TO_THE_ROOT: Final = 3
_SCHEME: Final = re.compile(r"(sqlite|file|memory):", re.IGNORECASE)
_URL: Final = re.compile(r"\s*([a-z][a-z0-9+.-]*://|(sqlite|file|memory):)", re.IGNORECASE)
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_STRAY_OPTION: Final = re.compile(r"[&;#,]\s*\w+=")
_PASSWORD: Final = re.compile(r"//.*@")
_OWN_VIEWS: Final = (
    "views= goes with a store in a server only: other stores know where their views are"
)


def open_store(store: StoreName | Store) -> Store:
    """Give a store as it is, or that of a URL or a path; raise DefinitionError for others."""
    if isinstance(store, str | PathLike):
        return open_url(store)
    needed = ("open", "close", "append", "read_streams", "read_feed")
    given: Any = store
    if isinstance(given, type) or not all(callable(getattr(given, name, None)) for name in needed):
        raise DefinitionError(
            f"store= is a URL, a path or a store, and here it is {_kind_of(given)}: write "
            f'"sqlite:PATH", pathlib.Path("PATH"), "postgresql://...", "umadb://HOST:PORT", or '
            f'"memory:"'
        )
    return store


def open_url(url: StoreName) -> Store:
    """Give the store of a URL ("memory:", "sqlite:PATH", "postgresql://...") or of a path.

    "sqlite:shop.db" is in the current folder; "sqlite:/tmp/shop.db" and "sqlite:///tmp/shop.db" are
    the same file. With "?writer=process" behind it a process of its own writes the log;
    "?writer=thread" is what goes without saying. Raises DefinitionError for anything else.
    """
    if not isinstance(url, str):
        path: Any = fspath(url)
        if not isinstance(path, str):
            raise DefinitionError(f"the path of a store is text, and this is {path!r}")
        if "?" in path:
            raise _refused(url, f'a path has no options: write "sqlite:PATH", with {_OPTIONS}')
        return SqliteStore(_checked(url, path))
    if url == "memory:":
        return MemoryStore()
    if room := _room_of(url):
        return _opener(room).open_store(url)
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite" or not rest or rest == ":memory:":
        raise DefinitionError(
            f"the store {_shown(url)} is none that this release knows: write "
            f'"sqlite:PATH", "postgresql://USER@HOST/DATABASE", or "memory:" for a log that the '
            f"process keeps to itself"
        )
    path, mark, options = rest.partition("?")
    make = _WRITERS[_writer_of(url, options)] if mark else SqliteStore
    path = _without_slashes(url, path)
    if _ESCAPE.search(path.rpartition("/")[2]):
        raise _refused(url, "nothing is decoded in it: write the character itself")
    return make(_checked(url, path))


def open_backend(store: StoreName | Store, views: str | None = None) -> Backend:
    """Give what a URL, a path or a store opens; raise DefinitionError for anything else.

    `views` is the URL of the views where they are kept elsewhere than the store does by itself.
    """
    return backends(store, views)()


def backends(store: StoreName | Store, views: str | None = None) -> Callable[[], Backend]:
    """Give what does as `open_backend` at each call, for the files that are meant now.

    A process that takes a log over may be in another folder than it was in when it began.
    """
    first = open_store(store)
    again: Callable[[], Store] = partial(open_store, store)
    if isinstance(first, SqliteStore) and first is not store:
        again = partial(type(first), first.path)
    elsewhere = None
    if views is not None:
        if isinstance(first, SqliteStore | MemoryStore):
            raise DefinitionError(_OWN_VIEWS)
        elsewhere = _views_elsewhere(views)
    return lambda: _backend_of(again(), store, elsewhere)


def _backend_of(opened: Store, store: StoreName | Store, elsewhere: MakeViews | None) -> Backend:
    for room in dict.fromkeys(_ROOMS.values()):
        # A store of a room that nobody has imported is none of its kind.
        if f"{__package__}.{room}" in sys.modules:
            backend = _opener(room).open_backend(opened, elsewhere)
            if backend is not None:
                return backend
    if elsewhere is not None:
        raise DefinitionError(_OWN_VIEWS)
    if isinstance(opened, SqliteStore):
        return SqliteBackend(opened)
    return OwnBackend(opened, repr(store) if isinstance(store, str) else type(opened).__name__)


def key_stores(store: StoreName | Store, keys: str | KeyStore | None) -> Callable[[], KeyStore]:
    """Give what does as `open_keys` at each call, for the file that is meant now."""
    try:
        first = open_keys(store, keys)
    except DefinitionError:
        return partial(open_keys, store, keys)  # told where keys are needed
    if isinstance(first, SqliteKeys) and first is not keys:
        return first.another
    return partial(open_keys, store, keys) if isinstance(keys, str) else lambda: first


def open_keys(store: StoreName | Store, keys: str | KeyStore | None) -> KeyStore:
    """Give where the keys of a log's personal data are kept, not yet open.

    Without `keys` they are in a file beside a log in SQLite, and in memory beside one there. Raises
    DefinitionError for other logs without `keys`, and for what is none.
    """
    if keys is not None and not isinstance(keys, str):
        return keys
    if keys is not None:
        if _room_of(keys) == _WITH_TABLES:
            return _opener_of_tables().open_keys(keys)
        scheme, _, path = keys.partition(":")
        if scheme != "sqlite" or "?" in path:
            raise DefinitionError(
                f'keys= is "sqlite:PATH", "postgresql://..." or a KeyStore, and not '
                f"{_shown(keys)}: nothing was made"
            )
        return SqliteKeys(absolute(_checked(keys, _without_slashes(keys, path))))
    opened = open_store(store)
    if isinstance(opened, SqliteStore):
        return SqliteKeys(beside(opened.path, "keys"))
    if isinstance(opened, MemoryStore):
        return SqliteKeys(":memory:")
    raise DefinitionError(
        'events with personal fields need their keys in a place of their own: give keys="sqlite:'
        'PATH", or keys="postgresql://..." of another database. Every process of this log must '
        "reach it, and it is backed up apart"
    )


def _views_elsewhere(views: str | None) -> MakeViews | None:
    """Give what makes the views of a log that is not beside them."""
    if views is None:
        return None
    given: Any = views
    if not isinstance(given, str):
        raise DefinitionError(f"views= is a URL, and here it is {_kind_of(given)}")
    if given == "memory:":
        return lambda logger: views_in_memory(logger)
    scheme, _, path = given.partition(":")
    if scheme != "sqlite" or "?" in path:
        raise DefinitionError(
            f'views= is "sqlite:PATH" or "memory:", and not {_shown(views)}: nothing was made'
        )
    place = absolute(_checked(views, _without_slashes(views, path)))
    return lambda logger: SqliteViews(place, logger=logger)


def backend_of_text(text: str) -> Backend:
    """Give what a command is given: a path as a shell has it, or a store's URL."""
    if text.partition(":")[0] == "sqlite" or _room_of(text):
        return open_backend(text)
    return SqliteBackend(SqliteStore(path_of_text(text)))


def store_of_text(text: str) -> StoreName:
    """Give what `Engine(store=...)` takes for what a command is given."""
    if text.partition(":")[0] == "sqlite" or _room_of(text):
        return text
    return Path(path_of_text(text))


def path_of_text(text: str) -> str:
    """Give a path as a shell has it; raise DefinitionError for a URL, which would name a file."""
    if _URL.match(text):
        raise DefinitionError(
            f"{_shown(text)} is no path, and no URL that is known here: write a path, or for a log "
            f"sqlite:PATH or postgresql://USER@HOST/DATABASE. A file of that name is ./NAME"
        )
    if not text.strip("/"):
        raise DefinitionError(f"{text!r} names no file or folder")
    return text


def open_database(url: str, ports: Ports) -> Database:
    """Give a database that may have many logs, not yet connected to.

    Raises DefinitionError for a URL that names none in PostgreSQL.
    """
    if _room_of(url) != _WITH_TABLES:
        raise DefinitionError(
            f"the database {_shown(url)} is none that this release knows: write "
            f'"postgresql://USER@HOST/DATABASE"'
        )
    return _opener_of_tables().open_database(url, ports)


def open_tables(text: str, ports: Ports) -> Tables:
    """Give the tables of another program, in a SQLite file or a PostgreSQL server, not yet open.

    Raises DefinitionError for a URL that names neither.
    """
    if _room_of(text) == _WITH_TABLES:
        return _opener_of_tables().open_tables(text, ports)
    path = text.removeprefix("sqlite:")
    return SqliteTables(_checked(text, path), files_of(ports))


def sql_of_schema(url: str, *, since: int, role: str | None) -> str:
    """Give the SQL that makes what a log in PostgreSQL needs, or moves it on from a version.

    Without a version also what the views beside it need.

    With `role` also the rights of a role that engines connect as. Nothing is connected to. Raises
    DefinitionError for another store, and UsageError for a version or a role that there is not.
    """
    if _room_of(url) != _WITH_TABLES:
        raise DefinitionError(
            f"the store {_shown(url)} needs no SQL of people: this is for postgresql://..."
        )
    return _opener_of_tables().sql_of_schema(url, since=since, role=role)


# -- stores in servers ----------------------------------------------------------------------------


def _room_of(url: str) -> str | None:
    """Give the folder of the server that a URL names; None for another URL."""
    return _ROOMS.get(url.partition(":")[0])


def _opener(room: str) -> Opener:
    module: Any = import_module(f"{__package__}.{room}.opener")
    return cast("Opener", module)


def _opener_of_tables() -> OpenerOfTables:
    return cast("OpenerOfTables", _opener(_WITH_TABLES))


# -- reading strictly -----------------------------------------------------------------------------


def _writer_of(url: str, options: str) -> str:
    name, _, value = options.partition("=")
    if name != "writer" or value not in _WRITERS:
        raise _refused(url, f"{options!r} is not {_OPTIONS}")
    return value


def _without_slashes(url: str, path: str) -> str:
    """Give the path behind more than one slash, where there is only one that it can mean."""
    rest = path.lstrip("/")
    slashes = len(path) - len(rest)
    if slashes < _SLASHES_TO_THE_ROOT - 1:
        return path
    here = exists(rest) and absolute(rest) != f"/{rest}"
    if slashes < _SLASHES_TO_THE_ROOT or (
        slashes == _SLASHES_TO_THE_ROOT and ("/" not in rest or here)
    ):
        raise _refused(
            url,
            f'others read that many slashes in another way: write "sqlite:{rest}" for the current '
            f'folder, or "sqlite:/{rest}" from the root',
        )
    return f"/{rest}"


def _checked(url: StoreName, path: str) -> str:
    name = path.rpartition("/")[2]
    if name in ("", ".", ".."):
        raise _refused(url, "it names no file: name one in that folder, as in sqlite:shop.db")
    if _SCHEME.match(path):
        raise _refused(url, 'there is a second scheme in it: write "sqlite:PATH"')
    if any(map(_is_unseen, path)):
        raise _refused(url, "there is a line end in it, or another character that is not shown")
    if any(_is_stray(text[place]) for text in (path, name) for place in (0, -1)):
        raise _refused(url, "it begins or ends with a space, a quote or what is not shown")
    if _STRAY_OPTION.search(name):
        raise _refused(url, f"options stand behind one question mark; {_OPTIONS}")
    return path


def _is_unseen(character: str) -> bool:
    kind = unicodedata.category(character)
    # Two marks that are not shown stand in words of some languages, and change their letters.
    return kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character not in "\u200c\u200d")


def _is_stray(character: str) -> bool:
    return character in "\"'`" or unicodedata.category(character) in ("Cf", "Zs")


def _refused(url: StoreName, why: str) -> DefinitionError:
    return DefinitionError(f"the store {_shown(url)} is refused: {why}. Nothing was made")


def _shown(url: StoreName) -> str:
    return _PASSWORD.sub("//...@", repr(url))


def _kind_of(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}"
    return "None" if given is None else f"a {type(given).__name__}"
