"""Which peers do the same work in the same run, and which cannot be here.

Rules: a peer is measured in its fastest configuration at the engine's durability, which its file
reads back. One that is not installed is left out with a line that says how to install it; asked for
by name, it is an error. Nothing of a peer is imported before it is measured.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

import msgspec

from .systems import System

__all__ = ["Found", "Peer", "PeerMissing", "add_option", "find"]


class Peer(msgspec.Struct, frozen=True):
    """A package that can do the work."""

    distribution: str
    module: str
    """The file here that has its `systems(name)` and says its `CONFIGURATION`."""
    python: tuple[int, int]
    """The oldest Python for which it can be had."""
    on_postgres: str = ""
    """The file for a store in PostgreSQL, where it has one."""


class Found(msgspec.Struct, frozen=True):
    """The peers that are here."""

    systems: Sequence[System]
    left_out: Sequence[str]
    configurations: Mapping[str, str]
    """How each is set up, by the name of its system."""


class PeerMissing(Exception):
    """A peer was asked for by name and is not installed."""


PEERS: Final = (
    Peer("eventsourcing", "peer_eventsourcing", (3, 11), "peer_eventsourcing_postgres"),
    Peer("eventsource-py", "peer_eventsource_py", (3, 13)),
)
INSTALL: Final = "pip install 'foldline[bench]' (in a clone: pip install -e '.[bench]')"


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add the choice of peers."""
    names = [peer.distribution for peer in PEERS]
    parser.add_argument("--peers", nargs="*", choices=names, help="default: all that are installed")


def find(asked: Sequence[str] | None, store: str = "sqlite") -> Found:
    """Give the peers that were asked for, or all that are installed where None is given.

    Those without a store in PostgreSQL are left out where that is asked for.

    Raises PeerMissing for one that was asked for and is not there.
    """
    systems: list[System] = []
    left_out: list[str] = []
    configurations: dict[str, str] = {}
    for peer in PEERS:
        file = peer.on_postgres if store == "postgresql" else peer.module
        if not file or (asked is not None and peer.distribution not in asked):
            continue
        try:
            name = f"{peer.distribution} {metadata.version(peer.distribution)}"
            module = importlib.import_module(f".{file}", __package__)
            made = module.systems(name)
        except (metadata.PackageNotFoundError, ModuleNotFoundError):
            if asked is not None:
                raise PeerMissing(_missing(peer)) from None
            left_out.append(_missing(peer))
            continue
        systems += made
        configurations[name] = module.CONFIGURATION
    return Found(systems, left_out, configurations)


def _missing(peer: Peer) -> str:
    needed = ".".join(map(str, peer.python))
    if sys.version_info < peer.python:
        here = ".".join(map(str, sys.version_info[:2]))
        return f"{peer.distribution} needs Python {needed}, and this is {here}"
    return f"{peer.distribution} is not installed: {INSTALL}"
