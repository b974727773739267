"""Messages: names, freezing, ids, receipts and their tokens."""

from __future__ import annotations

import msgspec
import pytest

from engine.errors import DefinitionError, UsageError
from engine.model.messages import Command, Event, Id, Meta, Query, Receipt, position_of


class BookOpened(Event, name="book-opened", version=2):
    title: str
    pages: int = 0


class OpenBook(Command):
    book_id: Id
    title: str


class GetHTTPBook(Query[str | None]):
    book_id: str


def test_an_event_keeps_its_stored_name_and_version_apart_from_its_class() -> None:
    assert (BookOpened.event_name, BookOpened.event_version) == ("book-opened", 2)


def test_a_command_without_a_name_is_named_after_its_class() -> None:
    class Renamed(Command, name="open-book"):
        book_id: Id

    assert OpenBook.command_name == "open-book"
    assert Renamed.command_name == "open-book"
    assert GetHTTPBook.query_name == "get-http-book"


@pytest.mark.parametrize("message", [BookOpened("a"), OpenBook("1", "a"), GetHTTPBook("1")])
def test_messages_are_frozen(message: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        message.book_id = "2"  # type: ignore[attr-defined]


def test_unknown_fields_are_refused_when_messages_are_decoded() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"book_id":"1","title":"a","admin":true}', type=OpenBook)


def test_an_empty_id_is_refused_when_commands_are_decoded() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"book_id":"","title":"a"}', type=OpenBook)


def test_an_event_without_a_stored_name_is_refused_with_the_mend() -> None:
    with pytest.raises(DefinitionError, match='class BookShut\\(Event, name="book-shut"'):

        class BookShut(Event):
            title: str


@pytest.mark.parametrize(
    "name", ["", "Order", "order_created", "1st", "a--b", "-a", "a-", "x" * 65]
)
def test_a_name_that_cannot_be_stored_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="stored name"):

        class Bad(Event, name=name):
            title: str


@pytest.mark.parametrize("version", [0, -1, True, 1.5])
def test_an_event_version_that_does_not_count_from_one_is_refused(version: int) -> None:
    with pytest.raises(DefinitionError, match="versions count from 1"):

        class Bad(Event, name="bad", version=version):
            title: str


def test_commands_and_queries_have_no_version() -> None:
    with pytest.raises(DefinitionError, match="no version"):

        class BadCommand(Command, version=2):
            book_id: Id

    with pytest.raises(DefinitionError, match="no version"):

        class BadQuery(Query[int], version=2):
            book_id: str


def test_a_message_that_is_not_frozen_is_refused() -> None:
    with pytest.raises(DefinitionError, match="frozen"):

        class Bad(Event, name="bad", frozen=False):
            title: str


def test_a_token_gives_its_receipt_back() -> None:
    receipt = Receipt("book:ä:1", 3, 17)

    assert Receipt.from_token(receipt.token) == receipt
    assert position_of(receipt) == position_of(receipt.token) == position_of(17) == 17
    assert position_of(None) == 0


@pytest.mark.parametrize("token", ["", "x", "!!!", "AAAA", "ö", Receipt("a:b", 1, 1).token[:-3]])
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="token"):
        Receipt.from_token(token)


def test_meta_splits_the_stream_at_its_first_colon() -> None:
    meta = Meta("book:tenant:1", 1, 1, 1_500_000)

    assert (meta.kind, meta.id) == ("book", "tenant:1")
    assert meta.time.isoformat() == "1970-01-01T00:00:01.500000+00:00"
