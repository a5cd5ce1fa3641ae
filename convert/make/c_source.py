"""A file as C for microcontrollers: the flatbuffer as an array, and what ``Encoder`` does around it as functions.

A microcontroller has no file system; TensorFlow Lite Micro takes the flatbuffer from memory. The contract after it
would be lost there, so what it says of pixels (or of another array's values) and of the normalization becomes two
functions beside the array. They compute what :mod:`embedlite.runtime.input.preprocess` and
:mod:`embedlite.runtime.input.normalize` compute, are C99 and C++11, allocate nothing, and include nothing but
``<stdint.h>`` (L2, and what quantizes values that are not pixels, also ``<math.h>``).
"""

from __future__ import annotations

import math
import re
from string import Template

import numpy as np

from ...runtime.files import sha256
from ...runtime.input.preprocess import model_ready, quantize
from ...runtime.input.tf_resample import leaves_fractions
from ...runtime.model.contract import Contract, InputContract
from ...runtime.model.flatbuffer import ModelInfo, TensorInfo, read_flatbuffer
from ...runtime.version import __version__
from ..errors import ConversionError
from .c_normalize import CFunction, added, normalize_function
from .names import c_names

C_TYPES = {"int8": "int8_t", "uint8": "uint8_t", "float32": "float"}
_BYTES_A_LINE = 16

# Where TensorFlow Lite Micro's resolver does not simply join an operator's words.
_RESOLVER_NAMES = {
    "BATCH_MATMUL": "BatchMatMul",
    "CUMSUM": "CumSum",
    "CUSTOM:ethos-u": "EthosU",
    "PADV2": "PadV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTM",
}


def c_identifier(stem: str) -> str:
    """What all names in C begin with: ``model_int8`` for ``model.int8``. Never one that C or C++ reserve."""
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")
    return name if name[:1].isalpha() else f"model_{name}".rstrip("_")


def c_source(stem: str, flatbuffer: bytes, contract: Contract, arena_bytes: int | None = None) -> dict[str, bytes]:
    """The header and the source file, by file name; the same arguments give the same bytes.

    Args:
        stem: of the ``.tflite`` file; both files and everything in them are called after it.
        flatbuffer: one input in, one embedding out; int8, uint8 or float32 at both ends.
        contract: what belongs to it.
        arena_bytes: memory that TensorFlow Lite Micro was seen to need for it, for the comment on top.

    Raises:
        ConversionError: a tensor at the ends is of another type, or the output has not the normalization's axes.
    """
    info, name = read_flatbuffer(flatbuffer), c_identifier(stem)
    image, raw = info.inputs[0], info.outputs[0]
    types = {"input_type": c_type(image), "output_type": c_type(raw)}
    preprocess = None if image.dtype == "uint8" else preprocess_function(name, image, contract.input)
    normalize = None
    if contract.normalization.kind != "none" and contract.normalization.placement == "runtime":
        normalize = normalize_function(name, contract.normalization, raw, types["output_type"])
    functions = [function for function in (preprocess, normalize) if function is not None]
    header, source = c_names(stem)
    words = types | {
        "name": name,
        "NAME": name.upper(),
        "header": header,
        "source": source,
        "version": __version__,
        "sha256": sha256(flatbuffer),
        "bytes": str(len(flatbuffer)),
    }
    before, after = _input_usage(image, contract.input), _output_usage(raw, contract, normalize)
    usage = [*_setup_usage(info, arena_bytes), *before, "interpreter.Invoke();", *after]
    sizes = constants_of(image, added(contract.normalization, raw), is_image=contract.input.is_image)
    texts = {
        header: Template(_HEADER).substitute(
            words,
            usage="".join(f" *   {Template(line).substitute(words)}".rstrip() + "\n" for line in usage),
            constants="".join(f"#define {name.upper()}_{line}\n" for line in sizes),
            functions="".join(f"\n{function.comment}\n{function.prototype};\n" for function in functions),
        ),
        source: Template(_SOURCE).substitute(
            words,
            math="#include <math.h>\n" if any(function.needs_math for function in functions) else "",
            data=_array(flatbuffer),
            functions="".join(f"\n{function.definition}" for function in functions),
        ),
    }
    return {path: text.encode() for path, text in texts.items()}


def c_type(tensor: TensorInfo) -> str:
    """What a tensor's values are in C.

    Raises:
        ConversionError: another type than C source is written for, or more than one scale.
    """
    quantized = len(tensor.scale) == len(tensor.zero_point) == 1
    if tensor.dtype not in C_TYPES or not (quantized or tensor.dtype == "float32"):
        raise ConversionError(
            f"the file's tensor {tensor.name} is {tensor.dtype} with the scales {list(tensor.scale)}; C source is "
            f"written for {', '.join(C_TYPES)}, quantized with one scale."
        )
    return C_TYPES[tensor.dtype]


def preprocess_function(name: str, image: TensorInfo, contract: InputContract) -> CFunction:
    """``void NAME_preprocess(const uint8_t *pixels, TYPE *input)``: what each pixel becomes, looked up if quantized.

    Of arrays that are not images ``const float *values`` are taken in place of the pixels.
    """
    if not contract.is_image:
        return _values_function(name, image, contract)
    type_name, count = C_TYPES[image.dtype], math.prod(image.shape)
    prototype = f"void {name}_preprocess(const uint8_t *pixels, {type_name} *input)"
    channels = max(len(contract.mean), len(contract.std))
    channel = f"n % {channels}" if channels > 1 else "0"
    if image.dtype == "float32":
        arrays = {
            which: [c_float(value) for value in np.resize(np.array(values, np.float32), channels)]
            for which, values in (("mean", contract.mean), ("std", contract.std))
        }
        constants = "".join(
            f"static const float {name}_{which}[{channels}] = {{{', '.join(values)}}};\n"
            for which, values in arrays.items()
        )
        value = f"((float)pixels[n] - {name}_mean[{channel}]) / {name}_std[{channel}]"
    else:
        every = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], channels, axis=2)
        ready = model_ready(every, contract)[0].T
        rows = quantize(ready, image.scale[0], image.zero_point[0], np.dtype(image.dtype)).tolist()
        table = ",\n".join(f"    {{{', '.join(map(str, row))}}}" for row in rows)
        constants = f"static const {type_name} {name}_pixel[{channels}][256] = {{\n{table}\n}};\n"
        value = f"{name}_pixel[{channel}][pixels[n]]"
    loop = f"    for (int32_t n = 0; n < {count}; n++) {{\n        input[n] = {value};\n    }}\n"
    comment = "/* Pixels, row by row with the channels of each together, to what the input tensor holds. */"
    return CFunction(prototype, f"{constants}\n{prototype}\n{{\n{loop}}}\n", comment)


def _values_function(name: str, source: TensorInfo, contract: InputContract) -> CFunction:
    """``void NAME_preprocess(const float *values, TYPE *input)``."""
    type_name, count = C_TYPES[source.dtype], math.prod(source.shape)
    prototype = f"void {name}_preprocess(const float *values, {type_name} *input)"
    parts = max(len(contract.mean), len(contract.std))
    each = f"n % {parts}" if parts > 1 else "0"
    constants = "".join(
        f"static const float {name}_{which}[{parts}] = "
        f"{{{', '.join(c_float(value) for value in np.resize(np.array(values, np.float32), parts))}}};\n"
        for which, values in (("mean", contract.mean), ("std", contract.std))
    )
    value = f"(values[n] - {name}_mean[{each}]) / {name}_std[{each}]"
    lines = [f"input[n] = {value};"]
    if source.dtype != "float32":
        low, high = np.iinfo(source.dtype).min, np.iinfo(source.dtype).max
        scale, zero_point = c_float(source.scale[0]), c_float(source.zero_point[0])
        lines = [
            f"const float step = rintf({value} / {scale}) + {zero_point};",
            f"input[n] = ({type_name})(step < {low} ? {low} : step > {high} ? {high} : step);",
        ]
    inner = "".join(f"        {line}\n" for line in lines)
    loop = f"    for (int32_t n = 0; n < {count}; n++) {{\n{inner}    }}\n"
    comment = "/* The data's own values, the last axis fastest, to what the input tensor holds. */"
    return CFunction(
        prototype,
        f"{constants}\n{prototype}\n{{\n{loop}}}\n",
        comment,
        needs_math=source.dtype != "float32",
    )


def constants_of(image: TensorInfo, raw: TensorInfo, *, is_image: bool) -> list[str]:
    """Sizes, scales and zero points, as the rest of a ``#define`` after the prefix of its name."""
    sizes = image.shape[1:]
    sides = ("HEIGHT", "WIDTH", "CHANNELS") if is_image else [f"AXIS_{place}" for place in range(len(sizes))]
    lines = [f"INPUT_{side} {size}" for side, size in zip(sides, sizes, strict=True)]
    lines += [] if is_image else [f"INPUT_SIZE {math.prod(sizes)}"]
    lines.append(f"EMBEDDING_SIZE {math.prod(raw.shape)}")
    for end, tensor in (("INPUT", image), ("OUTPUT", raw)):
        if tensor.dtype != "float32":
            lines += [f"{end}_SCALE {c_float(tensor.scale[0])}", f"{end}_ZERO_POINT ({tensor.zero_point[0]})"]
    return lines


def c_float(value: float) -> str:
    """A float32 as a C literal: nine digits tell all of them apart."""
    digits = f"{value:.9g}"
    return f"{digits}f" if set(digits) & set(".en") else f"{digits}.0f"


def _array(data: bytes) -> str:
    spelled = [f"0x{value:02x}" for value in range(256)]
    rows = (data[start : start + _BYTES_A_LINE] for start in range(0, len(data), _BYTES_A_LINE))
    return ",\n".join("    " + ", ".join(spelled[value] for value in row) for row in rows)


def _setup_usage(info: ModelInfo, arena_bytes: int | None) -> list[str]:
    seen = (
        "raise until AllocateTensors() is content" if arena_bytes is None else f"on a 64-bit PC it took {arena_bytes}"
    )
    operators = sorted({operator.name for operator in info.operators})
    return [
        f"alignas(16) static uint8_t arena[ARENA_BYTES];  // {seen}",
        f"static tflite::MicroMutableOpResolver<{len(operators)}> resolver;",
        *(f"resolver.Add{_resolver_name(operator)}();" for operator in operators),
        "static tflite::MicroInterpreter interpreter(tflite::GetModel(${name}_model), resolver, arena, sizeof arena);",
        "interpreter.AllocateTensors();",
    ]


def _resolver_name(operator: str) -> str:
    words = operator.split("_")
    return _RESOLVER_NAMES.get(operator, "".join(word.capitalize().replace("2d", "2D") for word in words))


def _input_usage(image: TensorInfo, contract: InputContract) -> list[str]:
    if not contract.is_image:
        values = f"// float values{''.join(f'[{size}]' for size in contract.shape)}, in the units of the data"
        return ["", values, "${name}_preprocess(values, interpreter.typed_input_tensor<$input_type>(0));"]
    height, width, channels = contract.shape
    pixels = f"// uint8_t pixels[{height}][{width}][{channels}], {contract.color_order}; resized: {contract.reading}"
    lines = ["", pixels]
    if leaves_fractions(contract.resampler):
        lines.append(f"// {contract.resampler} leaves fractions; export.json says what rounding them to uint8_t costs")
    fill = "${name}_preprocess(pixels, interpreter.typed_input_tensor<$input_type>(0));"
    if image.dtype == "uint8":
        fill = "// copy the pixels as they are to interpreter.typed_input_tensor<uint8_t>(0)"
    return [*lines, fill]


def _output_usage(raw: TensorInfo, contract: Contract, normalize: CFunction | None) -> list[str]:
    output = "const $output_type *output = interpreter.typed_output_tensor<$output_type>(0);"
    if normalize is not None:
        return [output, "${name}_normalize(output, embedding);  // float embedding[${NAME}_EMBEDDING_SIZE]"]
    if raw.dtype == "float32":
        return [f"{output}  // the embedding"]
    return [output, "// embedding[n] = (output[n] - ${NAME}_OUTPUT_ZERO_POINT) * ${NAME}_OUTPUT_SCALE"]


_HEADER = """\
/*
 * An encoder for TensorFlow Lite Micro, written by embedlite $version from the TFLite flatbuffer with the SHA-256
 * $sha256.
 *
 * Compile $source (C99 or C++11) into the program. In C++:
 *
$usage */
#ifndef ${NAME}_H
#define ${NAME}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

$constants
/* What a value of the input and of the output tensor is. */
typedef $input_type ${name}_input;
typedef $output_type ${name}_output;

/* The flatbuffer, aligned to 16 bytes. */
extern const unsigned char ${name}_model[$bytes];
extern const unsigned int ${name}_model_len;
$functions
#ifdef __cplusplus
}
#endif

#endif
"""

_SOURCE = """\
/* See $header. */
#include "$header"
$math
#if defined(__cplusplus)
#define ${NAME}_ALIGNED alignas(16)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define ${NAME}_ALIGNED _Alignas(16)
#elif defined(_MSC_VER)
#define ${NAME}_ALIGNED __declspec(align(16))
#else
#define ${NAME}_ALIGNED __attribute__((aligned(16)))
#endif

${NAME}_ALIGNED const unsigned char ${name}_model[$bytes] = {
$data
};
const unsigned int ${name}_model_len = $bytes;
$functions"""
