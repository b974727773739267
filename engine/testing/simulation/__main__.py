"""`python -m engine.testing.simulation --seeds N`: lives through seeds, and prints what broke."""

# ruff: noqa: T201 - a command's answer

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import time
from collections import Counter

from . import world
from .checker import judge
from .world import run_seed


def main() -> int:
    """Run the seeds; 1 if any of them broke a promise."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of strings are walked in an order of their hashes: pinned, so that seeds replay.
        os.environ["PYTHONHASHSEED"] = "0"
        command = [sys.executable, "-m", __package__ or "", *sys.argv[1:]]
        return subprocess.run(command, check=False).returncode  # noqa: S603 - itself
    parser = argparse.ArgumentParser(prog="python -m engine.testing.simulation")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--stop", action="store_true", help="end at the first bad seed")
    options = parser.parse_args()
    # Python runs the `finally` of a dead process when it frees it, and there is no loop any more.
    sys.unraisablehook = lambda _: None
    began = time.perf_counter()
    counts: Counter[str] = Counter()
    bad, seed = 0, options.first
    for seed in range(options.first, options.first + options.seeds):
        story = run_seed(seed)
        problems = judge(story)
        if seed % 100 == 7:
            again = run_seed(seed)
            if again.digest != story.digest:
                problems.append("the second run took another way")
        counts.update(lives=story.lives, crashes=story.crashes, steps=story.steps)
        counts.update(events=len(story.log), disk_failures=story.failures)
        counts.update(story.answers)
        world.GRAVES.clear()
        if seed % 20 == 0:
            gc.collect()
        if problems:
            bad += 1
            print(f"seed {seed}: {len(problems)} problems")
            for problem in problems[:4]:
                print(f"    {problem}")
            if options.stop:
                break
    seconds = time.perf_counter() - began
    print(
        f"{options.seeds} seeds, {bad} bad, {options.seeds / seconds:.1f} seeds/s; {dict(counts)}"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
