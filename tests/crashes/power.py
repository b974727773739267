"""Trials of a loss of power: an ext4 file system of its own on a loop device, shut down under way.

Rules: `FS_IOC_GOINGDOWN` ends the file system at once, without writing what it still held in
memory; it is unmounted and mounted again, which replays its journal, as after a real loss of power.
All mounts live in a mount namespace of the worker, so that the kernel takes them away with it,
however it ends. A machine that does not allow all this is told apart by a probe that tries it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from .story import Story
from .trial import Trial, fork, write

FRESH = 60
"""Operations that each life adds."""
IMAGE_BYTES = 32 * 1024 * 1024
FS_IOC_GOINGDOWN = 0x8004587D
LOG_FLUSH, NO_LOG_FLUSH = 1, 2
"""Whether the file system's own journal is written first: a loss of power writes nothing."""
FLAGS = {LOG_FLUSH: "with its journal written", NO_LOG_FLUSH: "without a warning"}
CLONE_NEWNS = 0x00020000
TOOLS = ("mkfs.ext4", "mount", "umount")


class LoopDisk:
    """A small ext4 file system that can lose its power. Needs root."""

    def __init__(self, folder: Path) -> None:
        self._image = folder / "image"
        self.point = folder / "mounted"
        self._mounted = False

    def __enter__(self) -> Self:
        self.point.mkdir(parents=True)
        self._image.touch()
        os.truncate(self._image, IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-F", "-J", "size=4", str(self._image))
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        if self._mounted:
            self._unmount()

    def cut(self, flag: int = NO_LOG_FLUSH) -> None:
        """Lose the power, now."""
        descriptor = os.open(self.point, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_GOINGDOWN, struct.pack("I", flag))
        finally:
            os.close(descriptor)

    def restart(self) -> None:
        """Come back after a loss of power, with what had reached the disk."""
        self._unmount()
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.point))
        self._mounted = True

    def _unmount(self) -> None:
        _run("umount", str(self.point))
        self._mounted = False


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def own_mounts() -> None:
    """Take this process into a mount namespace of its own, which ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS) failed")
    _run("mount", "--make-rprivate", "/")


def why_not() -> str:
    """Say why this machine cannot cut the power; nothing where it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "it needs root, to mount a file system"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{missing[0]} is not installed"
    said: list[bytes] = []
    fork(_probe, lambda _, line: said.append(line))
    return "" if said == [b"ok"] else b" ".join(said).decode() or "the probe died"


def _probe(pipe: int) -> None:
    try:
        own_mounts()
        with (
            tempfile.TemporaryDirectory(prefix="crashes-probe-") as folder,
            LoopDisk(Path(folder)) as disk,
        ):
            (disk.point / "file").write_text("never synced")
            disk.cut()
            disk.restart()
            lost = not (disk.point / "file").exists()
    except OSError as error:
        write(pipe, f"{error}\n".replace("\n", " ").encode() + b"\n")
    else:
        write(pipe, b"ok\n" if lost else b"what was never synced survived a cut\n")


def run_power(seed: int, folder: Path, *, lying: bool = False) -> Story:
    """Cut the power in one life or two, and live on in peace."""
    place = folder / f"power-{seed}"
    try:
        with LoopDisk(place) as disk:
            trial = Trial(seed, disk.point, place / "copy", cut=True, lying=lying)
            _live(trial, disk)
            while trial.random.random() < 0.5 and len(trial.story.ends) < 3:
                _live(trial, disk)
            trial.live_on()
            return trial.story
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _live(trial: Trial, disk: LoopDisk) -> None:
    random = trial.random
    nth = random.randint(1, FRESH // 2)
    later = random.choice((0.0, 0.0, random.random() * 0.01))
    lingers = random.choice((0.0, 0.003, 0.02))
    flag = random.choice((NO_LOG_FLUSH,) * 5 + (LOG_FLUSH,))
    cut = _Cut(trial, disk, nth, later, lingers, flag)
    trial.live(fresh=FRESH, acknowledged=cut)
    if not cut.done:
        # All was answered, and the engine was closed, before there were so many acknowledgements.
        disk.cut(flag)
    disk.restart()
    when = f"#{nth} {later * 1000:.1f} ms later, {lingers=}" if cut.done else "after the end"
    trial.over(f"cut {FLAGS[flag]} {when}")


class _Cut:
    """Cuts the power at an acknowledgement or soon after, and kills who may still try to write."""

    def __init__(
        self, trial: Trial, disk: LoopDisk, nth: int, later: float, lingers: float, flag: int
    ) -> None:
        self._trial = trial
        self._disk = disk
        self._nth = nth
        self._later = later
        self._lingers = lingers
        self._flag = flag
        self.done = False

    def __call__(self, pid: int, count: int) -> None:
        if count != self._nth:
            return
        time.sleep(self._later)
        self._trial.goes_dark()
        self._disk.cut(self._flag)
        self.done = True
        # For a moment it meets a disk that fails, and must not say yes to anybody.
        time.sleep(self._lingers)
        os.kill(pid, signal.SIGKILL)
