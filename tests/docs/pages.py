"""Pages of the documents, followed as a reader would: files are written and commands typed.

A fenced block with `title="name.py"` is a file, and as a `diff` a change of one. A `console` block
has commands behind `$ `, each with what it prints. They come in the page's order, in one folder.
A server runs until `^C`, at a free port that stands for 8000, or on a socket of its own (`--uds`);
`^C` ends the one that was started last. Times, and how long something took,
may differ. What only reads is asked again for a while, since views follow the log.

`python -m tests.docs.pages docs/tutorial docs/howto/search.md` runs pages and writes what the
commands print into them: for whoever writes a page.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from tests.docs.background import BROKERS, LOOK_SECONDS, PORT, Background, is_server
from tests.support.installed import USERS_OWN, Installed, install

COMMAND_SECONDS: Final = 60
LAG_SECONDS: Final = 5
INTERRUPT: Final = "^C"
"""What a server logs need not be shown where it is started and where it ends."""
FOLDER: Final = "/home/ann/toolshed"
"""What the pages show of where the reader's folder is."""

_READS: Final = re.compile(r"curl (?!.*(-X|--json))|foldline projections list ")
_BLOCK: Final = re.compile(r"^( *)```(\w+)(.*)\n((?:.*\n)*?)^\1```$", re.MULTILINE)
_TITLE: Final = re.compile(r'title="([^"]+)"')
_DIFFERS: Final = (
    (re.compile(r"\d{4}-\d\d-\d\d([T ])\d\d:\d\d:\d\d(\.\d+)?"), r"<a day>\1<a time>"),
    (re.compile(r'(?<="recorded":)\d{16}\b'), "<a moment>"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s)\b"), "<a while>"),
    (re.compile(r"^[\d,]+ durable commands/s", re.MULTILINE), "<many> durable commands/s"),
    (re.compile(r"\bcommands-\d{20}-\w{8}"), "commands-<a file>"),
    (re.compile(r"\bcli:[\w-]+"), "cli:<who>"),
    (re.compile(r"/\S*/(?=[\w.-]+\.db)"), "<a folder>/"),
)
"""What is another at each run, and what stands for it."""


class Block(msgspec.Struct, frozen=True):
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str
    place: tuple[int, int]
    """Of its text in the page."""


class Step(msgspec.Struct, frozen=True):
    """A command of a `console` block, and what the page says that it prints."""

    command: str
    printed: str


def blocks(page: str) -> Iterator[Block]:
    """Give the fenced blocks of a page, in order."""
    for found in _BLOCK.finditer(page):
        title = _TITLE.search(found[3])
        indent = len(found[1])
        text = "".join(line[indent:] or "\n" for line in found[4].splitlines(keepends=True))
        yield Block(found[2], title and title[1], text, found.span(4))


def steps(block: Block) -> Iterator[Step]:
    """Give the commands of a `console` block."""
    first, *parts = re.split(r"^(?=\$ |\^C$)", block.text, flags=re.MULTILINE)
    assert not first, f"a console block begins with a command:\n{first}"
    for part in parts:
        lines = part.splitlines(keepends=True)
        end = 1 + next(n for n, line in enumerate(lines) if not line.endswith("\\\n"))
        command = "".join(lines[:end]).rstrip("\n")
        yield Step(command.removeprefix("$ "), "".join(lines[end:]))


def alike(printed: str) -> str:
    """Give an output without what is another at each run."""
    for pattern, instead in _DIFFERS:
        printed = pattern.sub(instead, printed)
    return "\n".join(line.rstrip() for line in printed.strip("\n").splitlines())


def _changed(text: str, change: str) -> str:
    """Apply a diff: lines are kept (behind a space), taken away (`-`) or added (`+`).

    A line that begins with `@@` stands between places of the file.
    """
    for place in re.split(r"^@@.*\n", change, flags=re.MULTILINE):
        lines = [line if line.strip() else " \n" for line in place.splitlines(keepends=True)]
        before, after = ("".join(n[1:] for n in lines if n[0] in kept) for kept in (" -", " +"))
        found = text.count(before)
        assert found == 1 or not before, f"this stands {found} times in the file:\n{before}"
        text = text.replace(before, after) if before else text + after
    return text


def _make_database(path: Path, statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(statements)


class Reader:
    """Somebody who follows pages in a folder of his own, with Foldline installed."""

    def __init__(self, folder: Path, installed: Installed, **variables: str) -> None:
        self.folder = folder
        # What the tests' environment has installed of pytest's plugins is not the reader's.
        alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        # A machine that tests keep busy takes longer to start a worker than uvicorn waits.
        alone["UVICORN_TIMEOUT_WORKER_HEALTHCHECK"] = "60"
        self._variables = {**installed.variables, **alone, **variables}
        # Nor is its CI, where pytest prints the lines whole that it cuts for somebody who reads.
        for name in ("CI", "BUILD_NUMBER"):
            self._variables.pop(name, None)
        self._servers: list[Background] = []
        # A module of the reader's own, with the name that the package has in the repository.
        (folder / "engine.py").write_text(USERS_OWN)

    def take(self, page: Path) -> None:
        """Save the files of a page, and run nothing."""
        for block in blocks(page.read_text()):
            if block.title is not None:
                self._save(block)

    def follow(self, page: Path) -> str:
        """Do what a page says; give it with what its commands print.

        Raises AssertionError where it cannot be followed.
        """
        text = page.read_text()
        written, end = "", 0
        given = Path(__file__).with_name("given") / f"{page.stem}.sql"
        if given.exists():
            _make_database(self.folder / "bank_old.db", given.read_text())
        brokers = [made(self.folder) for name, made in BROKERS.items() if f"{name}_URL" in text]
        for broker in brokers:
            self._variables[f"{broker.name}_URL"] = broker.url
            self._variables |= getattr(broker, "variables", {})
        try:
            for block in blocks(text):
                written += text[end : block.place[0]] + self._do(block, text)
                end = block.place[1]
            assert not self._servers, "the reader is to stop the server, with ^C"
        finally:
            while self._servers:
                self._end_server()
            for broker in brokers:
                broker.end()
        return written + text[end:]

    def _do(self, block: Block, page: str) -> str:
        if block.title is not None:
            self._save(block)
        if block.language != "console":
            return page[slice(*block.place)]
        done = ""
        for step in steps(block):
            printed = self._type(step)
            is_log = step.command == INTERRUPT or is_server(step.command)
            if (is_log and not step.printed) or alike(printed) == alike(step.printed):
                printed = step.printed
            prompt = "" if step.command == INTERRUPT else "$ "
            done += f"{prompt}{step.command}\n{printed}"
            done += "\n" * (bool(printed) and not printed.endswith("\n"))
        return done

    def _save(self, block: Block) -> None:
        path = self.folder / str(block.title)
        path.parent.mkdir(parents=True, exist_ok=True)
        changed = block.language == "diff"
        path.write_text(_changed(path.read_text(), block.text) if changed else block.text)

    def _type(self, step: Step) -> str:
        """Run a command; give what it prints, errors too."""
        if step.command == INTERRUPT:
            return self._end_server()
        if is_server(step.command):
            server = Background(step.command, self.folder, self._variables)
            self._servers.append(server)
            return self._shown(server.log, server.port)
        until = time.monotonic() + LAG_SECONDS
        while True:
            printed = self._run(step.command)
            is_as_said = alike(printed) == alike(step.printed)
            if is_as_said or not _READS.match(step.command) or time.monotonic() > until:
                return printed
            time.sleep(LOOK_SECONDS)

    def _run(self, command: str) -> str:
        port = next((s.port for s in reversed(self._servers) if s.port != PORT), PORT)
        done = subprocess.run(
            ["sh", "-c", f"exec 2>&1; {command.replace(f':{PORT}', f':{port}')}"],
            cwd=self.folder,
            env=self._variables,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        return self._shown(done.stdout, port)

    def _end_server(self) -> str:
        server = self._servers.pop()
        return self._shown(server.end(), server.port)

    def _shown(self, text: str, port: str = PORT) -> str:
        text = re.sub(r"process \[\d+\]", "process [4711]", text)
        return text.replace(f":{port}", f":{PORT}").replace(str(self.folder), FOLDER)


def main(arguments: list[str]) -> None:
    """Follow pages, and write what their commands print into them."""
    paths = [Path(argument) for argument in arguments]
    pages = [p for path in paths for p in (sorted(path.glob("*.md")) if path.is_dir() else [path])]
    with tempfile.TemporaryDirectory() as folder:
        (installed := Path(folder, "installed")).mkdir()
        environment = install(installed)
        readers: dict[Path, Reader] = {}
        for page in pages:
            # The pages of the tutorial are followed in one folder, all others each in its own.
            place = page.parent if page.parent.name == "tutorial" else page
            if place not in readers:
                (own := Path(folder, str(len(readers)))).mkdir()
                readers[place] = reader = Reader(own, environment)
                if page.parent.name == "howto":
                    reader.take(page.with_name("bank.md"))
            before = page.read_text()
            try:
                after = readers[place].follow(page)
            except AssertionError as error:
                sys.stdout.write(f"{page}: {error}\n")
                continue
            page.write_text(after)
            sys.stdout.write(f"{page}: {'the same' if before == after else 'CHANGED'}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
