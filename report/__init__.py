"""Drift-report and drift-fleet, for the workstation: both sides, page, causes, fleet."""

from __future__ import annotations

from ..runtime.commands.start import start


def drift_fleet() -> None:
    """``drift-fleet``."""
    start("embedlite.report.fleet.command")


def drift_report() -> None:
    """``drift-report``."""
    start("embedlite.report.command")
