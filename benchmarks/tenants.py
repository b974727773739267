"""`tenants`: what many tenants of one process cost: memory, and the time to open one.

Each measurement is a process of its own (`tenants_child`). `open` has so many engines open at rest,
each with a log, a projection and one order. `idle` has many more tenants than may be open: each is
made, written to and left; then some are asked again, each opened anew. Memory is the resident set,
above that of the process before the first tenant.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from .scenario import Cell, Column, Scenario

__all__ = ["add_options", "scenario"]

OPEN, IDLE, OPEN_MAX = 100, 10_000, 200
QUICK_OPEN, QUICK_IDLE, QUICK_OPEN_MAX = 5, 20, 8
ROOT = Path(__file__).parent.parent


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add how many there are."""
    parser.add_argument("--tenants", type=int, help=f"of the idle ones, default {IDLE:,}")


def scenario(options: argparse.Namespace) -> Scenario:
    """Give the cells."""
    at_once = QUICK_OPEN if options.quick else OPEN
    idle = options.tenants or (QUICK_IDLE if options.quick else IDLE)
    most = QUICK_OPEN_MAX if options.quick else OPEN_MAX
    return Scenario(
        name="tenants",
        title="many tenants in one process, each with a file, a projection and one order",
        conditions={
            "resident": "what the process has more of the machine's memory, after a collection",
            "open": "from the call to the durable receipt of a command, of a tenant that is closed",
            "hit": "the same, of one that is open",
        },
        columns=(
            Column("resident", "MiB", "less"),
            Column("each", "KiB", "less", 1),
            Column("open", "ms", "less", 1),
            Column("hit", "ms", "less", 2),
        ),
        headline="resident",
        cells=[
            Cell("tenants", f"{at_once:,} open", partial(_measure, at_once, at_once)),
            Cell("tenants", f"{idle:,}, {most} open", partial(_measure, idle, most)),
        ],
    )


def _measure(count: int, open_max: int, folder: Path) -> Mapping[str, float]:
    command = [sys.executable, "-m", "benchmarks.tenants_child", str(count), str(open_max)]
    done = subprocess.run(
        [*command, str(folder.resolve())], cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    return msgspec.json.decode(done.stdout, type=dict[str, float])
