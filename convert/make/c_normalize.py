"""The normalization that a file leaves to the runtime, as a C function for microcontrollers.

It computes what :mod:`embedlite.runtime.input.normalize` computes, for every specification:

- A quotient by the maximum, of integers, no epsilon in the divisor: one float division of two integers below 2^11 (2^9
  where the embedding has eight bits), bit for bit the same. It stays the same where floats are evaluated in a wider
  format: such a quotient is no closer than 2^-37 of itself to the middle between two float32, so that rounding it twice
  is rounding it once.
- The same with an epsilon in the divisor: with epsilon / scale = B / A in lowest terms, the result is the fraction
  top A / (bottom A + B). A and B are known when the code is written; it divides them digit by digit, in as many 32-bit
  words as they need, and rounds once, to even. Bit for bit the same, too; no floating point but for the result.
- A quotient by the norm, and normalizations of a float output: the same operations in double. Within one unit in the
  last place, because numpy adds up squares in another order; a compiler whose double has 32 bits (AVR) is further off.

None of it holds under ``-ffast-math``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from string import Template

from ...runtime.model.contract import NormalizationSpec
from ...runtime.model.flatbuffer import TensorInfo
from ...runtime.model.normalizations import KINDS
from ..errors import ConversionError

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
_Read = Callable[[str], str]
_STEPS = 255  # between the lowest and the highest 8-bit integer


@dataclass(frozen=True)
class CFunction:
    """A function in C.

    Attributes:
        prototype: its declaration without the semicolon.
        definition: its definition, with what it needs in front.
        comment: what it does, for the header.
        needs_math: whether it calls ``<math.h>``.
    """

    prototype: str
    definition: str
    comment: str
    needs_math: bool = False


def normalize_function(name: str, spec: NormalizationSpec, raw: TensorInfo, c_type: str) -> CFunction:
    """``void NAME_normalize(const TYPE *raw, float *embedding)``.

    Args:
        name: prefix of everything that is defined.
        spec: of any kind but ``none``; its axes are those of ``raw``.
        raw: the file's output tensor, int8, uint8 or float32.
        c_type: the type of its values in C.

    Raises:
        ConversionError: the tensor has no such axes.
    """
    raw, read, support = _added(name, spec, raw, c_type)
    rank = len(raw.shape)
    if not all(-rank <= axis < rank for axis in spec.axes):
        raise ConversionError(
            f"the normalization reduces over the axes {list(spec.axes)}, but the file's output has the shape "
            f"{list(raw.shape)}. Export the model again."
        )
    kept, reduced = _strides(raw.shape, {axis % rank for axis in spec.axes})
    norm = KINDS[spec.kind].measure == "norm"
    steps = _by_norm(spec, raw, read) if norm else _by_max(name, spec, raw, read)
    at = f"const int32_t at = first + {_index('j', reduced)};"
    group = [
        f"const int32_t first = {_index('i', kept)};",
        *steps.begin,
        *_nest("j", reduced, [at, *steps.each]),
        *steps.end,
        *_nest("j", reduced, [at, *steps.result]),
    ]
    prototype = f"void {name}_normalize(const {c_type} *raw, float *embedding)"
    body = "".join(f"    {line}\n" for line in _nest("i", kept, group))
    comment = "/* The output tensor to the embedding: the normalization that the file itself leaves out. */"
    definition = f"{support}{steps.support}{prototype}\n{{\n{body}}}\n"
    return CFunction(prototype, definition, comment, needs_math=norm)


def added(spec: NormalizationSpec, raw: TensorInfo) -> TensorInfo:
    """The raw embedding as a tensor: the file's output, or the sum of its copies."""
    if spec.copies == 1:
        return raw
    return raw._replace(shape=(*raw.shape[:-1], raw.shape[-1] // spec.copies), zero_point=(spec.zero_point,))


def _added(name: str, spec: NormalizationSpec, raw: TensorInfo, c_type: str) -> tuple[TensorInfo, _Read, str]:
    """The same, how a value of it is read in C, and the function that does it."""
    if spec.copies == 1:
        return raw, lambda at: f"raw[{at}]", ""
    one = added(spec, raw)
    count = one.shape[-1]
    terms = " + ".join(f"part[{count * place}]" for place in range(spec.copies))
    support = (
        f"/* One value of the raw embedding: the sum of its {spec.copies} copies in the output tensor. */\n"
        f"static int32_t {name}_raw(const {c_type} *raw, int32_t at)\n{{\n"
        f"    const {c_type} *part = raw + at / {count} * {raw.shape[-1]} + at % {count};\n    return {terms};\n}}\n\n"
    )
    return one, lambda at: f"{name}_raw(raw, {at})", support


def _strides(shape: tuple[int, ...], axes: set[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Size and stride of the loops over the axes that are kept, and of those reduced over; neighbours are one loop."""
    kinds: tuple[list[tuple[int, int]], list[tuple[int, int]]] = ([], [])
    before, stride = None, math.prod(shape)
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        stride //= size
        loops = kinds[axis in axes]
        if before is loops:
            size *= loops.pop()[0]  # noqa: PLW2901 -- one loop over both axes
        loops.append((size, stride))
        before = loops
    return kinds


def _index(variable: str, loops: list[tuple[int, int]]) -> str:
    terms = [f"{variable}{n}" + (f" * {stride}" if stride != 1 else "") for n, (_, stride) in enumerate(loops)]
    return " + ".join(terms) or "0"


def _nest(variable: str, loops: list[tuple[int, int]], lines: list[str]) -> list[str]:
    """The lines inside a loop for each of ``loops``, the first one outermost."""
    for n, (size, _) in reversed(list(enumerate(loops))):
        counter = f"{variable}{n}"
        head = f"for (int32_t {counter} = 0; {counter} < {size}; {counter}++) {{"
        lines = [head, *(f"    {line}" for line in lines), "}"]
    return lines if loops or variable == "i" else ["{", *(f"    {line}" for line in lines), "}"]


@dataclass(frozen=True)
class _Steps:
    """Lines of C for one group of values that share a divisor; ``first`` and ``at`` are indices into both arrays.

    Attributes:
        begin: before the group is read.
        each: for each of its values.
        end: makes the divisor.
        result: for each of its values again, makes the embedding.
        support: the functions that these lines call.
    """

    begin: tuple[str, ...]
    each: tuple[str, ...]
    end: tuple[str, ...]
    result: tuple[str, ...]
    support: str = ""


def _by_max(name: str, spec: NormalizationSpec, raw: TensorInfo, read: _Read) -> _Steps:
    integers = raw.dtype in _LIMITS
    number = "int32_t" if integers else "double"
    zero = f" - ({raw.zero_point[0]})" if integers else ""
    quotient = "(float)top / (float)divisor" if integers else "(float)(top / divisor)"
    kind = KINDS[spec.kind]
    first = read("first")
    steps = _Steps(
        begin=(f"{number} {f'lowest = {first}, ' if kind.shifts else ''}highest = {first};",),
        each=(
            f"const {number} value = {read('at')};",
            *(("lowest = value < lowest ? value : lowest;",) if kind.shifts else ()),
            "highest = value > highest ? value : highest;",
        ),
        end=(f"{number} divisor = highest{zero if kind.signed(spec.divisor) else ' - lowest'};",),
        result=(
            f"const {number} top = {read('at')}{' - lowest' if kind.shifts else zero};",
            f"embedding[at] = divisor == 0 ? 0.0f : {quotient};",
        ),
    )
    if not integers:
        return replace(steps, end=(*steps.end, *_guard(spec)))
    epsilon = Fraction(spec.epsilon) / Fraction(raw.scale[0]) if spec.epsilon_mode != "none" else Fraction(0)
    # Shifted values are integers from 0 to the divisor: where that is 0, so is the result, whatever the epsilon.
    if epsilon == 0 or (spec.epsilon_mode == "max" and not kind.signed(spec.divisor) and epsilon <= 1):
        return steps
    return _exactly(name, steps, epsilon, spec, raw)


def _by_norm(spec: NormalizationSpec, raw: TensorInfo, read: _Read) -> _Steps:
    integers = raw.dtype in _LIMITS
    value, scale = (f"{read('at')} - ({raw.zero_point[0]})", f" * {raw.scale[0]!r}") if integers else (read("at"), "")
    number, total = ("int32_t", "int64_t") if integers else ("double", "double")
    return _Steps(
        begin=(f"{total} sum = 0;",),
        each=(f"const {number} value = {value};", "sum += value * value;"),
        end=(f"double divisor = sqrt((double)sum){scale};", *_guard(spec)),
        result=(
            f"const double top = (double)({value}){scale};",
            "embedding[at] = divisor == 0 ? 0.0f : (float)(top / divisor);",
        ),
    )


def _guard(spec: NormalizationSpec) -> tuple[str, ...]:
    epsilon = repr(float(spec.epsilon))
    lines = {"add": f"divisor += {epsilon};", "max": f"divisor = divisor < {epsilon} ? {epsilon} : divisor;"}
    return (lines[spec.epsilon_mode],) if spec.epsilon_mode in lines else ()


def _exactly(name: str, steps: _Steps, epsilon: Fraction, spec: NormalizationSpec, raw: TensorInfo) -> _Steps:
    """The same steps with a rational epsilon, in units of the scale, in the divisor."""
    one, numerator = epsilon.denominator, epsilon.numerator
    furthest = steps_between = _STEPS * spec.copies
    kind = KINDS[spec.kind]
    if kind.signed(spec.divisor):
        furthest = max(abs(limit * spec.copies - raw.zero_point[0]) for limit in _LIMITS[raw.dtype])
    largest = max(steps_between * one, furthest * one + numerator)
    # The division doubles one number until it is larger than the other, and then the remainder.
    words = -(-(largest.bit_length() + 2) // 32)
    constants = {"one": _words(one, words), "epsilon": _words(numerator, words)}
    support = Template(_DIVIDE).substitute(name=name, words=words, **constants)
    # What was not shifted may be negative itself.
    top, turned = ("top", "{0}") if kind.shifts else ("(top < 0 ? -top : top)", "top < 0 ? -{0} : {0}")
    divide = f"{name}_divide((uint32_t){top}"
    if spec.epsilon_mode == "add":
        return replace(
            steps,
            end=(
                *steps.end,
                f"uint32_t guarded[{words}];",
                f"const int sign = {name}_guard(divisor, guarded);",
            ),
            result=(steps.result[0], f"embedding[at] = {divide}, guarded, {turned.format('sign')});"),
            support=support + Template(_GUARD).substitute(name=name, words=words),
        )
    # From here on the divisor is the larger one. No divisor reaches the cap.
    least = min(math.ceil(epsilon), 1000 * spec.copies)
    divided = f"{divide}, {name}_epsilon, {turned.format(1)})"
    result = f"embedding[at] = divisor >= {least} ? (float)top / (float)divisor : {divided};"
    return replace(steps, result=(steps.result[0], result), support=support)


def _words(value: int, count: int) -> str:
    return ", ".join(f"0x{value >> 32 * n & 0xFFFFFFFF:08X}u" for n in range(count))


_DIVIDE = """\
/* Epsilon over the scale is the fraction ${name}_epsilon / ${name}_one: integers of $words words, the lowest first. */
static const uint32_t ${name}_one[$words] = {$one};
static const uint32_t ${name}_epsilon[$words] = {$epsilon};

static int ${name}_less(const uint32_t *a, const uint32_t *b)
{
    int n = $words - 1;
    while (n > 0 && a[n] == b[n]) {
        n--;
    }
    return a[n] < b[n];
}

static void ${name}_add(uint32_t *a, const uint32_t *b)
{
    uint64_t sum = 0;
    for (int n = 0; n < $words; n++) {
        sum += (uint64_t)a[n] + b[n];
        a[n] = (uint32_t)sum;
        sum >>= 32;
    }
}

static void ${name}_subtract(uint32_t *difference, const uint32_t *a, const uint32_t *b)
{
    uint32_t borrow = 0;
    for (int n = 0; n < $words; n++) {
        const uint64_t word = (uint64_t)a[n] - b[n] - borrow;
        difference[n] = (uint32_t)word;
        borrow = (uint32_t)(word >> 63);
    }
}

/* product = factor * one */
static void ${name}_scale(uint32_t *product, uint32_t factor)
{
    uint64_t sum = 0;
    for (int n = 0; n < $words; n++) {
        sum += (uint64_t)factor * ${name}_one[n];
        product[n] = (uint32_t)sum;
        sum >>= 32;
    }
}

/* sign * top * one / divisor, rounded once, to even; 0 if sign is 0. */
static float ${name}_divide(uint32_t top, const uint32_t *divisor, int sign)
{
    uint32_t p[$words], q[$words], digits = 0;
    int count = 0, exponent = 0;
    float result;
    if (top == 0 || sign == 0) {
        return 0.0f;
    }
    ${name}_scale(p, top);
    for (int n = 0; n < $words; n++) {
        q[n] = divisor[n];
    }
    for (; ${name}_less(p, q); exponent--) {
        ${name}_add(p, p);
    }
    for (; !${name}_less(p, q); exponent++) {
        ${name}_add(q, q);
    }
    /* Now 1/2 <= p / q < 1. A float has 24 digits, and none beyond 2^-149. */
    for (; count < 24 && exponent - count > -149; count++) {
        ${name}_add(p, p);
        digits *= 2;
        if (!${name}_less(p, q)) {
            ${name}_subtract(p, p, q);
            digits++;
        }
    }
    ${name}_add(p, p);
    if (${name}_less(q, p) || (!${name}_less(p, q) && digits % 2 == 1)) {
        digits++;
    }
    result = (float)digits;
    for (; exponent < count; exponent++) {
        result *= 0.5f;
    }
    for (; exponent > count; exponent--) {
        result *= 2.0f;
    }
    return sign < 0 ? -result : result;
}

"""

_GUARD = """\
/* guarded = |bottom * one + epsilon|; returns the sign. */
static int ${name}_guard(int32_t bottom, uint32_t *guarded)
{
    ${name}_scale(guarded, (uint32_t)(bottom < 0 ? -bottom : bottom));
    if (bottom >= 0) {
        ${name}_add(guarded, ${name}_epsilon);
        return 1;
    }
    if (${name}_less(guarded, ${name}_epsilon)) {
        ${name}_subtract(guarded, ${name}_epsilon, guarded);
        return 1;
    }
    if (${name}_less(${name}_epsilon, guarded)) {
        ${name}_subtract(guarded, guarded, ${name}_epsilon);
        return -1;
    }
    return 0;
}

"""
