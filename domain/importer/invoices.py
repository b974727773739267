"""Invoices, read from a file of the *Online Retail* shape (.csv or .csv.gz), one at a time.

Rules: the whole file is looked at before its first invoice is given. An invoice is the rows that
have its number, next to each other, and it is given whole or not at all. One with a row that
cannot be read is left out, and so is one beside a row that does not say whose it is: a mended file
then brings it whole. Rows and invoices that are left out are counted and listed with their lines.
A file that breaks off, whose rows of one invoice stand apart, or whose dates contradict each other,
raises Unreadable before anything of it is given. Whether months or days stand first its dates say.
One invoice is held in memory, and every length is bounded; of each number some bytes are kept.
Whether an invoice makes sense is not decided here: quantities below 0 pass, since it is for the
orders' rules to refuse them.
"""

from __future__ import annotations

import csv
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, TypeAlias

import msgspec

from ..model.lines import Buyer, Line
from ..model.money import Money, parse_pounds
from ..terminal.listing import Listing
from .seen import Seen
from .text_file import TextFile, Unreadable

__all__ = ["COLUMNS", "SAMPLE", "Columns", "Dates", "Invoice", "Invoices", "Malformed", "split"]

Dates: TypeAlias = Literal["month-first", "day-first"]
"""What the first number of a date means."""

SAMPLE = Path(__file__).parent / "data" / "online-retail-2010-12.csv.gz"
"""The file that comes with the shop; see `data/ATTRIBUTION.md`."""

COLUMNS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
INVOICE_ROWS_MAX = 2_000
"""Rows of one invoice; more would fit neither one event nor the window of the order's keys."""
CELL_CHARACTERS_MAX = 128
DAY_FIRST_ONE_OF = 10
"""Of so many rows one at least has a day beyond 12 where days stand first; fewer are mistakes."""

_QUANTITY = re.compile(r"-?[0-9]{1,6}")
_TIME = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2}|[0-9]{4}) ([0-9]{1,2}):([0-9]{2})")
_MONTH_FIRST: Final[Dates] = "month-first"


class Malformed(Exception):
    """One row cannot be read; the message says why."""


class _OtherOrder(Malformed):
    """Its date can be read only where days and months stand the other way round."""


class Row(msgspec.Struct, frozen=True):
    """One row: a line of an invoice, with what it repeats of the invoice."""

    invoice: str
    buyer: Buyer
    invoiced_at: str
    line: Line


class Invoice(msgspec.Struct, frozen=True):
    """The rows of one number. Buyer and time are those of its first row."""

    number: str
    buyer: Buyer
    invoiced_at: str
    lines: Sequence[Line]
    """One per row, products repeated as they are; of a return, the quantities that came back."""

    @property
    def is_return(self) -> bool:
        """Whether goods came back."""
        return _is_return(self.number)


class Columns:
    """Where each column stands, as the first line of the file says."""

    def __init__(self, file: TextFile, first: str) -> None:
        try:
            self.header = [cell.strip() for cell in split(first)]
        except Malformed as error:
            raise Unreadable(f"{file.path} has no readable first line: {error}") from error
        missing = [name for name in COLUMNS if name not in self.header]
        if missing:
            raise Unreadable(
                f"{file.path} has no column {', '.join(missing)}: its first line must name "
                f"{', '.join(COLUMNS)}"
            )
        twice = [name for name in COLUMNS if self.header.count(name) > 1]
        if twice:
            raise Unreadable(f"{file.path} has more than one column {', '.join(twice)}")
        self.number = self.header.index("InvoiceNo")
        self._places = tuple(self.header.index(name) for name in COLUMNS)

    def row(self, cells: Sequence[str], dates: Dates) -> Row:
        """Give the row of its cells; raise Malformed."""
        if len(cells) != len(self.header):
            raise Malformed(f"{len(cells)} columns instead of {len(self.header)}")
        for cell in cells:
            if len(cell) > CELL_CHARACTERS_MAX:
                raise Malformed(f"a cell has more than {CELL_CHARACTERS_MAX} characters")
        number, product, description, quantity, time, price, customer, country = [
            cells[place].strip() for place in self._places
        ]
        number = _named(number)
        for name, value in (("InvoiceNo", number), ("StockCode", product), ("Country", country)):
            if not value:
                raise Malformed(f"{name} is empty")
            if not value.isprintable():
                raise Malformed(f"{name} {value!r} has an unusual space in it")
        if unicodedata.normalize("NFKC", number) != number:
            raise Malformed(f"InvoiceNo {number!r} has characters that look like others")
        if not customer.isprintable():
            raise Malformed(f"CustomerID {customer!r} has an unusual space in it")
        line = Line(product, description, _pieces(number, quantity), _price(price))
        return Row(number, Buyer(country, customer or None), _moment(time, dates), line)

    def number_in(self, text: str) -> tuple[str | None, bool]:
        """Give the invoice's number of a line that cannot be read, and whether it is certain."""
        cells: Sequence[str]
        line = text.replace("\x00", "").strip("\r\n")
        try:
            cells = next(csv.reader((line,)), ())
        except csv.Error:
            cells = ()
        if line.count('"') % 2:
            # A quote that is not closed takes the rest of the line.
            cells = max(cells, line.split(","), key=len)
        if len(cells) <= self.number:
            return None, False
        # With a cell too few, what stands here may be another column's; with some too many as well,
        # unless it is the first; and where there are so many, or what ends a line elsewhere, it may
        # be several rows.
        columns, first = len(self.header), self.number == 0
        is_whole = len(cells) == columns or (first and columns < len(cells) < 2 * columns - 1)
        shown = "".join(c for c in cells[self.number] if c.isprintable())
        number = _named(shown.strip())[:CELL_CHARACTERS_MAX] or None
        return number, number is not None and is_whole and len(line.splitlines()) == 1


class Invoices:
    """The invoices of an open file; iterate over it once. Raises Unreadable."""

    def __init__(self, file: TextFile, dates: Dates | None = None) -> None:
        """Take the file, and what its dates are where somebody says so."""
        self.file = file
        self.malformed = Listing()
        """Rows that cannot be read, and were left out: "line 17: why"."""
        self.waiting = Listing()
        """Invoices with rows that can be read, and were left out whole: "536365, 2 rows ...". """
        self.rows = 0
        """Rows that were met, malformed ones included."""
        self.dates: Dates | None = dates
        """What its dates are; None where neither somebody nor any of them says so."""
        self.columns = Columns(file, next(iter(file), ""))
        self._held: Seen | None = None
        self._checksum = self._crc = 0

    def look(self, told: Callable[[], None] | None = None) -> None:
        """Look at the whole file, and find what is to be left out; `told` hears of some lines.

        Raises Unreadable for a file of which nothing should be imported.
        """
        look = _Look(self)
        for text in self._lines():
            look.take(text)
            if told is not None and self.file.line % 10_000 == 0:
                told()
        self._held, self._checksum = look.held, self._crc
        self.dates = look.dates()

    def __iter__(self) -> Iterator[Invoice]:
        """Give invoice by invoice; `look` is called where it was not."""
        if self._held is None:
            self.look()
        rows: list[Row] = []
        count = begin = 0
        for row in self._rows():
            if rows and row.invoice != rows[0].invoice:
                yield from self._whole(rows, count, begin)
                rows = []
            if not rows:
                count, begin = 0, self.file.line
            count += 1
            # What is beyond is counted only: the invoice is left out.
            if count <= INVOICE_ROWS_MAX:
                rows.append(row)
        if self._crc != self._checksum:
            raise Unreadable(f"{self.file.path} was changed while it was read: import it again")
        if rows:
            yield from self._whole(rows, count, begin)

    def _whole(self, rows: Sequence[Row], count: int, begin: int) -> Iterator[Invoice]:
        """Give an invoice of its rows, or note why it is left out."""
        number = rows[0].invoice
        held = self._held
        assert held is not None
        if count > INVOICE_ROWS_MAX:
            why = f"more than {INVOICE_ROWS_MAX:,} rows are one invoice"
        elif len({(row.buyer, row.invoiced_at[:10]) for row in rows}) > 1:
            why = "they name more than one customer, country or day"
        elif number in held:
            why = "a row of it, or beside it, cannot be read"
        else:
            yield _invoice(rows)
            return
        self.waiting.add(f"{number}, {count:,} rows from line {begin} on: {why}")

    def _lines(self) -> Iterator[str]:
        """Give the lines of rows, and note what they are, all together."""
        self._crc = 0
        texts = iter(self.file)
        next(texts, "")
        for text in texts:
            self._crc = zlib.crc32(text.encode(errors="surrogateescape"), self._crc)
            if text.strip():
                yield text

    def _rows(self) -> Iterator[Row]:
        dates: Dates = self.dates or _MONTH_FIRST
        for text in self._lines():
            self.rows += 1
            try:
                yield self.columns.row(split(text), dates)
            except Malformed as error:
                self.malformed.add(f"line {self.file.line}: {error}")


class _Look:
    """What is known of a file before its first invoice is given."""

    def __init__(self, invoices: Invoices) -> None:
        self.held = Seen()
        """Numbers of invoices that are left out."""
        self._invoices = invoices
        self._evidence: dict[Dates, list[int]] = {"month-first": [0, 0], "day-first": [0, 0]}
        """How many rows can only be read so, and the line of the first."""
        self._rows = 0
        self._numbers = Seen()
        self._last: str | None = None
        self._stray = False
        """Whether a row stands behind the last good one that names another invoice, or none."""
        self._nameless = False
        """Whether one stands there that does not say for certain whose it is."""

    def take(self, text: str) -> None:
        """Look at one line."""
        try:
            row = self._read(split(text))
        except Malformed:
            self._hold(*self._invoices.columns.number_in(text))
            return
        number = row.invoice
        if number != self._last and not self._numbers.add(number):
            raise self._apart(number)
        if self._nameless or (self._stray and number == self._last):
            self.held.add(number)
        self._last, self._stray, self._nameless = number, False, False

    def _read(self, cells: Sequence[str]) -> Row:
        """Read a row whose date may be of either order, where nobody has said which."""
        columns, said = self._invoices.columns, self._invoices.dates
        if said is not None:
            return columns.row(cells, said)
        self._rows += 1
        try:
            row = columns.row(cells, "month-first")
        except _OtherOrder:
            row = columns.row(cells, "day-first")
            self._note("day-first")
        else:
            if row.invoiced_at[8:10] > "12":
                self._note("month-first")
        return row

    def _note(self, dates: Dates) -> None:
        evidence = self._evidence[dates]
        evidence[0] += 1
        evidence[1] = evidence[1] or self._invoices.file.line

    def dates(self) -> Dates | None:
        """Give what the dates are, when all are seen; raise Unreadable where they contradict."""
        said, path = self._invoices.dates, self._invoices.file.path
        months, days = self._evidence["month-first"], self._evidence["day-first"]
        if said is not None or not days[0]:
            return said or ("month-first" if months[0] else None)
        if months[0] or days[0] * DAY_FIRST_ONE_OF < self._rows:
            other = "hardly any other row has such a date"
            if months[0]:
                other = f"that of line {months[1]} only with the month first"
            raise Unreadable(
                f"{path} is not imported, since its dates contradict each other: that of line "
                f"{days[1]} can be read only with the day first, and {other}. Mend the file, or "
                f"say --dates month-first or --dates day-first to leave out what is not"
            )
        return "day-first"

    def _hold(self, number: str | None, certain: bool) -> None:
        """Leave out whatever a row that cannot be read may belong to."""
        if number is not None:
            self.held.add(number)
            if certain and number == self._last:
                return
        self._stray = True
        if not certain:
            self._nameless = True
            if self._last is not None:
                self.held.add(self._last)

    def _apart(self, number: str) -> Unreadable:
        file = self._invoices.file
        again, first = file.line, 0
        for text in file:
            if self._invoices.columns.number_in(text)[0] == number:
                first = file.line
                break
        return Unreadable(
            f"{file.path} is not imported, since rows of one invoice stand apart: those of "
            f"{number} begin in line {first} and again in line {again}. Sort the file by "
            f"InvoiceNo, and import it then"
        )


def split(text: str) -> list[str]:
    """Give the cells of one line; a cell never goes on in the next. Raise Malformed."""
    line = text.rstrip("\r\n")
    if not line.isprintable():
        _refuse_unseen(line)
    nothing: list[str] = []
    try:
        return next(csv.reader((text,), strict=True), nothing)
    except csv.Error as error:
        raise Malformed(str(error)) from None


def _refuse_unseen(text: str) -> None:
    """Raise Malformed for what cannot be seen: a number with it in is another number."""
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cs":
            raise Malformed("not UTF-8")
        if kind == "Cc":
            raise Malformed("a control character in it")
        if kind[0] == "C" or kind in ("Zl", "Zp"):
            raise Malformed(f"a character in it cannot be seen: U+{ord(character):04X}")


def _invoice(rows: Sequence[Row]) -> Invoice:
    first = rows[0]
    lines = tuple(row.line for row in rows)
    return Invoice(first.invoice, first.buyer, first.invoiced_at, lines)


def _named(number: str) -> str:
    """Give an invoice's number as all files name it: a program may have changed the case."""
    return number.upper()


def _is_return(number: str) -> bool:
    return number.startswith("C")


def _pieces(number: str, quantity: str) -> int:
    if not _QUANTITY.fullmatch(quantity):
        raise Malformed(f"Quantity {quantity!r} is not a whole number of at most 6 digits")
    return -int(quantity) if _is_return(number) else int(quantity)


@lru_cache(maxsize=4_096)
def _price(text: str) -> Money:
    try:
        return parse_pounds(text)
    except ValueError as error:
        raise Malformed(f"UnitPrice {error}") from None


@lru_cache(maxsize=1_024)
def _moment(text: str, dates: Dates) -> str:
    """Give "2010-12-01T08:26:00" for "12/1/10 8:26", where the month comes first."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise Malformed(f"InvoiceDate {text!r} is not a time like 12/1/10 8:26")
    one, other, year, hour, minute = (int(group) for group in match.groups())
    month, day = (one, other) if dates == _MONTH_FIRST else (other, one)
    year += 2000 if len(match[3]) == 2 else 0
    try:
        return datetime(year, month, day, hour, minute).isoformat()
    except ValueError as error:
        said = f"InvoiceDate {text!r}: {error}"
    try:
        datetime(year, day, month, hour, minute)
    except ValueError:
        raise Malformed(said) from None
    raise _OtherOrder(said)
