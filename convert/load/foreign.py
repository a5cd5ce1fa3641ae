"""What TensorFlow and Keras raise, as one line: the reason, without their configurations, addresses and MLIR."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

from ...runtime.errors import EmbedliteError

_LIBRARIES = ("tensorflow", "keras", "tf_keras", "h5py", "google", "litert_quantizer", "ai_edge_litert")
"""Packages whose exceptions are told as theirs; what no frame of theirs was in is our own mistake."""

_TITLES = {"keras": "Keras", "tf_keras": "tf-keras", "tensorflow": "TensorFlow"}

_LONGEST = 300
"""Characters of a reason."""

_NO_OPERATOR = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")
_OPERATION = re.compile(r'fused\["\w+:", "([^"@]+)')
_CONFIGURATION = re.compile(
    r",? using config=\{| Full object config: | Received: config=|,? ?\(?(of )?config(uration)?[=:] ?\{"
)

_DECORATION = re.compile(r"\x1b\[[0-9;]*m|\{\{function_node [^}]*\}\} ?| \[Op:\w+\]( name:.*)?")
"""Colours, and names that TensorFlow gives functions of its own."""

_CALLING = re.compile(r"Exception encountered when calling ")
"""What Keras writes in front of the reason."""


@contextlib.contextmanager
def told(kind: type[EmbedliteError], name: str, framework: str, failed: str, way_out: str) -> Iterator[None]:
    """Have what a library raises inside told in one line; our own errors, and mistakes of ours, pass through.

    Args:
        kind: the class of the error.
        name: what to call the model.
        framework: who runs it, see :func:`versions`.
        failed: what failed, after the name: ``cannot be converted``.
        way_out: one or two sentences: what to do.

    Raises:
        EmbedliteError: of ``kind``.
    """
    try:
        yield
    except (EmbedliteError, MemoryError):
        raise
    except Exception as error:
        if not _is_foreign(error):
            raise
        raise kind(f"{name} {failed} ({framework}): {reason(error)}. {way_out}") from error


def versions(kind: str, *modules: str) -> str:
    """A kind of model with the versions of the modules that run it: ``Functional, Keras 3.15.1, TensorFlow 2.21.0``."""
    return ", ".join([kind, *(f"{_TITLES[name]} {sys.modules[name].__version__}" for name in modules)])


def _is_foreign(error: BaseException) -> bool:
    """Whether code of a library was running when it was raised."""
    modules = [type(error).__module__]
    trace = error.__traceback__
    while trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__")))
        trace = trace.tb_next
    # A file nested beyond measure ends up in whatever code walks it.
    return isinstance(error, RecursionError) or any(module.partition(".")[0] in _LIBRARIES for module in modules)


def reason(error: BaseException) -> str:
    """Why a library raised an exception, in one line of at most 300 characters; its class where it has no text.

    Keras puts its own reason after the configuration of the layer, TensorFlow's converter among the locations of MLIR,
    and both write pages.
    """
    text = _DECORATION.sub("", str(error)).strip()
    without = _without_operators(text)
    if without:
        return without
    _, _, text = text.rpartition("Exception encountered: ")
    text = text.rpartition("Could not translate MLIR to FlatBuffer.")[2]
    lines = [line.strip() for line in _without_locations(text).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    first = lines[0]
    if len(lines) > 1 and _CALLING.match(first):
        first = lines[1]
    elif len(lines) > 1 and first.endswith(":"):
        first = f"{first} {lines[1]}"  # "An example:", says Keras, and gives it in the next line
    first = _CONFIGURATION.split(first)[0].strip().rstrip(".:;,( ")
    if isinstance(error, LookupError | AttributeError | AssertionError):
        first = f"{type(error).__name__}: {first}"
    return first if len(first) <= _LONGEST else f"{first[:_LONGEST].rsplit(' ', 1)[0]} ..."


def _without_operators(text: str) -> str:
    """What the converter says where TFLite lacks operators: those, and the layers that need them."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        lacking = _NO_OPERATOR.search(line)
        if lacking is not None:
            operation = _OPERATION.search(line)
            scopes = [] if operation is None else operation[1].split("/")
            layer = "/".join(scopes[1:-1] or scopes[:-1])  # without the model's own name, and the operation's
            found.setdefault(lacking[1], []).extend([layer] if layer else [])
    if not found:
        return ""
    parts = []
    for operator, layers in found.items():
        names = ", ".join(repr(layer) for layer in list(dict.fromkeys(layers))[:4])
        parts.append(operator + (f" (in {names})" if names else ""))
    return f"TFLite has no operator for {', nor for '.join(parts)}"


def _without_locations(text: str) -> str:
    """A text without MLIR's ``<unknown>:0: error: loc(callsite(...))``, whose parentheses nest."""
    text = text.replace("<unknown>:0: ", "").replace("error: ", "")
    while (start := text.find("loc(")) >= 0:
        depth, end = 0, start + 3
        while end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
            if depth == 0:
                break
        text = text[:start] + text[end:].lstrip(": ")
    return text
