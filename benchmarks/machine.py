"""What a figure was measured on: processor, cores, kernel, Python, the packages, and the disk.

Rules: what is told is looked up when a run begins; nothing is kept. `SAME` names what must be the
same for two runs before anything but their ratios is compared.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import apsw

__all__ = ["SAME", "describe"]

SAME: Final = ("processor", "cores", "system", "python")


def describe(folder: Path) -> dict[str, str]:
    """Give the machine and the versions, with the median fdatasync of `folder`."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version() + ("" if sys.flags.optimize == 0 else " -O"),
        "sqlite": apsw.sqlite_lib_version(),
        **{name: version(name) for name in ("apsw", "msgspec", "anyio", "uvloop")},
        "commit": _commit(),
        "one fdatasync": f"{_fdatasync_us(folder):.0f} µs, median",
        "load before": _load(),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _load() -> str:
    """Give what else the machine does: on a quiet one, 0."""
    try:
        return f"{os.getloadavg()[0]:.2f} processes, over the last minute"
    except OSError:
        return "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _fdatasync_us(folder: Path) -> float:
    times: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(200):
            os.write(file.fileno(), b"x" * 4096)
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)
