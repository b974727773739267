"""`python -m tests.damage --flips N`: flips bits in a log's files; each that matters must be told.

`--seed S` begins elsewhere. `--parts P` works with so many processes, each on files of its own.
`--ledger FILE` notes what was done, and a later run with the same seed goes on from there. Ctrl-C
sums up what was done. A flip is told by its number, and `--only NUMBER` does it alone. The exit
status is 1 where a flip changed what is read, and `verify` told nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec

from .chunks import CHUNK, Chunk, flipped, left_alone, noted

SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.damage", description=__doc__)
    parser.add_argument("--flips", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--folder", type=Path, help="where to work: in memory is fastest")
    options = parser.parse_args()
    if options.only is not None:
        return summed([flipped(options.seed, options.only, 1, options.folder)], 0.0)
    done = noted(options.ledger, options.seed) if options.ledger else {}
    firsts = [n for n in range(0, options.flips, CHUNK) if n not in done]
    begun = time.monotonic()
    chunks = list(done.values())
    with ProcessPoolExecutor(
        options.parts, multiprocessing.get_context("spawn"), initializer=left_alone
    ) as pool:
        each = [
            pool.submit(flipped, options.seed, n, min(CHUNK, options.flips - n), options.folder)
            for n in firsts
        ]
        try:
            for chunk in (future.result() for future in as_completed(each)):
                chunks.append(chunk)
                if options.ledger:
                    with options.ledger.open("ab") as ledger:
                        ledger.write(msgspec.json.encode(chunk) + b"\n")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)  # what was flipped so far is summed up
    return summed(chunks, time.monotonic() - begun)


def summed(chunks: Sequence[Chunk], seconds: float) -> int:
    """Say what became of all flips; give the exit status."""
    found: Counter[tuple[str, str]] = Counter()
    for chunk in chunks:
        for file, outcome, count in chunk.found:
            found[file, outcome] += count
    unseen = [text for chunk in chunks for text in chunk.unseen]
    for (file, outcome), count in sorted(found.items()):
        print(f"{file:44} {outcome:10} {count:8,}")
    for text in unseen[:SHOWN]:
        print(text)
    print(f"{found.total():,} flips, {len(unseen):,} went unseen; this run took {seconds:.1f} s")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
