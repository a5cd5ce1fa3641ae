"""``export-tflite``, as installed everywhere: on a device without TensorFlow it says what is missing."""

from __future__ import annotations

import sys

import click

from .errors import MissingPackageError


def main() -> None:
    """The ``export-tflite`` program."""
    try:
        from ..convert.cli import main as export_main
    except MissingPackageError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    export_main()
