"""A model that takes pictures of any size and brings them to its own: what does that, as a contract, and the rest.

Keras' Resizing and CenterCrop, or ``tf.image.resize`` in whatever spelling, in front of a model whose input is (None,
None, 3). A device's file has a fixed size, so the pictures have to come in it, and the contract has to bring them to it
as the layer did. Which contract does is found by trying: the part in front is run on pictures of several sizes, and
those in existence are held against it. The file then begins after that part.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....runtime.images.decode import decode_image
from ....runtime.model.contract import COLOR_ORDERS, FITS, RESAMPLERS, InputContract
from ....runtime.model.origin import Statement, statement
from ...errors import ModelShapeError
from ..original import check_input_shape, has_open_size
from ..scaling import CLAMPS, Scaling, View, probe, view_of_tensorflow, waists
from .graph_def import nodes_of
from .still import changing_layers

_RESIZING = {
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea", "ScaleAndTranslate", "CropAndResize"),
    *("StridedSlice", "Slice", "Pad", "PadV2", "MirrorPad", "ConcatV2"),
}
"""Operators that bring a picture to another size; a model without any of them is not looked into."""

_LAYERS = {"Conv2D", "DepthwiseConv2dNative", "Conv3D", "MatMul", "MaxPool", "AvgPool", "Einsum", "BatchMatMulV2"}
"""Where the model proper begins."""

_BACK = {*CLAMPS, "Cast", "Round", "Rint", "Identity"}
"""What may follow that is part of it."""

_EXACT = 0.01
"""Gray levels of 255: what float32 may leave between two orders of the same operations."""

_NEAR = 1.0
"""Gray levels: what a filter leaves that is the same and rounds its result."""

_SIZES = ((1.5, 1.26), (1.11, 2.03), (2.37, 1.01), (3.1, 3.7), (0.53, 0.81), (0.9, 1.7))
"""Height and width of the pictures that are tried, for one pixel of the model's."""


@dataclass(frozen=True)
class Resizing:
    """The part of a model that brings pictures to its size, and the model after it.

    Attributes:
        shape: the size it brings them to, (H, W, C).
        call: the model after it: (N, H, W, C) tensor to one tensor.
        operators: that do it, as TensorFlow calls them.
        contract: the one that is nearest to it, with pixels as they are.
        apart: the largest difference between both, in gray levels of 255.
    """

    shape: tuple[int, int, int]
    call: Callable[[Any], Any]
    operators: tuple[str, ...]
    contract: InputContract
    apart: float

    @property
    def said(self) -> Statement | None:
        """What it says of the contract; None where no contract does the same."""
        if self.apart > _NEAR:
            return None
        return statement("the graph", "graph", resampler=self.contract.resampler, fit=self.contract.fit)

    @property
    def options(self) -> str:
        """The nearest contract on a command line."""
        return f"--resampler {self.contract.resampler} --fit {self.contract.fit}"

    @property
    def text(self) -> str:
        """What it does, for a message."""
        height, width, _ = self.shape
        return f"brings pictures to {height}x{width} itself ({', '.join(self.operators)})"

    def explain(self) -> str:
        """What was decided about it."""
        begin = f"the model {self.text}; the files begin after that, and the contract does it"
        if self.said is None:
            return f"{begin} in another way: {self.options} is nearest, and up to {self.apart:.3g} of 255 levels apart."
        rounded = "" if self.apart <= _EXACT else f", up to rounding ({self.apart:.2g} of 255 levels)"
        return f"{begin}: {self.options}{rounded}."


@dataclass(frozen=True)
class Sized:
    """A model with the size of its input, see :class:`embedlite.convert.load.original.Original`.

    Attributes:
        shape: of one input.
        call: the model from an input of that shape on.
        inputs: what the model says of its preprocessing.
        decisions: what was decided on the user's behalf.
        resizes_to: what contradicts the size that the caller gave.
    """

    shape: tuple[int, ...]
    call: Callable[[Any], Any]
    inputs: Statement | None = None
    decisions: tuple[str, ...] = ()
    resizes_to: tuple[tuple[int, ...], str] | None = None


def find_resizing(call: Callable[[Any], Any], shape: tuple[int | None, ...]) -> Resizing | None:
    """What brings pictures of any size to a model's own.

    Args:
        call: the model: (N, H, W, C) float32 tensor to one tensor.
        shape: of its input with the batch axis; None for sizes that are open.

    Returns:
        None where the model does nothing of the kind, or something that no picture alone decides.
    """
    if not has_open_size(shape) or shape[3] not in COLOR_ORDERS:
        return None
    frozen = _frozen(call, shape)
    if frozen is None:
        return None
    view = view_of_tensorflow(frozen)
    names: list[str] = []
    places = waists(view, {operator.name for operator in view.operators} - _LAYERS)
    for number, (tensor, between) in enumerate(places):
        names += between
        size = _own_size(view, tensor)
        if size is None:
            continue
        scaling = probe(view, tensor, size)
        if scaling is None or len(scaling.factor) != size[2]:
            return None
        operators = tuple(dict.fromkeys(name for name in names if name in _RESIZING))
        end = tensor
        for following, clamping in places[number + 1 :]:
            # Where a layer computes in half precision or in whole numbers, it brings its result back to that.
            if not _BACK.issuperset(clamping) or probe(view, following, size) != scaling:
                break
            end = following
        contract, apart = _nearest(view, end, size, scaling)
        if not np.isfinite(apart):
            return None
        return Resizing(size, _after(frozen, end, shape[0], size, scaling), operators, contract, apart)
    return None


def with_own_size(
    name: str, call: Callable[[Any], Any], shape: tuple[int | None, ...] | None, wanted: tuple[int, ...] | None
) -> Sized:
    """The size that a model takes pictures in on a device.

    Args:
        name: what to call the model in an error.
        call: the model: (N, H, W, C) float32 tensor to one tensor.
        shape: of its input with the batch axis; None for sizes that are open, or if nothing is known.
        wanted: what the caller says of it.

    Raises:
        ModelShapeError: it is open, and the model does not say it either, or brings pictures to it as no contract does;
            or see :func:`embedlite.convert.load.original.check_input_shape`.
    """
    own = None if shape is None else find_resizing(call, shape)
    if own is None or shape is None:
        return Sized(check_input_shape(name, shape, wanted), call)
    if wanted is None and own.said is None:
        height, width, channels = own.shape
        raise ModelShapeError(
            f"{name} {own.text}, and no contract does the same: {own.options} is nearest, and up to {own.apart:.3g} of "
            f"255 levels apart. Take that, with --input-shape {height},{width},{channels} {own.options}, or let the "
            "model resize otherwise."
        )
    size = check_input_shape(name, (shape[0], *own.shape) if wanted is None else shape, wanted)
    if size != own.shape:
        twice = f"the model {own.text}, in the files, too: pictures of {size[0]}x{size[1]} are resized again."
        return Sized(size, call, decisions=(twice,), resizes_to=(own.shape, own.text))
    return Sized(size, own.call, own.said, (own.explain(),))


def _frozen(call: Callable[[Any], Any], shape: tuple[int | None, ...]) -> Any:
    """The model as a concrete function without variables; None where it cannot be, or changes no picture's size, or
    cannot be cut."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    spec = tf.TensorSpec(shape, tf.float32, name="image")
    try:
        traced = tf.function(call, autograph=False).get_concrete_function(spec)
        graph = traced.graph.as_graph_def()
        if not any(node.op in _RESIZING for node in nodes_of(graph)):
            return None
        frozen = convert_variables_to_constants_v2(traced)
    except Exception:
        # Whatever it is, the same comes up, and is told, when a fixed size is tried.
        return None
    # Loops cannot be taken apart once they are frozen, and random layers only where they are not traced yet.
    loops = any(node.op == "Enter" for node in frozen.graph.as_graph_def().node)
    return None if loops or changing_layers(traced) or len(frozen.outputs) != 1 else frozen


def _own_size(view: View, tensor: Any) -> tuple[int, int, int] | None:
    """The shape of a tensor if it is that of a picture, and the same for large pictures of two sizes."""
    if view.rank(tensor) not in (4, None):
        return None
    run, shapes = view.run_to(tensor), []
    for size in ((641, 1103), (1201, 733)):
        try:
            shapes.append(np.shape(run(np.zeros((1, *size, view.shape[2]), np.float32)))[1:])
        except Exception:
            # Of tf.errors, and which one depends on the operator: it takes no picture of this size.
            return None
    height, width, channels = shapes[0] if len(shapes[0]) == 3 else (0, 0, 0)
    if shapes[0] != shapes[1] or channels != view.shape[2] or height * width <= 1:
        return None
    try:
        again = np.shape(run(np.zeros((1, height, width, channels), np.float32)))[1:]
    except Exception:
        return None
    # What cuts a part out of the middle of nowhere gives nothing, or less, of a picture of that size.
    return (int(height), int(width), int(channels)) if again == shapes[0] else None


def _nearest(view: View, tensor: Any, size: tuple[int, int, int], scaling: Scaling) -> tuple[InputContract, float]:
    """The contract that makes most nearly what the model makes of pictures, and by how many gray levels it is off."""
    run, pictures = view.run_to(tensor), list[tuple[bytes, NDArray[np.float64]]]()
    factor, offset = np.array(scaling.factor), np.array(scaling.offset)
    for tall, wide in _SIZES:
        pixels = _picture(round(size[0] * tall), round(size[1] * wide), size[2])
        try:
            made = np.asarray(run(pixels[None].astype(np.float32)), np.float64)[0]
        except Exception:
            # A crop of what is smaller; Keras then resizes instead, where it knows the size beforehand.
            continue
        if made.shape == size:
            pictures.append((_png(pixels), (made - offset) / factor))
    best, least, apart = InputContract(size), np.inf, np.inf
    for contract in _contracts(size) if pictures else ():
        # The mean decides which is nearest: at one pixel of an edge all that differ may differ alike.
        off, squares = 0.0, 0.0
        for content, wanted in pictures:
            read = np.asarray(decode_image(io.BytesIO(content), "x", contract), np.float64)
            difference = read[..., list(scaling.source)] - wanted
            off, squares = max(off, float(np.abs(difference).max())), squares + float((difference**2).mean())
            if squares >= least:
                break
        else:
            best, least, apart = contract, squares, off
        if apart <= _EXACT:
            break
    return best, apart


def _contracts(size: tuple[int, int, int]) -> Iterator[InputContract]:
    # TensorFlow's first: where nothing is resized, as in a crop, they are all the same.
    for resampler in sorted(RESAMPLERS, key=lambda name: not name.startswith("tf-")):
        for fit in FITS:
            yield InputContract(size, mean=(0.0,), std=(1.0,), resampler=resampler, fit=fit)


def _picture(height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Waves, edges and noise: filters differ at each of them."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (5 + channel) + y / 13) for channel in range(channels)], -1)
    edges = 60 * (((x // 17 + y // 11) % 2)[..., None] - 0.5)
    noise = np.random.default_rng(0).normal(0, 15, (height, width, channels))
    pixels: NDArray[np.uint8] = (127 + 80 * waves + edges + noise).clip(0, 255).astype(np.uint8)
    return pixels


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "PNG", compress_level=0)
    return content.getvalue()


def _after(
    frozen: Any, tensor: str, batch: int | None, size: tuple[int, int, int], scaling: Scaling
) -> Callable[[Any], Any]:
    """The model from a tensor on, which is made of pictures of its size by factor, offset and order alone."""
    import tensorflow as tf

    definition, output = _without_checks(frozen.graph.as_graph_def()), frozen.outputs[0].name
    dtype = frozen.graph.get_tensor_by_name(tensor).dtype

    def behind(picture: Any) -> Any:
        values = picture
        if scaling.source != tuple(range(size[2])):
            values = tf.gather(values, scaling.source, axis=-1)
        if not (np.allclose(scaling.factor, 1, atol=1e-6) and np.allclose(scaling.offset, 0, atol=1e-6)):
            values = values * np.array(scaling.factor, np.float32) + np.array(scaling.offset, np.float32)
        feed = {tensor: tf.cast(values, dtype)}
        return tf.import_graph_def(definition, input_map=feed, return_elements=[output], name="model")[0]

    spec = tf.TensorSpec((batch, *size), tf.float32)
    wrapped = tf.compat.v1.wrap_function(behind, [spec])
    pruned: Callable[[Any], Any] = wrapped.prune(wrapped.inputs[0], wrapped.outputs[0])
    return pruned


def _without_checks(definition: Any) -> Any:
    """A GraphDef whose operators wait for no assertion: those are about the picture's size, which is not known here."""
    checks = {node.name for node in definition.node if node.op in ("Assert", "NoOp")}
    for node in definition.node:
        kept = [text for text in node.input if not (text.startswith("^") and text[1:] in checks)]
        del node.input[:]
        node.input.extend(kept)
    return definition
