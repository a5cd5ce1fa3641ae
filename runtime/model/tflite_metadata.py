"""Reading TFLite Metadata, the entry ``TFLITE_METADATA`` by which MediaPipe and others know a model's input.

Only what says how an image becomes the first input: colour space, mean and std. Nothing here depends on it: the
contract says more. Field numbers: metadata_schema.fbs of TFLite Metadata, version 1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..errors import DamagedModelError
from .flatbuffer import Table

METADATA_NAME = "TFLITE_METADATA"
METADATA_IDENTIFIER = b"M001"

COLOR_SPACES = ("unknown", "rgb", "grayscale")
"""Names of the schema's ColorSpaceType, by value."""

IMAGE_PROPERTIES = 2
NORMALIZATION_OPTIONS = 1
"""Values of the schema's unions ContentProperties and ProcessUnitOptions."""


@dataclass(frozen=True)
class ImageMetadata:
    """What TFLite Metadata says of the first input.

    Attributes:
        color_space: one of :data:`COLOR_SPACES`; empty if the input is not said to be an image.
        mean: one value or one per channel, in units of pixels; empty if there is no normalization.
        std: likewise.
    """

    color_space: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_metadata(data: bytes) -> ImageMetadata:
    """Read the content of ``TFLITE_METADATA``.

    Raises:
        DamagedModelError: it is something else, or its structure is unsound.
    """
    try:
        if data[4:8] != METADATA_IDENTIFIER:
            raise IndexError(f"identifier {bytes(data[4:8])!r} instead of {METADATA_IDENTIFIER!r}")
        model = Table(data, struct.unpack_from("<I", data, 0)[0])
        graphs = model.tables(3, lambda table: table)
        inputs = graphs[0].tables(2, lambda table: table) if graphs else []
        return _read_input(inputs[0]) if inputs else ImageMetadata("", (), ())
    except (struct.error, IndexError) as error:
        raise DamagedModelError(f"the TFLite Metadata in the model cannot be read ({error}).") from error


def _read_input(tensor: Table) -> ImageMetadata:
    content, space = tensor.table(3), ""
    if content is not None and content.scalar(0, "<B", 0) == IMAGE_PROPERTIES and (image := content.table(1)):
        space = COLOR_SPACES[image.scalar(0, "<B", 0)]
    for unit in tensor.tables(4, lambda table: table):
        if unit.scalar(0, "<B", 0) == NORMALIZATION_OPTIONS and (options := unit.table(1)) is not None:
            return ImageMetadata(space, options.vector(0, "f"), options.vector(1, "f"))
    return ImageMetadata(space, (), ())
