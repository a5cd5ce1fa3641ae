"""A file's contract as one C header, for programs that load the ``.tflite`` themselves (LiteRT's C API, C and C++).

Everything is ``static``, so the header is all there is: sizes, what turns pixels into the input tensor and the output
tensor into the embedding, and one golden vector to replay. It computes what
:mod:`embedlite.runtime.input.preprocess`, :mod:`embedlite.runtime.input.normalize` and
:mod:`embedlite.runtime.check.selftest` compute, is C99 and C++11, and includes nothing but ``<stdint.h>`` (L2 also
``<math.h>``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from string import Template

import numpy as np

from ...runtime.check.golden import Golden, parse_golden
from ...runtime.check.selftest import FLOAT_TOLERANCE, quantized_limit
from ...runtime.drift import measure_drift
from ...runtime.files import sha256
from ...runtime.input.tf_resample import leaves_fractions
from ...runtime.model.artifact import parse_artifact
from ...runtime.model.contract import Contract
from ...runtime.model.flatbuffer import TensorInfo, read_flatbuffer
from ...runtime.version import __version__
from ..errors import ConversionError
from .c_normalize import CFunction, added, normalize_function
from .c_source import c_float, c_identifier, c_type, constants_of, preprocess_function
from .names import header_name

_VALUES_A_LINE = 12


def c_headers(files: Mapping[Path, bytes]) -> tuple[dict[Path, bytes], list[str]]:
    """The headers of deployed files, beside them, and a line for each file that gets none.

    Args:
        files: content by path.
    """
    headers, without = dict[Path, bytes](), list[str]()
    for path, data in files.items():
        try:
            headers[path.with_name(header_name(path.stem))] = c_header(path.stem, data)
        except ConversionError as error:
            without.append(f"{path.name} gets no C header: {error}")
    return headers, without


def c_header(stem: str, data: bytes) -> bytes:
    """The header of a deployed file; the same file gives the same bytes.

    Args:
        stem: of the ``.tflite`` file; everything in the header is called after it.
        data: the file, contract and golden vectors included.

    Raises:
        ConversionError: a tensor at the ends is of another type, or the file carries no golden vectors.
    """
    artifact = parse_artifact(data)
    contract = artifact.contract
    assert contract is not None
    if artifact.golden is None:
        raise ConversionError(
            "it carries no golden vectors to replay, because it answers NaN or infinity, or was not run."
        )
    info, name = read_flatbuffer(artifact.flatbuffer), c_identifier(stem)
    image, raw = info.inputs[0], info.outputs[0]
    types = {"input_type": c_type(image), "output_type": c_type(raw)}
    before, after = _preprocess(name, image, contract), _embedding(name, contract, raw, types["output_type"])
    golden = parse_golden(artifact.golden, contract)
    sizes = constants_of(image, added(contract.normalization, raw), is_image=contract.input.is_image)
    words = types | {
        "name": name,
        "NAME": name.upper(),
        "version": __version__,
        "sha256": sha256(data),
        "file": f"{stem}.tflite",
        "math": "#include <math.h>\n" if before.needs_math or after.needs_math else "",
        "constants": "".join(f"#define {name.upper()}_{line}\n" for line in sizes),
        "preprocess": before.definition,
        "embedding": after.definition,
        "vector": _values([c_float(value) for value in golden.embeddings[0].ravel().tolist()]),
        "made_by": golden.runtime,
    }
    words |= _image_words(contract, golden) if contract.input.is_image else _array_words(name, contract, golden)
    pieces = _IMAGE_PIECES if contract.input.is_image else _ARRAY_PIECES
    pieces = {piece: Template(text).substitute(words) for piece, text in pieces.items()}
    check = Template(_check(contract, golden)).substitute(words)
    return Template(_HEADER).substitute(words, check=check, **pieces).encode()


def _image_words(contract: Contract, golden: Golden) -> dict[str, str]:
    pixels = golden.pixels[0][..., ::-1] if contract.input.color_order == "bgr" else golden.pixels[0]
    channels = contract.input.shape[2]
    return {
        "reading": contract.input.reading,
        "fractions": f"\n * {contract.input.resampler} leaves fractions, which uint8_t cannot hold."
        if leaves_fractions(contract.input.resampler)
        else "",
        "order": {1: "gray"}.get(channels, contract.input.color_order),
        "bgr": str(int(contract.input.color_order == "bgr" and channels == 3)),
        "rows": str(pixels.shape[0]),
        "columns": str(pixels.shape[1]),
        "pixels": _values([str(value) for value in pixels.ravel().tolist()]),
    }


def _array_words(name: str, contract: Contract, golden: Golden) -> dict[str, str]:
    """The shape, the values that are stored, and the loops that repeat them along each axis."""
    stored, shape = golden.pixels[0], contract.input.shape
    place, loops, indent = "0", [], "    "
    for axis, (size, whole) in enumerate(zip(stored.shape, shape, strict=True)):
        loops.append(f"{indent}for (int32_t n{axis} = 0; n{axis} < {whole}; n{axis}++) {{")
        own = f"n{axis}" if size == whole else f"n{axis} * {size} / {whole}"
        place = own if not axis else f"({place}) * {size} + {own}"
        indent += "    "
    loops.append(f"{indent}*values++ = {name}_golden_values[{place}];")
    loops += [f"{'    ' * axis}}}" for axis in range(len(shape), 0, -1)]
    return {
        "shape": "".join(f"[{size}]" for size in shape),
        "stored": str(stored.size),
        "values": _values([c_float(value) for value in stored.ravel().tolist()]),
        "loops": "\n".join(loops),
    }


def _preprocess(name: str, image: TensorInfo, contract: Contract) -> CFunction:
    if image.dtype != "uint8":
        return _inline(preprocess_function(name, image, contract.input))
    prototype = f"void {name}_preprocess(const uint8_t *pixels, uint8_t *input)"
    count = math.prod(image.shape)
    body = f"    for (int32_t n = 0; n < {count}; n++) {{\n        input[n] = pixels[n];\n    }}\n"
    return _inline(CFunction(prototype, f"{prototype}\n{{\n{body}}}\n", ""))


def _embedding(name: str, contract: Contract, raw: TensorInfo, output_type: str) -> CFunction:
    """``void NAME_embedding(const TYPE *output, float *embedding)``, whatever is left to do after the model."""
    spec = contract.normalization
    if spec.kind != "none" and spec.placement == "runtime":
        function = normalize_function(name, spec, raw, output_type)
        renamed = function.definition.replace(f"void {name}_normalize(", f"void {name}_embedding(")
        prototype = function.prototype.replace(f"{name}_normalize(", f"{name}_embedding(")
        return _inline(replace(function, prototype=prototype, definition=renamed))
    prototype = f"void {name}_embedding(const {output_type} *raw, float *embedding)"
    value = "raw[n]"
    if raw.dtype != "float32":
        value = f"(float)(raw[n] - ({raw.zero_point[0]})) * {c_float(raw.scale[0])}"
    loop = f"    for (int32_t n = 0; n < {math.prod(raw.shape)}; n++) {{\n        embedding[n] = {value};\n    }}\n"
    return _inline(CFunction(prototype, f"{prototype}\n{{\n{loop}}}\n", ""))


def _inline(function: CFunction) -> CFunction:
    definition = function.definition.replace(f"{function.prototype}\n{{", f"static inline {function.prototype}\n{{")
    return replace(function, definition=definition)


def _check(contract: Contract, golden: Golden) -> str:
    """The lines of C that compare, with the limits of the self-test in Python."""
    if contract.mode not in ("float32", "float16"):
        exported = measure_drift(golden.embeddings[:1], golden.reference[:1], k=None)[0]
        return f"{_NOISE}    return {_noise_within(exported.sqnr_db)};\n"
    largest = float(np.abs(golden.embeddings[0]).max())
    limit = c_float(FLOAT_TOLERANCE * max(largest, 1e-30))
    if contract.half_precision is None:
        return Template(_DISTANCE).safe_substitute(limit=limit, otherwise="return 0;") + "    return 1;\n"
    # A processor may compute it in half precision.
    otherwise = f"return {_noise_within(contract.half_precision['sqnr_db'])};"
    return _NOISE + Template(_DISTANCE).safe_substitute(limit=limit, otherwise=otherwise) + "    return 1;\n"


def _noise_within(exported_db: float | None) -> str:
    return f"noise <= signal * {10 ** (-quantized_limit(exported_db) / 10):.9g}"


def _values(spelled: list[str]) -> str:
    rows = (spelled[start : start + _VALUES_A_LINE] for start in range(0, len(spelled), _VALUES_A_LINE))
    return ",\n".join("    " + ", ".join(row) for row in rows)


_DISTANCE = """\
    for (int32_t n = 0; n < ${NAME}_EMBEDDING_SIZE; n++) {
        const float distance = embedding[n] - ${name}_golden[n];
        if (!(distance <= $limit && distance >= -$limit)) {
            $otherwise
        }
    }
"""

_NOISE = """\
    double signal = 0, noise = 0;
    for (int32_t n = 0; n < ${NAME}_EMBEDDING_SIZE; n++) {
        const double distance = (double)embedding[n] - ${name}_golden[n];
        signal += (double)${name}_golden[n] * ${name}_golden[n];
        noise += distance * distance;
    }
"""

_IMAGE_PIECES = {
    "about": """\
 * Pixels are uint8_t, row by row, the channels of each together ($order); how a photo becomes that many of them:
 * $reading.$fractions
""",
    "first": """\
/* 1: blue comes first in pixels. */
#define ${NAME}_BGR $bgr
""",
    "what": "Pixels",
    "golden_data": """\
/* The golden vector: pixels that are repeated to the model's size, and their embedding, by $made_by. */
static const uint8_t ${name}_golden_pixels[$rows * $columns * ${NAME}_INPUT_CHANNELS] = {
$pixels
};
""",
    "golden_frame": """\
static inline void ${name}_golden_frame(uint8_t *pixels)
{
    for (int32_t y = 0; y < ${NAME}_INPUT_HEIGHT; y++) {
        for (int32_t x = 0; x < ${NAME}_INPUT_WIDTH; x++) {
            const int32_t row = y * $rows / ${NAME}_INPUT_HEIGHT, column = x * $columns / ${NAME}_INPUT_WIDTH;
            for (int32_t c = 0; c < ${NAME}_INPUT_CHANNELS; c++) {
                *pixels++ = ${name}_golden_pixels[(row * $columns + column) * ${NAME}_INPUT_CHANNELS + c];
            }
        }
    }
}
""",
}

_ARRAY_PIECES = {
    "about": """\
 * Values are float values$shape, the last axis fastest, in the units of the data.
""",
    "first": "",
    "what": "Values",
    "golden_data": """\
/* The golden vector: values that are repeated to the model's size, and their embedding, by $made_by. */
static const float ${name}_golden_values[$stored] = {
$values
};
""",
    "golden_frame": """\
static inline void ${name}_golden_frame(float *values)
{
$loops
}
""",
}

_HEADER = """\
/*
 * What belongs to $file besides the model itself, written by embedlite $version.
 * SHA-256 of the file: $sha256
 *
$about */
#ifndef ${NAME}_CONTRACT_H
#define ${NAME}_CONTRACT_H

#include <stdint.h>
$math
#define ${NAME}_SHA256 "$sha256"
$first$constants
/* What a value of the input and of the output tensor is. */
typedef $input_type ${name}_input;
typedef $output_type ${name}_output;

/* $what to what the input tensor holds. */
$preprocess
/* What the output tensor holds to the embedding. */
$embedding
${golden_data}static const float ${name}_golden[${NAME}_EMBEDDING_SIZE] = {
$vector
};

$golden_frame
/* 1 if the embedding of the golden frame is what it was at the export, as near as another machine comes; 0 if not. */
static inline int ${name}_is_golden(const float *embedding)
{
$check}

#endif
"""
