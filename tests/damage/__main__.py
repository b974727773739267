"""`python -m tests.damage --flips N`: flips bits in a log's files; each that matters must be told.

`--seed S` begins elsewhere, and Ctrl-C sums up what was done. A flip is told by its number, and
`--only NUMBER` does it alone. The exit status is 1 where a flip changed what is read, and `verify`
told nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .flipping import Flipper
from .given import given

SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.damage", description=__doc__)
    parser.add_argument("--flips", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int)
    parser.add_argument("--folder", type=Path, help="where to work: in memory is fastest")
    options = parser.parse_args()
    memory = Path("/dev/shm")
    where = options.folder or (memory if memory.is_dir() else None)
    with tempfile.TemporaryDirectory(dir=where, prefix="damage-") as folder:
        files = asyncio.run(given(Path(folder)))
        numbers = range(options.flips) if options.only is None else [options.only]
        return run(Flipper(files, options.seed), numbers)


def run(flipper: Flipper, numbers: range | list[int]) -> int:
    begun = time.monotonic()
    found: Counter[tuple[str, str]] = Counter()
    unseen = []
    try:
        for number in numbers:
            flip = flipper.flip(number)
            found[flip.file, flip.outcome] += 1
            if flip.outcome == "UNSEEN":
                unseen.append(flip)
                print(f"UNSEEN {number} of {flip.file}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        pass  # what was flipped so far is summed up
    seconds = time.monotonic() - begun
    for (file, outcome), count in sorted(found.items()):
        print(f"{file:24} {outcome:10} {count:8,}")
    for flip in unseen[:SHOWN]:
        print(f"UNSEEN {flip.number}, byte {flip.byte} of {flip.file}: {flipper.difference(flip)}")
    print(f"{found.total():,} flips in {seconds:.1f} s, {len(unseen):,} went unseen")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
