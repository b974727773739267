"""Invoices, read from a file of the *Online Retail* shape (.csv or .csv.gz), one at a time.

Rules: an invoice is the rows next to each other that have its number; only one is held in memory,
and every length is bounded. A row that cannot be read is counted and listed with its line and the
reason, and the rest goes on; a file that cannot be read raises Unreadable, and then its last
invoice, which may be cut, is not given. Whether an invoice makes sense is not decided here:
quantities below 0 pass, since it is for the orders' rules to refuse them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import msgspec

from .lines import Buyer, Line
from .listing import Listing
from .money import Money, parse_pounds
from .text_file import TextFile, Unreadable

__all__ = ["COLUMNS", "SAMPLE", "Columns", "Invoice", "Invoices", "Malformed", "split"]

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

_QUANTITY = re.compile(r"-?[0-9]{1,6}")
_TIME = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2}|[0-9]{4}) ([0-9]{1,2}):([0-9]{2})")
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]|([\ud800-\udfff])")


class Malformed(Exception):
    """One row cannot be read; the message says why."""


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
        self.number = self.header.index("InvoiceNo")
        self._places = tuple(self.header.index(name) for name in COLUMNS)

    def row(self, cells: Sequence[str]) -> Row:
        """Give the row of its cells; raise Malformed."""
        if len(cells) != len(self.header):
            raise Malformed(f"{len(cells)} columns instead of {len(self.header)}")
        for cell in cells:
            if len(cell) > CELL_CHARACTERS_MAX:
                raise Malformed(f"a cell has more than {CELL_CHARACTERS_MAX} characters")
        number, product, description, quantity, time, price, customer, country = [
            cells[place].strip() for place in self._places
        ]
        for name, value in (("InvoiceNo", number), ("StockCode", product), ("Country", country)):
            if not value:
                raise Malformed(f"{name} is empty")
        line = Line(product, description, _pieces(number, quantity), _price(price))
        return Row(number, Buyer(country, customer or None), _moment(time), line)


class Invoices:
    """The invoices of an open file; iterate over it once. Raises Unreadable."""

    def __init__(self, file: TextFile) -> None:
        self.file = file
        self.malformed = Listing()
        """Rows that were left out: "line 17: why"."""
        self.rows = 0
        """Rows that were met, malformed ones included."""
        self._texts = iter(file)
        self._columns = Columns(file, next(self._texts, ""))

    def __iter__(self) -> Iterator[Invoice]:
        """Give invoice by invoice."""
        rows: list[Row] = []
        for row in self._rows():
            if rows and row.invoice != rows[0].invoice:
                yield _invoice(rows)
                rows = []
            if len(rows) < INVOICE_ROWS_MAX:
                rows.append(row)
            else:
                self._note(f"invoice {row.invoice} has more than {INVOICE_ROWS_MAX:,} rows")
        if rows:
            yield _invoice(rows)

    def _rows(self) -> Iterator[Row]:
        for text in self._texts:
            if not text.strip():
                continue
            self.rows += 1
            try:
                yield self._columns.row(split(text))
            except Malformed as error:
                self._note(str(error))

    def _note(self, reason: str) -> None:
        self.malformed.add(f"line {self.file.line}: {reason}")


def split(text: str) -> list[str]:
    """Give the cells of one line; a cell never goes on in the next. Raise Malformed."""
    unfit = _UNFIT.search(text.rstrip("\r\n"))
    if unfit is not None:
        raise Malformed("not UTF-8" if unfit[1] else "a control character in it")
    nothing: list[str] = []
    try:
        return next(csv.reader((text,), strict=True), nothing)
    except csv.Error as error:
        raise Malformed(str(error)) from None


def _invoice(rows: Sequence[Row]) -> Invoice:
    first = rows[0]
    lines = tuple(row.line for row in rows)
    return Invoice(first.invoice, first.buyer, first.invoiced_at, lines)


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
def _moment(text: str) -> str:
    """Give "2010-12-01T08:26:00" for "12/1/10 8:26"; the month comes first."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise Malformed(f"InvoiceDate {text!r} is not a time like 12/1/10 8:26")
    month, day, year, hour, minute = (int(group) for group in match.groups())
    try:
        return datetime(year + 2000 if year < 100 else year, month, day, hour, minute).isoformat()
    except ValueError as error:
        raise Malformed(f"InvoiceDate {text!r}: {error}") from None
