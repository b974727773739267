"""`foldline dashboard`: prints the Grafana dashboard, or the alert rules for Prometheus.

Rules: it prints a file of the package as it is, and opens nothing else.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from .options import DONE, USAGE
from .output import Output

__all__ = ["add_parser"]

_FOLDER: Final = Path(__file__).parents[1] / "integrations" / "prometheus"
_FILES: Final = {"grafana": "dashboard.json", "alerts": "alerts.yml"}

_DESCRIPTION = """\
Print a Grafana dashboard, or alert rules for Prometheus, for the metrics that an engine publishes
by OpenTelemetry."""

_EPILOG = f"""\
exit status:
  {DONE}    printed
  {USAGE}    wrong arguments"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "dashboard",
        help="print a Grafana dashboard, or alert rules",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", choices=sorted(_FILES), help="grafana: a JSON file to import; alerts: a rules file"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    text = (_FOLDER / _FILES[options.what]).read_text(encoding="utf-8")
    output = Output(utf8=True)
    output.show(text.splitlines())
    output.flush()
    return DONE
