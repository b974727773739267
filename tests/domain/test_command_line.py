"""The command line: what it prints, where, and with which exit status."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from domain.__main__ import main
from domain.importer.invoices import Invoices
from domain.importer.text_file import TextFile
from tests.domain.holding import HOLD, ROOT
from tests.support import warm

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"


def row(number: str, quantity: int | str = 1) -> str:
    return f"{number},A,LAMP,{quantity},12/1/10 8:26,2.50,17850,France\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "invoices.csv"
    path.write_text(HEADER + row("1", 4) + row("2", -1) + row("C3", -1))
    return path


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/shop.db"


def test_the_report_of_a_small_file(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(path), "--store", store]) == 0

    told = capsys.readouterr()
    assert told.out == (
        "SALES REPORT\n"
        "\n"
        "        1 orders              10.00\n"
        "        1 returns              2.50\n"
        "\n"
        "By country                orders           sales  returns       refunds\n"
        "  France                       1           10.00        1          2.50\n"
        "\n"
        "By day                    orders           sales  returns       refunds\n"
        "  2010-12-01                   1           10.00        1          2.50\n"
        "\n"
        "Best sellers                                         sold       revenue\n"
        "  A         LAMP                                        4         10.00\n"
        "\n"
        "Invoices refused by the rules: 1\n"
        "  quantity-not-positive: 1\n"
        "    2\n"
    )
    assert "imported 100 %\n" in told.err
    assert "\n3 rows, 3 invoices, 5 commands: 3 executed + 2 refused\n" in told.err
    assert re.search(r"\n3 commands executed, durable, in [0-9.]+ s: [0-9,]+ a second", told.err)
    assert "try next" not in told.err, "that is for who has no file of their own yet"


def test_the_sample_is_imported_by_default(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--store", store]) == 0

    told = capsys.readouterr()
    out = re.sub(" +", " ", told.out)
    for command in ("order 536365", "search", "crash", "domain.web --replay 60"):
        assert re.search(
            f"\n  python -m domain.*{command.removeprefix('domain')}",
            told.err.partition("try next:")[2],
        )
    assert "\n 1,051 orders 540,161.30\n 156 returns 63,376.56\n" in out
    assert "\nInvoices refused by the rules: 67\n quantity-not-positive: 67\n" in out
    assert len(re.findall(r"\b5\d{5}\b", out.partition("quantity-not-positive")[2])) == 67


def test_a_second_run_says_that_nothing_changed(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(path), "--store", store])
    first = capsys.readouterr()
    assert main([str(path), "--store", store]) == 0
    second = capsys.readouterr()

    assert second.out == first.out
    assert (
        "5 commands: nothing new: 3 had been executed before and were not again + 2 refused\n"
        in (second.err)
    )
    assert "a second" not in second.err, "nothing was made durable"


def test_a_run_that_goes_on_says_what_it_did_not_do_again(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(path), "--store", store])
    with path.open("a") as file:
        file.write(row("4"))
    capsys.readouterr()
    main([str(path), "--store", store])

    assert (
        "7 commands: 2 executed + 3 had been executed before and were not again + 2 refused\n"
        in (capsys.readouterr().err)
    )


def test_rows_that_cannot_be_read_are_told_by_line_and_status(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with path.open("a") as file:
        file.write(row("4", "many"))

    assert main([str(path), "--store", store]) == 3
    assert capsys.readouterr().out.endswith(
        "Rows left out, since they cannot be read: 1\n"
        "  line 5: Quantity 'many' is not a whole number of at most 6 digits\n"
    )


def test_an_invoice_that_waits_for_its_row_is_told_and_comes_whole_later(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = path.read_text() + row("5") + row("5", 3)
    path.write_text(whole.replace(row("5", 3), row("5", "three")))
    assert main([str(path), "--store", store]) == 3
    first = capsys.readouterr()
    assert first.out.endswith(
        "Invoices left out whole: mend the file and import it again: 1\n"
        "  5, 1 rows from line 5 on: a row of it, or beside it, cannot be read\n"
    )
    assert "        1 orders              10.00\n" in first.out

    path.write_text(whole)
    for _ in range(2):
        assert main([str(path), "--store", store]) == 0
        assert "        2 orders              20.00\n" in capsys.readouterr().out


def test_an_invoice_that_the_shop_has_otherwise_is_told_by_status(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(path), "--store", store])
    path.write_text(path.read_text().replace("LAMP,4", "LAMP,5"))
    capsys.readouterr()

    assert main([str(path), "--store", store]) == 3
    told = capsys.readouterr()
    assert "that the shop has with other rows, and that stay as they are: 1\n" in told.out
    assert "Invoices refused by the rules: 1\n" in told.out
    assert "2 had been executed before and were not again + 3 refused\n" in told.err
    assert "1  key-reused (the shop has this invoice with other rows)\n" in told.err


def test_an_order_without_the_rows_that_were_refused_is_told_by_status(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(HEADER + row("6", 2) + row("6", -5))

    assert main([str(path), "--store", store]) == 3
    assert "shop has the rows only that were not refused: 1\n  6\n" in capsys.readouterr().out


def test_the_report_has_all_of_the_log_whatever_was_imported(
    path: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(path), "--store", store])
    expected = capsys.readouterr().out.partition("\nInvoices refused")[0]
    (tmp_path / "shop.views.db").unlink()  # as where they lag behind, after a kill
    path.write_text(HEADER)

    assert main([str(path), "--store", store]) == 0
    assert capsys.readouterr().out.partition("\nInvoices refused")[0] == expected


def test_days_before_months_are_told(
    path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(HEADER + row("1").replace("12/1/10", "3/2/10") + row("2"))
    assert main([str(path), "--store", store]) == 0
    told = capsys.readouterr()
    assert "no date of this file tells days from months" in told.err
    assert "  2010-03-02 " in told.out

    path.write_text(HEADER + row("3").replace("12/1/10", "25/2/10"))
    assert main([str(path), "--store", store]) == 0
    told = capsys.readouterr()
    assert "were read with the day first" in told.err
    assert "  2010-02-25 " in told.out


def test_a_file_that_contradicts_itself_leaves_no_store(
    path: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rows in (row("1") + row("2") + row("1"), row("1").replace("12/1", "12/13") + "?"):
        path.write_text(HEADER + rows.replace("?", row("2").replace("12/1", "13/12")))
        assert main([str(path), "--store", store]) == 1
        assert re.fullmatch("error: .* is not imported, since .*\n", capsys.readouterr().err)
    assert [file.name for file in tmp_path.iterdir()] == ["invoices.csv"]


def test_acknowledgements_are_appended(path: Path, store: str, tmp_path: Path) -> None:
    acks = tmp_path / "acks"
    for _ in range(2):
        assert main([str(path), "--store", store, "--acks", str(acks)]) == 0

    assert acks.read_text() == 2 * "1/create\t1\n1/ship\t2\nC3/return\t3\n"


def test_a_missing_file_is_told_in_one_line_and_leaves_no_store(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none.csv"), "--store", store]) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"error: {tmp_path}/none.csv cannot be read: No such file or directory\n"
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_is_told_in_one_line(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for store in ("postgres:nowhere", f"sqlite:{tmp_path}/no/such/folder/shop.db"):
        assert main([str(path), "--store", store]) == 1
        assert re.fullmatch("error: .+\n", capsys.readouterr().err)


def test_a_store_that_another_process_has_open_is_told_in_one_line(
    path: Path, store: str, tmp_path: Path
) -> None:
    held = warm.Warm(
        [sys.executable, "-c", HOLD, store],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert held.stdin is not None
    assert held.stdout is not None
    with held:
        held.stdout.readline()
        other = command_line(str(path), "--store", store)
        held.stdin.close()

    assert other.returncode == 1
    assert other.stdout == ""
    assert re.fullmatch("error: .+\n", other.stderr)
    assert str(held.pid) in other.stderr


def test_an_interrupted_import_says_how_to_go_on(store: str) -> None:
    reading, writing = os.pipe()
    with warm.Warm(
        [sys.executable, "-m", "domain", "--store", store, "--acks", f"/dev/fd/{writing}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=(writing,),
    ) as process:
        os.close(writing)
        with os.fdopen(reading) as acks:
            acks.readline()
            process.send_signal(signal.SIGINT)
            acks.read()
        told = process.communicate()[1]

    assert process.returncode == 130
    assert told.endswith("\nstopped; run it again to go on where it was\n")
    assert "Traceback" not in told


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run(
        [sys.executable, "-m", "domain", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_as_a_module(path: Path, store: str) -> None:
    run = command_line(str(path), "--store", store)

    assert run.returncode == 0
    assert run.stdout.startswith("SALES REPORT\n")


@pytest.mark.parametrize("words", [["wacht"], ["ordr", "536365"], ["crahs", "--seed", "1"]])
def test_a_mistyped_command_is_not_taken_for_a_file(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)

    told = capsys.readouterr().err
    assert f"{words[0]} is no command" in told
    assert re.search("did you mean (watch|order|crash)\\?\n", told)


def test_an_import_may_be_named(path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(path), "--store", store]) == 0
    assert capsys.readouterr().out.startswith("SALES REPORT\n")


def test_help_names_everything() -> None:
    told = command_line("--help").stdout

    for word in ("FILE", "--store", "--acks", "expand", "exit status"):
        assert word in told
    assert "--times" in command_line("expand", "--help").stdout


@pytest.mark.parametrize("times", ["0", "-1", "many", "1.5"])
def test_wrong_arguments_are_told_with_the_usage(times: str) -> None:
    run = command_line("expand", "--times", times, "--out", os.devnull)

    assert run.returncode == 2
    assert run.stderr.startswith("usage: python -m domain expand")


def test_expand_makes_a_file_that_imports(
    path: Path, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "large.csv.gz"

    assert main(["expand", str(path), "--times", "3", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 9 rows\n"
    with TextFile(out) as file:
        assert len(list(Invoices(file))) == 9
    assert main([str(out), "--store", store]) == 0
    assert "        3 orders              30.00\n" in capsys.readouterr().out


def test_expand_into_a_missing_folder_is_told_in_one_line(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["expand", str(path), "--times", "1", "--out", str(tmp_path / "no" / "x.csv")]) == 1

    assert re.match("error: .*No such file or directory", capsys.readouterr().err)
