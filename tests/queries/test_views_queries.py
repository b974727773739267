"""What queries read: typed rows, whole pages in order, SQL that can only read, and bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine import at_least
from engine.errors import InvalidInput, StoreFailed, UsageError
from engine.limits import Limits
from engine.model.conditions import Filter
from engine.model.projection import Projection, Table, TableDefinition, projects
from engine.model.rows import Scalar
from engine.queries.views import Views
from tests.support.shelf import Book, Bought, Copy, Lent, Library, Log, Wired

BOOKS = [
    Book("a", 3, "ann"),
    Book("b", 1, "ann"),
    Book("c", 2),
    Book("d", 1, "bob"),
    Book("e", 3, notes={"x": Copy("s", 1)}),
    Book("f", 2, "it's; drop table library_books --"),
]


def views_of(wired: Wired) -> Views:
    tables = {
        table.name: table
        for projection in wired.projections
        for table in projection.__definition__.tables.values()
    }
    return Views(wired.views, tables, wired.limits)


@pytest.fixture(params=["memory", "file"])
async def wired(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wired]:
    path = ":memory:" if request.param == "memory" else str(tmp_path / "views.db")
    log = Log()
    for book in BOOKS:
        log.write(Bought(book.id, book.price, book.notes))
        if book.holder is not None:
            log.write(Lent(book.id, book.holder))
    async with Wired(log, path, limits=Limits(query_rows=10)) as wired:
        await wired.caught_up()
        yield wired


@pytest.fixture
def views(wired: Wired) -> Views:
    return views_of(wired)


async def ids(views: Views, **options: Any) -> str:
    return "".join(row.id for row in await views.find(Library.books, **options))


async def test_a_row_is_found_by_its_key(views: Views) -> None:
    assert await views.get(Library.books, "e") == BOOKS[4]
    assert await views.get(Library.books, "z") is None


async def test_rows_are_found_by_their_fields(views: Views) -> None:
    assert await ids(views) == "abcdef"
    assert await ids(views, where={"holder": "ann"}) == "ab"
    assert await ids(views, where={"holder": None}) == "ce"
    assert await ids(views, where={"holder": "ann", "price": 1}) == "b"
    assert await ids(views, where={"holder": "nobody"}) == ""
    assert await ids(views, where={"holder": "it's; drop table library_books --"}) == "f"
    assert await views.count(Library.books) == 6
    assert await views.count(Library.books, where={"price": 3}) == 2


async def test_rows_come_in_order_and_by_key_where_that_is_equal(views: Views) -> None:
    assert await ids(views, order_by="price") == "bdcfae"
    assert await ids(views, order_by="price", descending=True) == "eafcdb"
    assert await ids(views, order_by="id", descending=True) == "fedcba"
    assert await ids(views, order_by="lent", descending=True) == "fdbaec"


@pytest.mark.parametrize("order_by", [None, "price", "id"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("by_row", [False, True])
async def test_pages_after_each_other_give_every_row_once(
    views: Views, order_by: str | None, descending: bool, by_row: bool
) -> None:
    options: dict[str, Any] = {"order_by": order_by, "descending": descending}
    seen = ""
    after: Any = None
    while page := await views.find(Library.books, **options, limit=2, after=after):
        seen += "".join(row.id for row in page)
        after = page[-1] if by_row else page[-1].id

    assert seen == await ids(views, **options)


async def test_pages_by_offset(views: Views) -> None:
    assert await ids(views, order_by="price", limit=2, offset=1) == "dc"
    assert await ids(views, limit=0) == ""
    assert await ids(views, offset=100) == ""


async def test_a_page_goes_on_after_a_row_that_is_gone(views: Views) -> None:
    gone = Book("cc", 2)

    assert await ids(views, after="cc") == "def"
    assert await ids(views, order_by="price", after=gone) == "fae"
    with pytest.raises(UsageError, match=r"pass the last row itself, `after=rows\[-1\]`"):
        await views.find(Library.books, order_by="price", after="cc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": {"colour": 1}}, "'colour' is no field of library_books"),
        ({"where": {"notes": {}}}, "'notes' is no field of library_books to look up"),
        ({"order_by": "colour"}, "'colour' is no field"),
        ({"order_by": 'price" desc; --'}, "is no field"),
        ({"order_by": "holder", "after": "a"}, "use `offset=`"),
        ({"limit": -1}, "a page has 0 to 10 rows"),
        ({"limit": 11}, "a page has 0 to 10 rows"),
        ({"offset": -1}, "begins at 0 or later"),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    views: Views, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await views.find(Library.books, **options)


async def test_a_value_of_another_type_is_refused(views: Views) -> None:
    with pytest.raises(TypeError, match="Book.price is an int, not str"):
        await views.find(Library.books, where={"price": "1"})


@pytest.mark.parametrize("key", ["a\0b", "\ud800"], ids=ascii)
async def test_a_client_is_told_that_no_row_can_have_what_it_asks_for(
    views: Views, key: str
) -> None:
    with pytest.raises(InvalidInput, match=r"cannot be there: Book.id is a text with"):
        await views.get(Library.books, key)
    with pytest.raises(InvalidInput, match="cannot be there"):
        await views.find(Library.books, after=key)
    for where in ({"id": key}, {"price": 2**63}):
        with pytest.raises(InvalidInput, match="cannot be there"):
            await views.find(Library.books, where=where)


@pytest.mark.parametrize(("given", "told"), [(Book, "not Book"), ("books", "not a str")])
async def test_what_is_no_table_is_told_where_one_is_meant(
    views: Views, given: Any, told: str
) -> None:
    for read in (views.get(given, "a"), views.find(given), views.count(given)):
        with pytest.raises(UsageError, match=rf"`Balances\.rows`, and {told}"):
            await read


async def test_too_many_rows_are_refused_and_not_cut(wired: Wired, views: Views) -> None:
    wired.publish(*[Bought(f"x{n}") for n in range(4)])
    await wired.caught_up()
    assert len(await views.find(Library.books)) == 10
    wired.publish(Bought("y"))
    await wired.caught_up()

    with pytest.raises(UsageError, match="more than 10 rows of library_books fit"):
        await views.find(Library.books)
    with pytest.raises(UsageError, match="more than 10 rows.*add a LIMIT"):
        await views.sql("select * from library_books")
    assert len(await views.find(Library.books, limit=10)) == 10


async def test_a_table_of_another_engine_is_refused(views: Views) -> None:
    class Elsewhere(Projection, name="elsewhere"):
        books: Table[Book]

        @projects
        def bought(self, event: Bought) -> None: ...

    with pytest.raises(UsageError, match=r"pass its projection 'elsewhere' to Engine"):
        await views.get(Elsewhere.books, "a")


class PerHolder(msgspec.Struct, frozen=True):
    holder: str | None
    books: int
    any_dear: bool


async def test_sql_gives_tuples_or_structs(views: Views) -> None:
    sql = (
        "select holder, count(*) as books, max(price) > 2 as any_dear from library_books "
        "where holder in (?, ?) group by 1 order by 1"
    )

    assert await views.sql(sql, ("ann", "bob")) == [("ann", 2, 1), ("bob", 1, 0)]
    assert await views.sql(sql, ("ann", "bob"), row=PerHolder) == [
        PerHolder("ann", 2, True),
        PerHolder("bob", 1, False),
    ]
    assert await views.sql(sql, ("nobody", "at all")) == []
    assert await views.sql(sql, ("nobody", "at all"), row=PerHolder) == []
    with pytest.raises(UsageError, match=r"the columns \['id'\] are no PerHolder"):
        await views.sql("select id from library_books", row=PerHolder)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("holder, 0 as books, 1 as books, 1 as any_dear", r"they have \['books'\] twice"),
        ("holder, 0 as boks, 1 as any_dear", r"they have \['boks'\], and not \['books'\]"),
    ],
    ids=["twice", "misspelt"],
)
async def test_a_column_that_no_field_takes_is_no_default(
    views: Views, columns: str, said: str
) -> None:
    class Lenient(msgspec.Struct):
        holder: str | None
        any_dear: bool
        books: int = 7

    with pytest.raises(UsageError, match=said):
        await views.sql(f"select {columns} from library_books", row=Lenient)
    for columns in ("holder, 1 as any_dear", "*, 1 as any_dear, 7 as books"):
        found = await views.sql(f"select {columns} from library_books limit 1", row=Lenient)
        assert found[0].books == 7


async def test_sql_may_find_nothing(views: Views) -> None:
    sql = "select holder, 0 as books, false as any_dear from library_books where id = 'none'"

    assert await views.sql(sql) == []
    assert await views.sql(sql, row=PerHolder) == []
    with pytest.raises(UsageError, match=r"the columns \['holder'\] are no PerHolder"):
        await views.sql("select holder from library_books limit 1", row=PerHolder)


@pytest.mark.parametrize(
    "statement",
    [
        "delete from library_books",
        "update checkpoints set position = 0",
        "insert into library_books values ('z', 1, null, 0, '{}')",
        "drop table library_books",
        "create table x (y)",
        "create temp table x (y)",
        "pragma query_only = 0",
        "select 1; pragma query_only = 0; delete from library_books",
        "attach ':memory:' as other",
        "begin immediate",
        "vacuum",
        "selec 1",
        "select * from no_such_table",
        "select ?, ?",
        "",
    ],
)
async def test_sql_can_only_read(wired: Wired, views: Views, statement: str) -> None:
    with pytest.raises(UsageError, match=r"views\.sql"):
        await views.sql(statement, ("one",) if "?" in statement else ())

    wired.publish(Bought("g"))
    await wired.caught_up()
    assert await views.count(Library.books) == 7


ENDLESS = "with recursive n(x) as (select 1 union all select x + 1 from n) select max(x) from n"


async def reading(wired: Wired) -> None:
    """Return when the reader has something to do, on a connection that can be interrupted."""
    while (running := wired.views._shown._calls._running) is None or running[1] is None:
        await asyncio.sleep(0)


async def test_a_query_that_is_given_up_does_not_hold_up_the_next(tmp_path: Path) -> None:
    async with Wired(Log(), str(tmp_path / "views.db")) as wired:
        views = views_of(wired)
        for _ in range(3):
            endless = asyncio.create_task(views.sql(ENDLESS))
            await reading(wired)
            waiting = asyncio.create_task(views.count(Library.books))
            await asyncio.sleep(0)
            endless.cancel()

            assert await asyncio.wait_for(waiting, 10) == 0


async def test_an_interrupt_meant_for_another_query_does_no_harm(tmp_path: Path) -> None:
    async with Wired(Log(), str(tmp_path / "views.db")) as wired:
        views = views_of(wired)
        bounded = ENDLESS.replace("from n)", "from n where x < 3000000)")
        slow = asyncio.create_task(views.sql(bounded))
        await reading(wired)
        running = wired.views._shown._calls._running
        assert running is not None
        assert running[1] is not None
        running[1].interrupt()

        assert await slow == [(3_000_000,)]


async def test_closing_interrupts_what_still_runs(tmp_path: Path) -> None:
    async with Wired(Log(), str(tmp_path / "views.db")) as wired:
        endless = asyncio.create_task(views_of(wired).sql(ENDLESS))
        await reading(wired)
    with pytest.raises(StoreFailed, match="closed during a query"):
        await endless


class Noted:
    """Notes what is read, and what had been asked of the store by then."""

    def __init__(self, asked: list[str]) -> None:
        self.asked = asked
        self.noted: list[tuple[Any, ...]] = []

    def row(self, table: TableDefinition, key: Scalar) -> None:
        self.noted.append(("row", table.name, key, *self.asked))

    def table(self, table: TableDefinition) -> None:
        self.noted.append(("table", table.name, *self.asked))

    def begin(self) -> None:
        self.noted.append(("begin",))

    def some(self, table: TableDefinition, filters: tuple[Filter, ...]) -> None:
        self.noted.append(("some", table.name, *(f.name for f in filters), *self.asked))

    def found(self, table: TableDefinition, keys: Sequence[Scalar]) -> None:
        """This is told after the read."""

    def statement(self) -> None:
        self.noted.append(("statement", *self.asked))

    def selected(self, names: Iterable[tuple[str, str]]) -> None:
        self.noted.append(("selected", *names))


async def test_what_is_read_is_noted_before_it_is_read(
    wired: Wired, views: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what changes in between would be missed by who watches."""
    asked: list[str] = []
    read = wired.views._shown._calls.run

    async def reading(*call: Any) -> Any:
        asked.append("read")
        return await read(*call)

    monkeypatch.setattr(wired.views._shown._calls, "run", reading)
    noted = Noted(asked)
    calls: list[Callable[[Views], Awaitable[Any]]] = [
        lambda views: views.get(Library.books, "a"),
        lambda views: views.find(Library.books, limit=1),
        lambda views: views.find(Library.books, after="a", limit=1),
        lambda views: views.find(Library.books, where={"price": at_least(1)}, limit=1),
        lambda views: views.find(Library.books, where={"price": 1}, limit=1, offset=1),
        lambda views: views.count(Library.books),
        lambda views: views.sql("SELECT price FROM Library_Books b"),
        lambda views: views.sql("SELECT price FROM Library_Books b"),
        lambda views: views.sql("SELECT 1"),
    ]
    for call in calls:
        await call(views.of(wired.views, noted))
        asked.clear()
        await call(views)  # the others' reads are not noted
        asked.clear()

    assert noted.noted == [
        ("row", "library_books", "a"),
        ("table", "library_books"),
        ("row", "library_books", "a"),
        ("table", "library_books"),
        ("some", "library_books", "price"),
        ("table", "library_books"),
        ("table", "library_books"),
        ("statement",),
        ("selected", ("library", "library_books")),
        ("statement",),
        ("selected", ("library", "library_books")),
        ("statement",),
        ("selected",),
    ]
