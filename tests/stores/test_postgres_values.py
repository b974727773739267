"""What PostgreSQL gives and takes, made what SQLite gives and takes: numbers, names, texts."""

from __future__ import annotations

from decimal import Decimal

import pytest

from engine import DefinitionError, Event, Projection, Row, Table, projects
from engine.stores.postgres.views.books import kept, shown
from engine.stores.postgres.views.names import (
    NAME_BYTES_MAX,
    check_names,
    name_of_further,
    real_name,
)
from engine.stores.postgres.views.values import values_of


class Seen(Event, name="seen"):
    id: str


class Line(Row, key="id"):
    id: str


class Long(Projection, name="n" * 60, version=1):
    rows: Table[Line]

    @projects
    def seen(self, event: Seen) -> None:
        self.rows.put(Line(event.id))


def test_sums_of_whole_numbers_are_whole_and_others_are_floats() -> None:
    given = (Decimal(54016130), Decimal("1E+3"), Decimal("2.50"), None, "5", True)
    (found,) = values_of([given])

    assert found == (54016130, 1000, 2.5, None, "5", True)
    assert [type(value) for value in found[:3]] == [int, int, float]


def test_a_name_that_the_server_would_cut_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"of 65 bytes: PostgreSQL cuts names at 63"):
        check_names(Long.__definition__)


def test_a_name_that_the_server_has_for_itself_is_refused() -> None:
    class Place(Row, key="id"):
        id: str
        ctid: str

    class Places(Projection, name="places", version=1):
        rows: Table[Place]

        @projects
        def seen(self, event: Seen) -> None:
            self.rows.put(Place(event.id, ""))

    with pytest.raises(DefinitionError, match="ctid, a column of PostgreSQL's own in each table"):
        check_names(Places.__definition__)


def test_builds_of_a_long_name_have_names_of_their_own() -> None:
    table = "n" * 63
    reals = {
        real_name(table, 1, "a"),
        real_name(table, 2, "a"),
        real_name(table, 1, "b"),
        real_name(table + "m", 1, "a"),
    }
    further = {name_of_further(real, word) for real in reals for word in ("w" * 80, "w" * 81)}

    assert (len(reals), len(further)) == (4, 8)
    assert all(len(name.encode()) <= NAME_BYTES_MAX for name in reals | further)


@pytest.mark.parametrize("text", ["", "a", "\0", "\1", "a\0\1\0b", "\1\1", "\1\2", "\0\2"])
def test_a_text_with_a_nul_is_kept_without_one_and_comes_back(text: str) -> None:
    assert "\0" not in kept(text)
    assert shown(kept(text)) == text
