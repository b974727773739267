"""Reading invoices: tidy and untidy rows, broken files, and bounded memory."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pytest

from domain.invoices import INVOICE_ROWS_MAX, SAMPLE, Invoice, Invoices
from domain.lines import Buyer, Line
from domain.listing import LISTED_MAX
from domain.text_file import LINE_BYTES_MAX, TextFile, Unreadable

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
GOOD = "536365,71053,WHITE METAL LANTERN,6,12/1/10 8:26,3.39,17850,United Kingdom\n"
ROW = {
    "number": "1",
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


def read(path: Path) -> tuple[list[Invoice], Invoices]:
    with TextFile(path) as file:
        invoices = Invoices(file)
        return list(invoices), invoices


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "invoices.csv"


def read_rows(path: Path, *rows: str) -> tuple[list[Invoice], Invoices]:
    path.write_text(HEADER + "".join(rows), encoding="utf-8")
    return read(path)


def reason(path: Path, text: str) -> str:
    """Read a good row, one that is not, and a good one; give why it is not."""
    found, invoices = read_rows(path, row(number="1"), text, row(number="2"))
    assert [invoice.number for invoice in found] == ["1", "2"], "the rest goes on"
    assert invoices.malformed.count == 1
    assert invoices.rows == 3
    line, _, why = invoices.malformed.listed[0].partition(": ")
    assert line == "line 3"
    return why


def test_rows_of_one_number_are_one_invoice(path: Path) -> None:
    found, _ = read_rows(path, row(), row(product="POST", price="18"), row(number="2"))

    assert found[0] == Invoice(
        "1",
        Buyer("France", "17850"),
        "2010-12-01T08:26:00",
        (Line("71053", "LANTERN", 6, 339), Line("POST", "LANTERN", 6, 1_800)),
    )
    assert len(found) == 2


def test_the_quantities_of_a_return_are_what_came_back(path: Path) -> None:
    (back,), _ = read_rows(path, row(number="C1", quantity="-6"))

    assert back.is_return
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


def test_a_number_that_comes_again_later_is_another_invoice(path: Path) -> None:
    found, _ = read_rows(path, row(number="1"), row(number="2"), row(number="1"))

    assert [invoice.number for invoice in found] == ["1", "2", "1"]


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
        ("1,71053,LAMP\n", "3 columns instead of 8"),
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
        (row(time="13/1/10 8:26"), "InvoiceDate '13/1/10 8:26': month must be in 1..12"),
        (row(time="2/30/10 8:26"), "InvoiceDate '2/30/10 8:26': day is out of range"),
        (row(time="12/1/10 25:00"), "InvoiceDate '12/1/10 25:00': hour must be in 0..23"),
        (row(time="0/0/0000 0:00"), "InvoiceDate '0/0/0000 0:00':"),
        (row(time="2010-12-01"), "InvoiceDate '2010-12-01' is not a time like 12/1/10 8:26"),
        (row(time=""), "InvoiceDate '' is not a time"),
        (row(description='"LAMP'), "unexpected end of data"),
        (row(description='"LA"MP'), "',' expected after '\"'"),
        (row(description="LA\x00MP"), "a control character in it"),
        (row(description="LA\x1b[2JMP"), "a control character in it"),
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


def test_the_other_rows_of_an_invoice_with_a_malformed_one_stay(path: Path) -> None:
    (order,), invoices = read_rows(path, row(), row(quantity="?"), row(product="POST"))

    assert [line.product for line in order.lines] == ["71053", "POST"]
    assert invoices.malformed.count == 1


def test_an_invoice_is_bounded(path: Path) -> None:
    (order,), invoices = read_rows(path, *[row()] * (INVOICE_ROWS_MAX + 2))

    assert len(order.lines) == INVOICE_ROWS_MAX
    assert invoices.malformed.count == 2
    assert "has more than 2,000 rows" in invoices.malformed.listed[0]


def test_malformed_rows_are_all_counted_and_the_first_are_listed(path: Path) -> None:
    _, invoices = read_rows(path, *["?\n"] * (LISTED_MAX + 7))

    assert invoices.malformed.count == LISTED_MAX + 7
    assert len(invoices.malformed.listed) == LISTED_MAX
    assert invoices.malformed.unlisted == 7


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
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
    assert peak_bytes < 500_000


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


def test_a_gzip_that_breaks_off_does_not_give_the_invoice_that_it_cuts(path: Path) -> None:
    zipped = path.with_suffix(".csv.gz")
    whole = gzip.compress((HEADER + "".join(row(number=str(n)) for n in range(5_000))).encode())
    zipped.write_bytes(whole[: len(whole) // 2])
    given: list[str] = []

    def read_on() -> None:
        with TextFile(zipped) as file:
            for invoice in Invoices(file):
                given.append(invoice.number)  # noqa: PERF401 - it ends with an error

    with pytest.raises(Unreadable, match=r"is broken after line \d+"):
        read_on()

    assert given == [str(number) for number in range(len(given))]
    assert 0 < len(given) < 5_000


def test_a_gzip_with_flipped_bits_is_unreadable(path: Path) -> None:
    zipped = path.with_suffix(".csv.gz")
    data = bytearray(gzip.compress((HEADER + row() * 5_000).encode()))
    data[len(data) // 2] ^= 0xFF
    zipped.write_bytes(data)

    with pytest.raises(Unreadable, match="is broken after line"):
        read(zipped)


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
