"""What every command shares: options, errors as one line, exit codes, silence from C++.

Exit codes: 0 done; 1 the answer is bad (a gate failed); 2 the request or the environment is wrong;
130 interrupted, 143 terminated. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import signal
import sys
import tempfile
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..child_limits import chatter_of, is_first_to_say, own_folder
from ..errors import EXIT_INTERRUPTED, EmbedliteError, EmbedliteWarning
from ..files import check_names, check_writable, has_written, json_bytes, write_file
from ..options import ACCEPT, ENGINE, FEATURE, THREADS, Row, rows
from ..printable import one_line, printable
from ..progress import telling
from ..version import __version__
from .signals import Terminated, ended_by_signals
from .start import ENDING
from .streams import check_stdout, own_streams, text_stream
from .supervise import in_own_process

_TALKATIVE = ("tensorflow", "absl")
"""Loggers of libraries that warn of their own deprecations."""

_F = TypeVar("_F", bound=Callable[..., Any])


_COMMON = "Every command"
"""The title of the options that all commands have; it comes last."""


class GroupedOption(click.Option):
    """An option that ``--help`` shows under its group's title."""

    def __init__(self, *arguments: Any, group: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.group = group


def in_group(title: str) -> Callable[..., Callable[[_F], _F]]:
    """``click.option`` for the options of one group."""
    return functools.partial(click.option, cls=GroupedOption, group=title)


class Command(click.Command):
    """A command whose ``--help`` begins with an example and shows its options in groups.

    Args:
        example: a command line that works as it stands in the folder that the project's example leaves.
        stages: whether its stages leave a line with their seconds on stderr.
        answers: what people ask who run it for the first time, and the answers.
    """

    def __init__(
        self,
        *arguments: Any,
        example: str,
        stages: bool = False,
        answers: Sequence[tuple[str, str]] = (),
        **more: Any,
    ) -> None:
        super().__init__(*arguments, **more)
        self.example, self._stages, self._answers = example, stages, answers

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, telling of its work as much as was asked for."""
        # Who asks for JSON in place of text is a program.
        with telling(lines=self._stages and ctx.params.get("json_path") != "-", quiet=is_quiet()):
            return super().invoke(ctx)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, and the usage after it."""
        formatter.write(f"Example: {self.example}\n\n")
        super().format_usage(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The answers, and the options by their groups, in the order of the first of each."""
        if self._answers:
            with formatter.section("Questions"):
                formatter.write_dl(self._answers)
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", _COMMON), []).append(record)
        for title, records in sorted(groups.items(), key=lambda group: group[0] == _COMMON):
            with formatter.section(title):
                formatter.write_dl(records)


def options_of(group: type[Any], into: str, *, leave_out: Sequence[str] = ()) -> Callable[[_F], _F]:
    """Adds the options that a class declares (see :mod:`embedlite.runtime.options`).

    Args:
        group: the class.
        into: the command receives an object of it by this name.
        leave_out: options that this command has no use for.
    """
    chosen = [row for row in rows(group) if row.option.command and row.name not in leave_out]

    def add(function: _F) -> _F:
        @functools.wraps(function)
        def gathered(**values: Any) -> Any:
            said = {row.name: values.pop(row.name) for row in chosen}
            return function(**{into: group(**said)}, **values)

        command: Any = gathered
        for row in reversed(chosen):
            command = row_option(row)(command)
        gathered_command: _F = command
        return gathered_command

    return add


def row_option(row: Row) -> Callable[[_F], _F]:
    """The click option that a row declares."""
    declared = row.option
    flags = [declared.short] if declared.short else []
    more: dict[str, Any] = {"help": declared.help, "metavar": declared.metavar or None, "default": row.default}
    if row.kind is bool:
        more |= {"is_flag": True, "metavar": None}
        flags.append(f"{row.flag}/--no-{row.flag[2:]}" if row.default else row.flag)
    else:
        flags.append(row.flag)
        more |= {"type": _type(row), "multiple": row.default == (), "show_default": row.default not in (None, ())}
        if declared.choices:
            more["shell_complete"] = functools.partial(_known_words, declared.choices)
    return click.option(*flags, row.name, callback=_parser(row), cls=GroupedOption, group=row.group, **more)


def _known_words(words: Sequence[str], _: click.Context, __: click.Parameter, begun: str) -> list[str]:
    return [word for word in words if word.startswith(begun)]


def _type(row: Row) -> Any:
    """The click type of a row."""
    kinds = {row.kind, *typing.get_args(row.kind)}
    if row.option.parse is not None:
        return click.STRING
    if int in kinds:
        return click.INT if row.option.least is None else click.IntRange(min=row.option.least)
    if float in kinds:
        return click.FLOAT
    return click.Path(path_type=Path) if Path in kinds else click.STRING


def _parser(row: Row) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """The callback that makes a value of text, with the parser's reason in click's error."""

    def parse(_: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return row.option.parse(value) if row.option.parse is not None and isinstance(value, str) else value
        except ValueError as error:
            raise click.BadParameter(str(error), param=parameter) from None

    return parse


def common_options(function: _F) -> _F:
    """Adds ``-h --version -v --quiet --json`` to a command."""
    for option in (
        click.option("--json", "json_path", metavar="FILE", help="Write the result as JSON; - is stdout."),
        click.option(
            "--quiet",
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_be_quiet,
            help="Print errors alone; files, --json - and the exit code say the rest.",
        ),
        click.option(
            "-v",
            "--verbose",
            count=True,
            expose_value=False,
            callback=_give_details,
            help="Print details, too; -vv also what the libraries print.",
        ),
        click.version_option(__version__, message="%(prog)s (embedlite) %(version)s"),
        click.help_option("-h", "--help"),
    ):
        function = option(function)
    return function


threads_option = row_option(Row("threads", int, None, "Run", THREADS))
feature_option = row_option(Row("feature", str, None, "Images", FEATURE))
accept_option = row_option(Row("accept_contract", bool, False, "Input", ACCEPT))
engine_option = row_option(Row("engine", str, "local", "Run", ENGINE))


_DETAILS, _QUIET = "embedlite.details", "embedlite.quiet"


def _be_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    context.meta[_QUIET] = value


def _give_details(context: click.Context, _: click.Parameter, count: int) -> None:
    if count and context.meta.get(_QUIET):
        raise click.UsageError("--quiet and -v say opposite things: leave one out")
    context.meta[_DETAILS] = bool(count)


def is_verbose() -> bool:
    """Whether ``-v`` was given to the command that runs."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_DETAILS))


def is_quiet() -> bool:
    """Whether ``--quiet`` was given to the command that runs."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(_QUIET))


def _wants_chatter(arguments: Sequence[str]) -> bool:
    """Whether ``-vv`` is among the arguments, which decides before they are read in full."""
    return sum({"-v": 1, "--verbose": 1, "-vv": 2, "-vvv": 3}.get(word, 0) for word in arguments) > 1


def run_command(command: click.Command, *, runs_models: bool = False) -> None:
    """Run a click command as a program and leave with the right exit code.

    Args:
        command: the command.
        runs_models: it may be handed a model file from elsewhere, so it works in a process of its own.
    """
    warnings.showwarning = _show_warning
    with own_streams():
        if runs_models:
            try:
                in_own_process()
            except EmbedliteError as error:
                click.echo(f"error: {one_line(str(error))}", err=True)
                sys.exit(error.exit_code)
        with contextlib.nullcontext() if _wants_chatter(sys.argv[1:]) else quiet_libraries():
            code = _run(command)
            if own_folder() is not None:
                # Taking TensorFlow apart takes a second.
                atexit._run_exitfuncs()
                os._exit(code)
            sys.exit(code)


def _run(command: click.Command) -> int:
    try:
        with ended_by_signals():
            code = command.main(standalone_mode=False)
        return code if isinstance(code, int) else 0
    except EmbedliteError as error:
        click.echo(f"error: {one_line(str(error))}", err=True)
        return error.exit_code
    except click.ClickException as error:
        vars(error)["message"] = one_line(error.message)
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        said = "all files had been written before" if has_written() else "nothing was written"
        folder = own_folder()
        if folder is None or is_first_to_say(folder):
            click.echo(f"interrupted: {said}.", err=True)
        # click turns what interrupted it into an error of its own.
        ended = next((cause for cause in (error, error.__cause__) if isinstance(cause, Terminated)), None)
        return EXIT_INTERRUPTED if ended is None else ended.exit_code
    except Exception:
        # Exit code 1 is an answer, so an error that nobody foresaw must not end with it, as Python's own would.
        traceback.print_exc()
        click.echo("error: this is a bug in embedlite; please report it with the lines above.", err=True)
        return EmbedliteError.exit_code
    finally:
        if own_folder() is not None:
            # All is done and said; while Python ends it would be a crash.
            for number in (signal.SIGINT, *ENDING):
                signal.signal(number, signal.SIG_IGN)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what C++ libraries print out of the terminal; our own messages still get there.

    They write to file descriptor 2 directly, so the descriptor is pointed at a temporary file and
    ``sys.stderr`` at a copy of the original. If Python itself fails unexpectedly, the file is shown; without room for
    such a file nothing is kept out.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
        # TensorFlow sets absl's level back while it saves a model.
        logging.getLogger(name).addFilter(_is_error)
    original = sys.stderr
    folder = own_folder()
    try:
        original.flush()
        private = os.dup(2)
        opened = tempfile.TemporaryFile if folder is None else chatter_of(os.getpid(), folder).open
        kept = opened("w+b")
    except (OSError, AttributeError):
        yield
        return
    with kept as chatter:
        sys.stderr = text_stream(private, results=False)
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except EmbedliteError:
            raise
        except Exception:
            chatter.seek(0)
            sys.stderr.write(chatter.read().decode("utf-8", "replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(sys.stderr.fileno(), 2)
            # The copy stays open: an exception on its way out is still printed through it.


def check_outputs(reads: Sequence[Any], *, json: str | None, **more: Path | None) -> None:
    """Refuse early what could not be written later, or would be written over something else.

    Args:
        reads: what the command reads.
        json: of ``--json``; ``-`` is stdout.
        more: its other outputs, by the names of their options.

    Raises:
        RequestError: two of them are the same file.
        OutputError: ``--json`` cannot be written.
    """
    named = {f"--{name.replace('_', '-')}": path for name, path in more.items()}
    check_names(reads, {**named, "--json": json})
    if json and json != "-":
        check_writable([Path(json)], force=True)


def emit_result(result: Any, text: str, json_path: str | None) -> None:
    """Show a result: its text on stdout, or its JSON there with ``--json -``, or both with a file; no text if quiet."""
    if json_path == "-":
        check_stdout()
        click.echo(json_bytes(result).decode(), nl=False)
        return
    # The file first: standard output may be full.
    if json_path:
        write_file(Path(json_path), json_bytes(result))
    if not is_quiet():
        click.echo(printable(text))


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    if issubclass(category, EmbedliteWarning) and not is_quiet():
        click.echo(f"note: {one_line(str(message))}", err=True)
