"""The contract: what an encoder's file promises about its input, its output and where it came from.

It travels in the file itself as ``embedlite.json`` (see :mod:`embedlite.runtime.model.artifact`), so that the device
needs no second file and no second source of truth for mean, std, colour order or resampler.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from ..errors import DamagedModelError, NewerContractError, RequestError
from ..options import described, numbers, option
from ..version import newer
from .normalizations import KINDS, NONE

SCHEMA = 1
"""The newest contract schema that this version reads, and the one it writes."""

PILLOW_RESAMPLERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
"""Pillow's resampling filters, by their names there in lower case."""

RESAMPLERS = (*PILLOW_RESAMPLERS, "tf-bilinear", "tf-nearest", "tf-area", "tf-bicubic")
"""Those, and the methods of ``tf.image.resize``."""

FITS = ("stretch", "crop", "resize-crop", "pad", "pad-resize", "center-crop")
"""How a picture of other proportions is brought to the model's."""

JPEG_DECODERS = ("pillow", "tensorflow")
"""Pillow's, which is accurate, or what ``tf.io.decode_jpeg`` does unless told otherwise, which is fast."""

EXIF = ("apply", "ignore")
"""What is done about the orientation that a camera writes into a file; TensorFlow ignores it."""

GRAYS = ("pillow", "tf-image", "tf-decode")
"""How colour becomes gray: as Pillow does it, ``tf.image.rgb_to_grayscale``, or ``tf.io.decode_image(channels=1)``."""

COLOR_ORDERS = {1: ("gray",), 3: ("rgb", "bgr"), 4: ("rgba",)}
"""Colour orders by number of channels, the default first; other numbers of channels have none."""

KINDS_OF_INPUT = ("image", "array")
"""What one input is: an image, whose integers are pixels, or any other array, such as a window of sensor samples."""

MOST_AXES = 4
"""Of one input, without the batch axis."""

IMAGE_PARTS = ("color_order", "resampler", "fit", "jpeg_decoder", "exif", "gray")
"""The parts of an input contract that only images have."""

_DEFAULTS = {
    "image": {
        "std": (255.0,),
        "resampler": "bilinear",
        "fit": "stretch",
        "jpeg_decoder": "pillow",
        "exif": "apply",
        "gray": "pillow",
    },
    "array": {"std": (1.0,), "color_order": "none"},
}

INPUT_DTYPES = ("float32", "uint8", "int8")

PLACEMENTS = ("graph", "runtime", "frozen")
"""Where a normalization is computed; see :class:`NormalizationSpec`."""

ORIGINS = ("given", "proved", "graph", "metadata", "inferred", "assumed")
"""Where a part of an input contract comes from: the caller, a preprocessing that it reproduces, what the model does to
its input, TFLite Metadata, the shape or the integers of the input, or nothing but what is usual."""

_BOUND = ("input", "output_shape", "output_dtype", "normalization", "mode")
"""The keys of a contract that decide what vectors a file gives."""


def binding(contract: Mapping[str, Any]) -> bytes:
    """SHA-256 of what a contract says of the vectors, 32 bytes; the flatbuffer carries it, as the contract the other's.

    Args:
        contract: the JSON object, as :meth:`Contract.to_json` makes it or as it was read from a file.
    """
    bound = {key: contract[key] for key in _BOUND}
    text = json.dumps(bound, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()


def kind_of(shape: Sequence[int]) -> str:
    """What an input of this shape is taken for: an image if it is (height, width, 1, 3 or 4), else an array."""
    return "image" if len(shape) == 3 and shape[2] in COLOR_ORDERS else "array"


@dataclass(frozen=True)
class InputContract:
    """How one input becomes what the encoder takes: ``(value - mean) / std``.

    Of an image the values are pixels 0-255, and arrays of floats are taken as they are. Of any other array they are
    whatever numbers it holds, integers and floats alike.

    Attributes:
        shape: of one input: (height, width, channels) of an image, one to four sizes of an array.
        dtype: what the file's input tensor holds: ``float32``, ``uint8`` (of an image: raw pixels) or ``int8``.
        color_order: ``rgb``, ``bgr``, ``gray``, ``rgba``, or ``none`` (no colours).
        mean: one value, or one for each channel or element of the last axis, in units of the input; default 0.
        std: likewise; default 255 for an image, 1 for an array.
        resampler: what brings image files to ``shape``: Pillow's filter of that name, or TensorFlow's method.
        fit: what is done about other proportions: one of :data:`FITS`, or ``resize-crop:N``.
        jpeg_decoder: one of :data:`JPEG_DECODERS`.
        exif: one of :data:`EXIF`.
        gray: one of :data:`GRAYS`; of no consequence for models that take colour.
        kind: one of :data:`KINDS_OF_INPUT`; default by the shape, see :func:`kind_of`.

    The parts in :data:`IMAGE_PARTS` are empty (``color_order`` is ``none``) where the input is not an image.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    color_order: str = ""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = ()
    resampler: str = ""
    fit: str = ""
    jpeg_decoder: str = ""
    exif: str = ""
    gray: str = ""
    kind: str = ""

    def __post_init__(self) -> None:
        if not all(type(size) is int and size > 0 for size in self.shape) or not 1 <= len(self.shape) <= MOST_AXES:
            raise RequestError(
                f"the input shape is {self.shape}. Use one to four whole numbers; of an image height, width, channels."
            )
        if not self.kind:
            object.__setattr__(self, "kind", kind_of(self.shape))
        if self.kind not in KINDS_OF_INPUT:
            raise RequestError(f"unknown kind of input {self.kind!r}. Use one of: {', '.join(KINDS_OF_INPUT)}.")
        if self.is_image and len(self.shape) != 3:
            raise RequestError(
                f"an input of shape {self.shape} is not an image, which has a height, a width and channels. Leave "
                "--kind out, or say --kind array."
            )
        for name, value in _DEFAULTS[self.kind].items():
            if getattr(self, name) in ((), ""):
                object.__setattr__(self, name, value)
        if self.is_image:
            self._check_image()
        else:
            self._check_array()
        if self.dtype not in INPUT_DTYPES:
            raise RequestError(f"unknown input type {self.dtype!r}. Use one of: {', '.join(INPUT_DTYPES)}.")
        last = self.shape[-1]
        whose, each = ("the model has", "channel") if self.is_image else ("the last axis has", "element")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, last) or not all(math.isfinite(value) for value in values):
                raise RequestError(
                    f"{name} has the values {list(values)}, but {whose} {last} {each}(s). "
                    f"Pass one finite number, or one for each {each}."
                )
        if any(value <= 0 for value in self.std):
            raise RequestError(f"std has the values {list(self.std)}. Every one must be greater than zero.")

    @property
    def is_image(self) -> bool:
        """Whether it is an image, and not any other array."""
        return self.kind == "image"

    @property
    def noun(self) -> str:
        """What one input is called in messages."""
        return "image" if self.is_image else "input"

    @property
    def content(self) -> str:
        """What one input consists of, in messages."""
        return "pixels" if self.is_image else "values"

    def _check_array(self) -> None:
        for name in IMAGE_PARTS:
            if getattr(self, name) != _DEFAULTS["array"].get(name, ""):
                raise RequestError(
                    f"--{name.replace('_', '-')} {getattr(self, name)} is for images, and the model takes arrays of "
                    f"shape {self.shape}. Leave it out, or say --kind image if they are images."
                )

    def _check_image(self) -> None:
        channels = self.shape[2]
        orders = COLOR_ORDERS.get(channels, ("none",))
        if not self.color_order:
            object.__setattr__(self, "color_order", orders[0])
        if self.color_order not in orders:
            raise RequestError(
                f"the colour order {self.color_order!r} does not fit a model with {channels} channel(s). "
                f"Use one of: {', '.join(orders)}."
            )
        for what, value, known in (
            ("resampler", self.resampler, RESAMPLERS),
            ("JPEG decoder", self.jpeg_decoder, JPEG_DECODERS),
            ("way to treat EXIF", self.exif, EXIF),
            ("way to gray", self.gray, GRAYS),
        ):
            if value not in known:
                raise RequestError(f"unknown {what} {value!r}. Use one of: {', '.join(known)}.")
        self._check_fit()

    @property
    def reading(self) -> str:
        """How image files are read, in words: the resampler, and what differs from what is usual."""
        words = [self.resampler] + ([self.fit] if self.fit != "stretch" else [])
        words += ["JPEG as TensorFlow decodes it"] if self.jpeg_decoder == "tensorflow" else []
        words += ["EXIF ignored"] if self.exif == "ignore" else []
        words += [f"gray by {self.gray}"] if self.gray != "pillow" and self.color_order == "gray" else []
        return ", ".join(words)

    def _check_fit(self) -> None:
        name, colon, short = self.fit.partition(":")
        if name not in FITS or (colon and (name != "resize-crop" or not short.isdecimal())):
            raise RequestError(
                f"unknown fit {self.fit!r}. Use one of: {', '.join(FITS)}; resize-crop:256 resizes to a short side of "
                "256 first."
            )
        if colon and int(short) < max(self.shape[:2]):
            raise RequestError(
                f"--fit {self.fit} would leave pictures smaller than the model's {self.shape[0]}x{self.shape[1]}. Use "
                f"a short side of {max(self.shape[:2])} or more."
            )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputContract:
        """The contract from its JSON object, whose lists become tuples."""
        lists = {name: tuple(value[name]) for name in ("shape", "mean", "std")}
        return cls(**{**value, **lists})

    def to_json(self) -> dict[str, Any]:
        """The contract as a JSON object; of an array only the parts that it has."""
        left_out = () if self.is_image else IMAGE_PARTS
        first = {"kind": self.kind}
        return first | {name: value for name, value in asdict(self).items() if name not in left_out}


@described
@dataclass(frozen=True)
class InputOptions:
    """What a caller says of an input; None stands for the default of :class:`InputContract`."""

    title: ClassVar[str] = "Input"

    mean: tuple[float, ...] | None = option(
        None,
        "Subtracted from pixels, or from the values of an array; one number, or one a channel (element of the last "
        "axis).  [default: 0]",
        metavar="X[,X...]",
        parse=numbers,
    )
    std: tuple[float, ...] | None = option(
        None, "Divisor, likewise.  [default: 255; for arrays 1]", metavar="X[,X...]", parse=numbers
    )
    color_order: str | None = option(
        None, "rgb, bgr, gray or rgba.  [default: by the number of channels]", metavar="ORDER"
    )
    resampler: str | None = option(
        None,
        "What brings image files to the model's size: Pillow's nearest, box, bilinear, hamming, bicubic, lanczos, or "
        "tf.image.resize's tf-bilinear, tf-nearest, tf-area, tf-bicubic.  [default: bilinear]",
        metavar="NAME",
    )
    fit: str | None = option(
        None,
        "What is done about other proportions: stretch, crop (the middle, as Keras), resize-crop or resize-crop:N (as "
        "torchvision, N the short side), pad (black bars), pad-resize (bars first), center-crop (not resized).  "
        "[default: stretch]",
        metavar="HOW",
    )
    jpeg_decoder: str | None = option(
        None,
        "pillow, or tensorflow: its fast default, which needs embedlite[tfjpeg].  [default: pillow]",
        metavar="NAME",
    )
    exif: str | None = option(
        None, "Orientation that a camera wrote: apply, or ignore as TensorFlow does.  [default: apply]", metavar="HOW"
    )
    gray: str | None = option(
        None,
        "How colour becomes gray: pillow, tf-image (rgb_to_grayscale) or tf-decode (decode_image with one channel).  "
        "[default: pillow]",
        metavar="HOW",
    )

    kind: str | None = option(
        None,
        "image or array: what one input is.  [default: image if it is height, width and 1, 3 or 4 channels]",
        metavar="KIND",
        choices=KINDS_OF_INPUT,
    )

    def stated(self) -> dict[str, Any]:
        """What is said, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def for_shape(self, shape: tuple[int, ...]) -> InputContract:
        """The contract of a float32 input of this shape."""
        return InputContract(shape, **self.stated())


@dataclass(frozen=True)
class NormalizationSpec:
    """The normalization that ends the encoder.

    Attributes:
        kind: one of :data:`embedlite.runtime.model.normalizations.KINDS`, or ``none``.
        axes: axes reduced over, of the tensor that is normalized (axis 0 is the batch, 1 in the file).
        divisor: what the divisor is taken of: for ``minmax``, ``shifted`` (maximum of x - min x) or ``input``
            (maximum of x).
        epsilon: the guard against division by zero; 0 where the model has none.
        epsilon_mode: ``none``, ``add`` (divisor + epsilon) or ``max`` (never below epsilon).
        placement: ``graph`` (float operators in the file), ``runtime`` (the file ends at the raw embedding and
            ``Encoder`` normalizes it), or ``frozen`` (the file computes it with constants).
        minimum: the constants of placement ``frozen``: one, or one for each place that ``axes`` leave; else empty.
        maximum: likewise.
        copies: of placement ``runtime``: parts along the file's last axis whose sum is the raw embedding.
        zero_point: of that sum, where there are several.
    """

    kind: str = NONE
    axes: tuple[int, ...] = ()
    divisor: str = "shifted"
    epsilon: float = 0.0
    epsilon_mode: str = "none"
    placement: str = "graph"
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()
    copies: int = 1
    zero_point: int = 0

    def __post_init__(self) -> None:
        for value, known in (
            (self.kind, (NONE, *KINDS)),
            (self.divisor, ("shifted", "input")),
            (self.epsilon_mode, ("none", "add", "max")),
            (self.placement, PLACEMENTS),
        ):
            if value not in known:
                raise RequestError(f"a normalization cannot be {value!r} here. Use one of: {', '.join(known)}.")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise RequestError(f"epsilon is {self.epsilon}. It must be finite and not negative.")


@dataclass(frozen=True)
class Contract:
    """Everything ``embedlite.json`` says.

    Attributes:
        input: see :class:`InputContract`.
        output_shape: shape of one embedding, without the batch axis.
        output_dtype: what the file's output tensor holds; ``Encoder`` always answers float32.
        normalization: see :class:`NormalizationSpec`.
        mode: how the file was quantized: ``float32``, ``float16``, ``dynamic`` or ``int8``.
        calibration: method, number of samples, their fingerprint, and the mean of each channel in pixel values over
            some of them if they have three; None where no ranges were needed.
        tools: versions of what made the file.
        flatbuffer_bytes: length of the flatbuffer in front of the contract.
        flatbuffer_sha256: its SHA-256.
        golden_sha256: SHA-256 of the golden vectors beside the contract; empty where there are none.
        origins: where each part of ``input`` comes from, one of :data:`ORIGINS`, by the part's name.
        half_precision: of a float file that processors with the instructions for it compute in half precision: its
            signal-to-noise ratio in dB there, simulated, on how many images; None where all compute in float32.
        schema: the contract's own format.
    """

    input: InputContract
    output_shape: tuple[int, ...]
    output_dtype: str
    normalization: NormalizationSpec
    mode: str
    calibration: Mapping[str, Any] | None
    tools: Mapping[str, str] = field(default_factory=dict)
    flatbuffer_bytes: int = 0
    flatbuffer_sha256: str = ""
    golden_sha256: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)
    half_precision: Mapping[str, Any] | None = None
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The contract as a JSON object."""
        value = {**asdict(self), "input": self.input.to_json()}
        if self.normalization.copies == 1:
            del value["normalization"]["copies"], value["normalization"]["zero_point"]
        return value

    @classmethod
    def from_json(cls, value: Any) -> Contract:
        """The contract from a JSON object.

        Raises:
            NewerContractError: the schema is newer than this version knows.
            DamagedModelError: a key is missing or has a value of the wrong kind.
        """
        try:
            schema = int(value["schema"])
            if schema > SCHEMA:
                made_by = value.get("tools", {}).get("embedlite")
                raise NewerContractError(f"the file's contract has schema {schema}; {newer(made_by, SCHEMA)}")
            fields = dict(value)
            fields["input"] = InputContract.from_json(value["input"])
            normalization = value["normalization"]
            lists = {key: tuple(normalization[key]) for key in ("axes", "minimum", "maximum")}
            fields["normalization"] = NormalizationSpec(**{**normalization, **lists})
            copies = fields["normalization"].copies
            if copies != 1 and (type(copies) is not int or copies < 1 or value["output_dtype"] != "int8"):
                raise TypeError(f"copies {copies}")
            fields["output_shape"] = tuple(value["output_shape"])
            if not all(type(size) is int and size > 0 for size in fields["output_shape"]):
                raise TypeError(f"output_shape {value['output_shape']}")
            origins = value.get("origins", {})
            if not set(origins) <= set(vars(fields["input"])) or not set(origins.values()) <= set(ORIGINS):
                raise TypeError(f"origins {origins}")
            if not isinstance(value["calibration"], dict | None):
                raise TypeError(f"calibration {value['calibration']}")
            if (half := value.get("half_precision")) is not None:
                fields["half_precision"] = {
                    "sqnr_db": None if half["sqnr_db"] is None else float(half["sqnr_db"]),
                    "images": int(half["images"]),
                }
            return cls(**fields)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError, RequestError) as error:
            raise DamagedModelError(
                f"the file's contract cannot be read ({type(error).__name__}: {error}). "
                "Export the model again; contracts are not meant to be edited."
            ) from error
