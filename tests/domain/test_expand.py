"""A larger file of the same shape."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from domain.importer.expand import expand
from domain.importer.invoices import SAMPLE, Invoice, Invoices
from domain.importer.text_file import TextFile, Unreadable

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def read(path: Path) -> list[Invoice]:
    with TextFile(path) as file:
        return list(Invoices(file))


def test_each_copy_has_numbers_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "large.csv"
    sample = read(SAMPLE)

    rows = expand(SAMPLE, out, 3)

    assert rows == 3 * 28_445
    copies = read(out)
    assert [invoice.number for invoice in copies] == [
        f"{invoice.number}-{copy}" for copy in (1, 2, 3) for invoice in sample
    ]
    assert [(i.buyer, i.invoiced_at, i.lines) for i in copies] == 3 * [
        (i.buyer, i.invoiced_at, i.lines) for i in sample
    ]
    assert sum(invoice.is_return for invoice in copies) == 3 * 156


def test_rows_go_through_with_their_faults(tmp_path: Path) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(
        HEADER.encode()
        + b'1,A,"say ""hi"", you",6,12/1/10 8:26,1,,France\r\n'
        + b"2,B,caf\xe9,?,,,,\n"
        + b",C,,,,,,\n"
        + b'3,"unclosed,,,,,,\n'
        + b"short"
    )

    expand(source, out, 2)

    copy = (
        b'1-%d,A,"say ""hi"", you",6,12/1/10 8:26,1,,France\n'
        b"2,B,caf\xe9,?,,,,\n"
        b",C,,,,,,\n"
        b'3,"unclosed,,,,,,\n'
        b"short-%d\n"
    )
    assert out.read_bytes() == HEADER.encode() + copy % (1, 1) + copy % (2, 2)
    zipped = tmp_path / "out.csv.gz"
    expand(source, zipped, 2)
    assert gzip.decompress(zipped.read_bytes()) == out.read_bytes()


def test_the_same_source_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.csv.gz", "two.csv.gz"):
        expand(SAMPLE, tmp_path / name, 1)

    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


def test_a_file_can_be_expanded_onto_itself(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(HEADER + "1,A,,6,12/1/10 8:26,1,,France\n")

    expand(path, path, 2)

    assert [invoice.number for invoice in read(path)] == ["1-1", "1-2"]


def test_nothing_appears_where_the_source_cannot_be_read(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("Name\n")

    with pytest.raises(Unreadable):
        expand(source, tmp_path / "out.csv", 2)

    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def test_each_copy_is_told(tmp_path: Path) -> None:
    told: list[int] = []

    expand(SAMPLE, tmp_path / "out.csv", 3, told.append)

    assert told == [1, 2, 3]
