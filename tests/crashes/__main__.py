"""`python -m tests.crashes kills --trials N`: real processes that die; what was promised must hold.

`python -m tests.crashes power --trials N`: a real file system that loses power; it needs root.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from .judge import judge
from .kills import run_kills
from .trial import fork, write


class Verdict(msgspec.Struct):
    """What became of one seed."""

    seed: int
    problems: list[str]
    ends: list[str]
    receipts: int
    events: int


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes")
    parser.add_argument("what", choices=("kills", "power"))
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    gc.freeze()
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))
    for seed in range(options.first, options.first+options.trials):
        t=time.time()
        story = run_kills(seed, folder)
        problems = judge(story)
        print(seed, round(time.time()-t,2), story.ends, len([t for t in story.told if t.what=="receipt"]), len(story.images[-1].log), story.images[-1].snapshots, len([t for t in story.told if t.what=="rejected"]))
        for p in problems[:5]: print("   ", p[:400])
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
