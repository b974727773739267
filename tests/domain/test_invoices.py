"""Reading invoices: tidy and untidy rows, broken files, and bounded memory."""

from __future__ import annotations

import gzip
import os
import re
import tracemalloc
from pathlib import Path

import pytest

from domain.importer.invoices import INVOICE_ROWS_MAX, SAMPLE, Dates, Invoice, Invoices
from domain.importer.text_file import LINE_BYTES_MAX, TextFile, Unreadable
from domain.model.lines import Buyer, Line
from domain.terminal.listing import LISTED_MAX

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
GOOD = "536365,71053,WHITE METAL LANTERN,6,12/1/10 8:26,3.39,17850,United Kingdom\n"
NAMELESS = re.compile(r"\s*,|[^,]*,[^,]*,[^,]*$")
"""A row without a number, or with a cell too few, so that its first may be any other's."""
ROW = {
    "number": "9",
    "product": "71053",
    "description": "LANTERN",
    "quantity": "6",
    "time": "12/1/10 8:26",
    "price": "3.39",
    "customer": "17850",
    "country": "France",
}


def row(**changes: str) -> str:
    return ",".join((ROW | changes).values()) + "\n"


def read(path: Path, dates: Dates | None = None) -> tuple[list[Invoice], Invoices]:
    with TextFile(path) as file:
        invoices = Invoices(file, dates)
        return list(invoices), invoices


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "invoices.csv"


def read_rows(path: Path, *rows: str) -> tuple[list[Invoice], Invoices]:
    path.write_text(HEADER + "".join(rows), encoding="utf-8")
    return read(path)


def reason(path: Path, text: str, dates: Dates | None = None) -> str:
    """Read a good row, one that is not, and a good one; give why it is not."""
    path.write_text(HEADER + row(number="1") + text + row(number="2"), encoding="utf-8")
    found, invoices = read(path, dates)
    beside = [] if NAMELESS.match(text) else ["1", "2"]
    assert [invoice.number for invoice in found] == beside, "the rest goes on"
    assert invoices.malformed.count == 1
    assert invoices.waiting.count == 2 - len(beside)
    assert invoices.rows == 3
    line, _, why = invoices.malformed.listed[0].partition(": ")
    assert line == "line 3"
    return why


def test_rows_of_one_number_are_one_invoice(path: Path) -> None:
    found, _ = read_rows(path, row(), row(product="POST", price="18"), row(number="2"))

    assert found[0] == Invoice(
        "9",
        Buyer("France", "17850"),
        "2010-12-01T08:26:00",
        (Line("71053", "LANTERN", 6, 339), Line("POST", "LANTERN", 6, 1_800)),
    )
    assert len(found) == 2


@pytest.mark.parametrize("number", ["C1", "c1"])
def test_the_quantities_of_a_return_are_what_came_back(path: Path, number: str) -> None:
    (back,), _ = read_rows(path, row(number=number, quantity="-6"))

    assert back.is_return
    assert back.number == "C1", "it is the same return, which is not to be taken twice"
    assert back.lines[0].quantity == 6


def test_a_negative_quantity_of_an_order_passes(path: Path) -> None:
    (order,), _ = read_rows(path, row(quantity="-6", price="0"))

    assert not order.is_return
    assert order.lines[0].quantity == -6


def test_blank_customer_and_description_are_allowed(path: Path) -> None:
    (order,), _ = read_rows(path, row(customer="", description=""))

    assert order.buyer == Buyer("France", None)
    assert order.lines[0].description == ""


def test_an_invoice_with_two_times_has_the_first(path: Path) -> None:
    (order,), _ = read_rows(path, row(time="12/1/10 8:26"), row(time="12/1/10 8:27"))

    assert order.invoiced_at == "2010-12-01T08:26:00"


@pytest.mark.parametrize("bad", ["", row(number="7", price="?"), "?\n"])
def test_a_file_whose_rows_of_one_invoice_stand_apart_is_not_given(path: Path, bad: str) -> None:
    rows = [row(number=n) for n in ("7", "5", "5")] + [bad, row(number="6"), row(number="5")]
    path.write_text(HEADER + "".join(rows), encoding="utf-8")

    again = 6 + bool(bad)
    with pytest.raises(Unreadable, match=f"those of 5 begin in line 3 and again in line {again}"):
        read(path)


def test_quotes_commas_and_spaces_are_read(path: Path) -> None:
    (order,), _ = read_rows(path, row(description='" A ""RED"" LAMP, BIG "'))

    assert order.lines[0].description == 'A "RED" LAMP, BIG'


def test_columns_may_stand_in_another_order_and_have_neighbours(path: Path) -> None:
    path.write_text(
        "\ufeffCountry,Till,InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,"
        "CustomerID\r\nEIRE,4,1,71053,LAMP,6,12/1/2010 8:26,3.39,\r\n\r\n",
        encoding="utf-8",
    )
    (order,), invoices = read(path)

    assert order.buyer == Buyer("EIRE")
    assert order.invoiced_at == "2010-12-01T08:26:00"
    assert invoices.malformed.count == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("9,71053,LAMP\n", "3 columns instead of 8"),
        (row(country="France,4"), "9 columns instead of 8"),
        (row(number=""), "InvoiceNo is empty"),
        (row(number="  "), "InvoiceNo is empty"),
        (row(product=""), "StockCode is empty"),
        (row(country=""), "Country is empty"),
        (row(quantity="six"), "Quantity 'six' is not a whole number"),
        (row(quantity=""), "Quantity '' is not a whole number"),
        (row(quantity="1.5"), "Quantity '1.5' is not a whole number"),
        (row(quantity="1_0"), "Quantity '1_0' is not a whole number"),
        (row(quantity="9999999"), "Quantity '9999999' is not a whole number of at most 6 digits"),
        (row(price="3.395"), "UnitPrice '3.395' is not an amount in pounds with at most 2"),
        (row(price="free"), "UnitPrice 'free' is not an amount"),
        (row(price=""), "UnitPrice '' is not an amount"),
        (row(time="2/30/10 8:26"), "InvoiceDate '2/30/10 8:26': day is out of range"),
        (row(time="12/1/10 25:00"), "InvoiceDate '12/1/10 25:00': hour must be in 0..23"),
        (row(time="0/0/0000 0:00"), "InvoiceDate '0/0/0000 0:00':"),
        (row(time="12/1/0000 8:26"), "InvoiceDate '12/1/0000 8:26': year 0 is out of range"),
        (row(time="2010-12-01"), "InvoiceDate '2010-12-01' is not a time like 12/1/10 8:26"),
        (row(time=""), "InvoiceDate '' is not a time"),
        (row(description='"LAMP'), "unexpected end of data"),
        (row(description='"LA"MP'), "',' expected after '\"'"),
        (row(description="LA\x00MP"), "a control character in it"),
        (row(description="LA\x1b[2JMP"), "a control character in it"),
        (row(number="\uff19"), "InvoiceNo '\uff19' has characters that look like others"),
        (row(number="90\u200b0"), "a character in it cannot be seen: U+200B"),
        (row(product="71\u00ad053"), "a character in it cannot be seen: U+00AD"),
        (row(description="\u202eLAMP"), "a character in it cannot be seen: U+202E"),
        (row(description="LA\ufeffMP"), "a character in it cannot be seen: U+FEFF"),
        (row(country="United\u00a0Kingdom"), "Country 'United\\xa0Kingdom' has an unusual space"),
        (row(customer="17\u2009850"), "CustomerID '17\\u2009850' has an unusual space"),
        (row(description="L" * 129), "a cell has more than 128 characters"),
    ],
)
def test_a_malformed_row_is_told_with_its_line_and_the_rest_goes_on(
    path: Path, text: str, why: str
) -> None:
    assert reason(path, text).startswith(why)


def test_bytes_that_are_not_utf8_spoil_their_own_row_only(path: Path) -> None:
    path.write_bytes(
        (HEADER + row(number="1")).encode()
        + row(number="2", description="CAFÉ").encode("latin-1")
        + row(number="3", description="CAFÉ").encode()
    )
    found, invoices = read(path)

    assert [invoice.number for invoice in found] == ["1", "3"]
    assert invoices.malformed.listed == ["line 3: not UTF-8"]


def test_an_invoice_with_a_malformed_row_is_left_out_whole(path: Path) -> None:
    rows = [row(), row(quantity="?"), row(product="POST"), row(number="10")]
    found, invoices = read_rows(path, *rows)

    assert [invoice.number for invoice in found] == ["10"]
    assert invoices.malformed.count == 1
    assert invoices.waiting.listed == [
        "9, 2 rows from line 2 on: a row of it, or beside it, cannot be read"
    ]


@pytest.mark.parametrize(
    ("stray", "left_out"),
    [
        (row(number="1x\u200b"), []),  # names another, which is not there
        (",71053,LAMP,6,12/1/10 8:26,3.39,17850,France\n", ["1", "2"]),
        ("71053,LAMP,6,12/1/10 8:26,3.39,17850,France\n", ["1", "2"]),  # lacks its first cell
        (row(number="2", product="", country="France,4"), ["2"]),
        (row(number="5\x00"), ["5"]),
        # What ends a line elsewhere may hide a row of the one before or behind.
        pytest.param(row(number="1").rstrip() + "\r" + row(number="2"), ["1", "2"], id="return"),
        pytest.param(row(number="6").rstrip() + "\v" + row(number="2"), ["1", "2"], id="tab"),
        pytest.param(
            row(number="6").rstrip() + "\u2028" + row(number="2"), ["1", "2"], id="separator"
        ),
        pytest.param("6,71053\v" + row(number="2"), ["1", "2"], id="half-and-tab"),
        pytest.param("\r" + row(number="6", price="?"), [], id="return-first"),
        # So does an end that is missing, as between two files that were joined.
        pytest.param(row(number="1").rstrip() + row(number="2"), ["1", "2"], id="no-end"),
        pytest.param(row(number="1").rstrip() + "," + row(number="2"), ["1", "2"], id="comma"),
        # A comma that is missing makes another number of two cells, whatever is quoted behind it.
        pytest.param(
            '271053,"LAMP, RED",6,12/1/10 8:26,3.39,17850,France\n', ["1", "2"], id="no-comma"
        ),
    ],
)
def test_what_a_row_that_cannot_be_read_may_belong_to_is_left_out(
    path: Path, stray: str, left_out: list[str]
) -> None:
    numbers = ("0", "1", "2", "3", "5")
    around = [row(number=n) for n in numbers]
    found, invoices = read_rows(path, *around[:2], stray, *around[2:])

    assert [i.number for i in found] == [n for n in numbers if n not in left_out]
    assert [text.partition(",")[0] for text in invoices.waiting.listed] == left_out


def test_a_comma_too_many_before_the_number_hides_whose_row_it_is(path: Path) -> None:
    header = "Description,InvoiceNo,StockCode,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    rest = ",71053,6,12/1/10 8:26,3.39,17850,France\n"
    lines = ["LAMP,1", "LAMP,2", "RED,8,2", "LAMP,3", "LAMP,4"]
    path.write_text(header + "".join(line + rest for line in lines), encoding="utf-8")
    found, _ = read(path)

    assert [invoice.number for invoice in found] == ["1", "4"]


def test_a_row_that_names_another_between_rows_of_one_invoice_may_be_its(path: Path) -> None:
    found, _ = read_rows(path, row(), row(number="9\u200b9"), row(), row(number="3"))

    assert [invoice.number for invoice in found] == ["3"]


@pytest.mark.parametrize(
    "changes", [{"country": "EIRE"}, {"customer": "1"}, {"customer": ""}, {"time": "12/2/10 8:26"}]
)
def test_an_invoice_whose_rows_contradict_each_other_is_left_out(
    path: Path, changes: dict[str, str]
) -> None:
    found, invoices = read_rows(path, row(), row(**changes), row(number="10"))

    assert [invoice.number for invoice in found] == ["10"]
    assert invoices.malformed.count == 0
    assert "9, 2 rows from line 2 on: they name more than one" in invoices.waiting.listed[0]


def test_an_invoice_is_bounded(path: Path) -> None:
    found, invoices = read_rows(path, *[row()] * (INVOICE_ROWS_MAX + 2), row(number="10"))

    assert [invoice.number for invoice in found] == ["10"]
    assert invoices.waiting.listed == [
        "9, 2,002 rows from line 2 on: more than 2,000 rows are one invoice"
    ]


def days(*times: str) -> str:
    return "".join(row(number=str(n), time=f"{t} 8:26") for n, t in enumerate(times))


@pytest.mark.parametrize(
    ("times", "dates", "found"),
    [
        (("2/1/10", "3/1/10"), None, ["2010-02-01", "2010-03-01"]),
        (("2/1/10", "3/13/10"), "month-first", ["2010-02-01", "2010-03-13"]),
        (("2/1/10", "13/3/10"), "day-first", ["2010-01-02", "2010-03-13"]),
        (("5/6/2011",) * 8 + ("31/12/2011",), "day-first", ["2011-06-05"] * 8 + ["2011-12-31"]),
    ],
)
def test_the_dates_of_a_file_say_whether_months_stand_first(
    path: Path, times: tuple[str, ...], dates: Dates | None, found: list[str]
) -> None:
    invoices, read_ = read_rows(path, days(*times))

    assert [invoice.invoiced_at[:10] for invoice in invoices] == found
    assert read_.dates == dates


@pytest.mark.parametrize(
    ("times", "lines"),
    [
        (("2/1/10", "13/3/10", "3/13/10"), "line 3 can be read only.*that of line 4 only with"),
        (("3/4/10",) * 20 + ("13/3/10",), "line 22 can be .*hardly any other row"),
    ],
)
def test_dates_that_contradict_each_other_are_not_guessed(
    path: Path, times: tuple[str, ...], lines: str
) -> None:
    path.write_text(HEADER + days(*times), encoding="utf-8")
    with pytest.raises(Unreadable, match=lines):
        read(path)

    for dates in ("month-first", "day-first"):
        found, invoices = read(path, dates)
        assert len(found) == len(times) - invoices.malformed.count


def test_rows_of_another_order_than_was_said_are_malformed(path: Path) -> None:
    why = reason(path, row(time="13/1/10 8:26"), "month-first")
    assert why == "InvoiceDate '13/1/10 8:26': month must be in 1..12"
    assert reason(path, row(time="1/13/10 8:26"), "day-first").endswith("month must be in 1..12")


def test_a_file_that_is_changed_while_it_is_read_is_unreadable(path: Path) -> None:
    path.write_text(HEADER + row())
    with TextFile(path) as file:
        invoices = Invoices(file)
        invoices.look()
        with path.open("a") as more:
            more.write(row(number="10"))
        with pytest.raises(Unreadable, match="was changed while it was read"):
            list(invoices)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pipe_is_read_like_a_file(zipped: bool) -> None:
    data = (HEADER + row() * 3).encode()
    reading, writing = os.pipe()
    os.write(writing, gzip.compress(data) if zipped else data)
    os.close(writing)
    try:
        (order,), invoices = read(Path(f"/dev/fd/{reading}"))
    finally:
        os.close(reading)

    assert (len(order.lines), invoices.rows) == (3, 3)


def test_malformed_rows_are_all_counted_and_the_first_are_listed(path: Path) -> None:
    _, invoices = read_rows(path, *["?\n"] * (LISTED_MAX + 7))

    assert invoices.malformed.count == LISTED_MAX + 7
    assert len(invoices.malformed.listed) == LISTED_MAX
    assert invoices.malformed.unlisted == 7


def test_of_each_invoice_some_bytes_are_kept(path: Path) -> None:
    with path.open("w") as file:
        file.write(HEADER)
        for number in range(20_000):
            file.write(row(number=str(number)))
    with TextFile(path) as text:
        tracemalloc.start()
        try:
            count = sum(1 for _ in Invoices(text))
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert count == 20_000
    assert peak_bytes < 1_000_000


def test_a_missing_file_is_unreadable(path: Path) -> None:
    with pytest.raises(Unreadable, match="No such file"):
        read(path)


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="Is a directory"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["", "\n", "Name,Price\n1,2\n", '"InvoiceNo\n'])
def test_a_file_of_another_shape_is_unreadable(path: Path, text: str) -> None:
    path.write_text(text)

    with pytest.raises(Unreadable, match=r"no column InvoiceNo|no readable first line"):
        read(path)


def test_a_file_without_lines_is_unreadable(path: Path) -> None:
    path.write_bytes(HEADER.encode() + b"x" * LINE_BYTES_MAX)

    with pytest.raises(Unreadable, match="line 2 has more than"):
        read(path)


def test_what_is_no_gzip_is_unreadable(path: Path) -> None:
    zipped = path.with_suffix(".csv.gz")
    zipped.write_text(HEADER + row())

    with pytest.raises(Unreadable, match="is broken after line 0: Not a gzipped file"):
        read(zipped)


def test_a_gzip_that_breaks_off_gives_nothing(path: Path) -> None:
    zipped = path.with_suffix(".csv.gz")
    whole = gzip.compress((HEADER + "".join(row(number=str(n)) for n in range(5_000))).encode())
    zipped.write_bytes(whole[: len(whole) // 2])

    with TextFile(zipped) as file, pytest.raises(Unreadable, match=r"is broken after line \d+"):
        next(iter(Invoices(file)))


def test_a_gzip_with_flipped_bits_is_unreadable(path: Path) -> None:
    zipped = path.with_suffix(".csv.gz")
    data = bytearray(gzip.compress((HEADER + row() * 5_000).encode()))
    data[len(data) // 2] ^= 0xFF
    zipped.write_bytes(data)

    with pytest.raises(Unreadable, match="is broken after line"):
        read(zipped)


def test_a_column_that_is_named_twice_is_unreadable(path: Path) -> None:
    path.write_text(HEADER.strip() + ",Quantity\n" + row().strip() + ",7\n")

    with pytest.raises(Unreadable, match="more than one column Quantity"):
        read(path)


def test_the_sample_reads_without_fault() -> None:
    with TextFile(SAMPLE) as file:
        invoices = Invoices(file)
        found = list(invoices)
        assert file.bytes_read == file.bytes_total

    assert len(found) == 1_274
    assert invoices.rows == 28_445
    assert invoices.malformed.count == 0
    assert sum(invoice.is_return for invoice in found) == 156
    assert max(len(invoice.lines) for invoice in found) == 675
    assert len({invoice.number for invoice in found}) == 1_274
