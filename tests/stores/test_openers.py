"""The code of a store in a server is imported when its URL is opened, and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.stores.contract.opener import Opener, OpenerOfTables
from engine.stores.dynamodb import opener as dynamodb
from engine.stores.postgres import opener as postgres
from engine.stores.umadb import opener as umadb
from engine.stores.umadb.address import read_address
from engine.stores.umadb.store import UmadbStore
from engine.stores.urls import open_backend, open_url

OPENERS: tuple[Opener, ...] = (postgres, umadb, dynamodb)
OF_TABLES: OpenerOfTables = postgres
_LOADED = "sorted(n for n in sys.modules if n.startswith('engine.stores.') and n.count('.') == 2)"


def loaded_after(program: str) -> str:
    """Give which rooms of stores a new interpreter has loaded."""
    code = f"import sys, engine\n{program}\nprint({_LOADED})"
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_an_application_on_a_file_loads_no_code_of_servers(tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path / 'shop.db'}"
    loaded = loaded_after(f"engine.Engine(aggregates=[], store={store!r})")
    assert "engine.stores.sqlite" in loaded
    for room in ("postgres", "umadb", "dynamodb", "leased"):
        assert f"engine.stores.{room}'" not in loaded


def test_a_url_of_a_server_loads_the_code_of_that_one_alone() -> None:
    loaded = loaded_after(
        "import engine.stores.urls as urls; urls.open_url('postgresql://me@localhost/shop')"
    )
    assert "engine.stores.postgres'" in loaded
    assert "engine.stores.umadb'" not in loaded
    assert "engine.stores.dynamodb'" not in loaded


def test_a_store_that_was_made_by_hand_is_opened_as_its_url_is() -> None:
    class Own(UmadbStore):
        """A user's own, of another module."""

    by_hand = open_backend(Own(read_address("umadb://127.0.0.1:1")), "memory:")
    by_url = open_backend("umadb://127.0.0.1:1", "memory:")
    assert (by_hand.name, type(by_hand)) == (by_url.name, type(by_url))


@pytest.mark.parametrize("opener", OPENERS, ids=["postgres", "umadb", "dynamodb"])
def test_an_opener_gives_no_backend_for_a_store_of_another_kind(opener: Opener) -> None:
    assert opener.open_backend(open_url("memory:"), None) is None
