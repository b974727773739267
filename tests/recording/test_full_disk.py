"""A recording where no file can grow: the commands go on, and the folder does not fill with files.

The limit of a process on the size of its files stands for a disk that is full: in both, a file can
be made and nothing can be written to it. It holds for a whole process, so it is one of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHILD = """
import asyncio, logging, resource, sys
from pathlib import Path

from tests.recording.recorded_shop import Open, Pay, shop

folder = Path(sys.argv[1])
told = asyncio.Event()


class Told(logging.Handler):
    def emit(self, record):
        if "not recorded" in record.getMessage():
            print(record.levelname)
            told.set()


async def main():
    logging.getLogger().addHandler(Told())
    async with shop(record=folder) as engine:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most[1]))
        await engine.execute(Open("a", "Ann"))
        await told.wait()
        for cents in range(1, 20):
            await engine.execute(Pay("a", cents))
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
        print((await engine.execute(Pay("a", 500))).version)
    for path in folder.iterdir():
        head, *lines = path.read_bytes().splitlines()
        print(head.decode(), len(lines))


asyncio.run(main())
"""


def test_a_full_disk_gets_no_file_for_each_batch_and_the_next_one_says_what_is_missing(
    tmp_path: Path,
) -> None:
    program = [sys.executable, "-c", CHILD, str(tmp_path / "recorded")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    level, version, *rest = done.stdout.splitlines()
    assert (level, version) == ("ERROR", "41"), "each payment is two events"
    # Some of the twenty may have been gathered behind the last try: these are written.
    assert len(rest) == 1, rest
    head, _, lines = rest[0].rpartition(" ")
    left_out = int(head.rpartition('"left_out":')[2].split(",")[0].rstrip("}"))
    assert left_out + int(lines) == 21
    assert left_out >= 1
