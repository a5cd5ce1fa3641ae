"""Drift-report and drift-fleet, for the workstation: both sides, page, causes, fleet."""
