"""What every command shares: options, errors as one line, exit codes, silence from C++.

Exit codes: 0 done; 1 the answer is bad (a gate failed); 2 the request or the environment is wrong;
130 interrupted. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import EXIT_INTERRUPTED, EmbedliteError, EmbedliteWarning, RequestError
from ..files import check_writable, json_bytes, write_file
from ..images.remote import is_url
from ..model.contract import InputOptions
from ..version import __version__

_TALKATIVE = ("tensorflow", "absl")
"""Loggers of libraries that warn of their own deprecations."""

_F = TypeVar("_F", bound=Callable[..., Any])


def _numbers(_: click.Context, parameter: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    try:
        return None if value is None else tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no number or list of numbers with commas, such as 127.5 or 123.7,116.8,103.9",
            param=parameter,
        ) from None


def common_options(function: _F) -> _F:
    """Adds ``-h --version -v --threads --json`` to a command."""
    for option in (
        click.option("--json", "json_path", metavar="FILE", help="Write the result as JSON; - is stdout."),
        click.option("--threads", type=click.IntRange(min=1), help="Processors to use.  [default: all]"),
        click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Show what the libraries print."),
        click.version_option(__version__, message="%(prog)s (embedlite) %(version)s"),
        click.help_option("-h", "--help"),
    ):
        function = option(function)
    return function


def input_options(function: _F) -> _F:
    """Adds the options that describe a model's input; the command receives them as one ``inputs``."""

    @functools.wraps(function)
    def gathered(
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        color_order: str | None,
        resampler: str | None,
        **others: Any,
    ) -> Any:
        return function(inputs=InputOptions(mean, std, color_order, resampler), **others)

    command: Any = gathered
    for option in (
        click.option("--resampler", help="How image files are stretched to the model's size.  [default: bilinear]"),
        click.option("--color-order", help="rgb, bgr, gray or rgba.  [default: by the number of channels]"),
        click.option(
            "--std",
            callback=_numbers,
            metavar="X[,X...]",
            help="Divisor of pixels, one number or one a channel.  [default: 255]",
        ),
        click.option(
            "--mean", callback=_numbers, metavar="X[,X...]", help="Subtracted from pixels, likewise.  [default: 0]"
        ),
    ):
        command = option(command)
    gathered_command: _F = command
    return gathered_command


def feature_option(function: _F) -> _F:
    """Adds ``--feature``."""
    decorated: _F = click.option(
        "--feature", metavar="NAME", help="What holds the images: a feature of a .tfrecord, or an array of a .npz."
    )(function)
    return decorated


def engine_option(function: _F) -> _F:
    """Adds ``--engine``."""
    decorated: _F = click.option(
        "--engine",
        default="local",
        show_default=True,
        metavar="WHERE",
        help="What runs the images: local, dask (a cluster of processes here), tcp://host:8786 (a Dask scheduler).",
    )(function)
    return decorated


def run_command(command: click.Command) -> None:
    """Run a click command as a program and leave with the right exit code."""
    verbose = bool({"-v", "--verbose"}.intersection(sys.argv[1:]))
    warnings.showwarning = _show_warning
    with contextlib.nullcontext() if verbose else quiet_libraries():
        sys.exit(_run(command))


def _run(command: click.Command) -> int:
    try:
        code = command.main(standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except EmbedliteError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: nothing was written.", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        # Exit code 1 is an answer, so an error that nobody foresaw must not end with it, as Python's own would.
        traceback.print_exc()
        click.echo("error: this is a bug in embedlite; please report it with the lines above.", err=True)
        return EmbedliteError.exit_code


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what C++ libraries print out of the terminal; our own messages still get there.

    They write to file descriptor 2 directly, so the descriptor is pointed at a temporary file and
    ``sys.stderr`` at a copy of the original. If Python itself fails unexpectedly, the file is shown.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    original = sys.stderr
    try:
        original.flush()
        private = os.dup(2)
    except (OSError, AttributeError):
        yield
        return
    with tempfile.TemporaryFile() as chatter:
        sys.stderr = io.TextIOWrapper(os.fdopen(private, "wb", 0), "utf-8", "backslashreplace", write_through=True)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except Exception:
            chatter.seek(0)
            sys.stderr.write(chatter.read().decode("utf-8", "replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(sys.stderr.fileno(), 2)
            # The copy stays open: an exception on its way out is still printed through it.


def data_location(value: str) -> Path | str:
    """The type of options that name images: a path, or a URL as text, because a path makes one slash of two."""
    return value if is_url(value) else Path(value)


def check_json_path(json_path: str | None, *others: Path | str | None) -> None:
    """Refuse early what ``--json`` could not write later, or would write over: the command's other files."""
    if json_path and json_path != "-":
        check_distinct(Path(json_path), *others)
        check_writable([Path(json_path)], force=True)


def check_distinct(output: Path, *others: Path | str | None) -> None:
    """Refuse an output that is one of the command's inputs or other outputs.

    Raises:
        RequestError: it is.
    """
    for other in others:
        if isinstance(other, Path) and output.resolve() == other.resolve():
            raise RequestError(f"{output} is named twice, and one use would destroy the other. Name another output.")


def emit_result(result: Any, text: str, json_path: str | None) -> None:
    """Show a result: its text on stdout, or its JSON there with ``--json -``, or both with a file."""
    if json_path == "-":
        click.echo(json_bytes(result).decode(), nl=False)
        return
    click.echo(text)
    if json_path:
        write_file(Path(json_path), json_bytes(result))


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, EmbedliteWarning):
        click.echo(f"note: {message}", err=True)
