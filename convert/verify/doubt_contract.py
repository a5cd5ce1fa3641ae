"""Whether the input contract can be the one of the training, by what the model keeps of it.

BatchNormalization stores mean and variance of its inputs in training. What test images give there under the contract is
held against that: a wrong scale is off by orders of magnitude, and under the right one of the usual contracts it is
not. It does not tell 0-1 from -1 to 1, nor RGB from BGR: the first finds gross mistakes, and proves nothing.

A model without BatchNormalization shows a wrong scale by embeddings that are all the same, and by activations that no
image moves or that a bound cuts off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import RequestError
from ...runtime.images.source import Source
from ...runtime.input.preprocess import scaled, to_pixels
from ...runtime.model.contract import COLOR_ORDERS, InputContract
from ..contract_search import SCALINGS, as_options
from ..graph.run import float_runner
from ..load.lower import LoweredModel
from ..load.scaling import runner_of_tensorflow
from .dead_activations import Stuck, bounded_tensors, measure_stuck

_IMAGES = 8
_LAYERS = 2
"""BatchNormalizations that are looked at, the first ones: what comes later was scaled by these."""

_GROSS, _GROSS_GAIN = 3.0, 20.0
_DOUBT, _DOUBT_GAIN = 1.0, 5.0
"""Divergence (in nats, median of the channels) from which on it is an error or a doubt, if another contract has so many
times less."""

_SAME_COSINE, _OTHER_COSINE = 0.9999, 0.99
"""Mean cosine of different photos' embeddings: that of a collapse, and what another contract must be below."""

_DEAD, _OTHER_DEAD = 0.6, 0.25
_CLIPPED, _OTHER_CLIPPED = 0.1, 0.02
"""Share of the first activations' channels, and values, that carry nothing: in doubt, and under another contract."""

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """One BatchNormalization of a frozen graph.

    Attributes:
        tensor: what it normalizes.
        mean, variance: of training, (C,).
    """

    tensor: str
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def doubt_contract(
    name: str, lowered: LoweredModel, source: Source | None, contract: InputContract, *, accept: bool
) -> list[str]:
    """What the model says against a contract, as decisions; nothing where it says nothing.

    Args:
        name: the model, for messages.
        lowered: with the frozen graph of a model that TensorFlow runs.
        source: images; floats are left alone, because no contract scales them.
        contract: in doubt.
        accept: whether to go on with a gross contradiction (``--accept-contract``).

    Raises:
        RequestError: the contract is grossly wrong, and that was not accepted; the likely one is named.
    """
    if source is None or not source.pixels or contract.color_order == "none":
        return []
    count = min(_IMAGES, len(source))
    places = np.unique(np.linspace(0, len(source) - 1, count).astype(int))
    images = [_as_pixels(source.load(int(place)), contract) for place in places]
    layers = [] if lowered.frozen is None else _trained(lowered.frozen)
    if layers:
        return _by_statistics(name, lowered.frozen, layers, images, contract, accept=accept)
    return _by_collapse(name, lowered.flatbuffer, images, contract) or _by_activations(
        name, lowered.flatbuffer, images, contract
    )


def _by_statistics(
    name: str, frozen: Any, layers: list[Trained], images: list[NDArray[Any]], contract: InputContract, *, accept: bool
) -> list[str]:
    source, definition = frozen.inputs[0].name, frozen.graph.as_graph_def()
    run = runner_of_tensorflow(source, definition, [layer.tensor for layer in layers])

    def divergence(tried: InputContract) -> float:
        answers = [run(_ready(image, contract, tried)[None]) for image in images]
        found = [
            _divergence(layer, np.concatenate([answer[place].reshape(-1, len(layer.mean)) for answer in answers]))
            for place, layer in enumerate(layers)
        ]
        return max(found)

    own = divergence(contract)
    if own < _DOUBT:
        return []
    least, _, best = min((divergence(tried), place, tried) for place, tried in enumerate(_others(contract)))
    if own < _DOUBT_GAIN * least:
        return []
    said = (
        f"the contract does not suit what {name} keeps of its training: under it the inputs of its first "
        f"BatchNormalization diverge by {own:.3g} nats from their stored mean and variance, with "
        f"{as_options(best, contract)} by {least:.2g} ({len(images)} images; 0-1 and -1 to 1, RGB and BGR look alike)"
    )
    if own < _GROSS or own < _GROSS_GAIN * least:
        return [f"WARNING: {said}."]
    if accept:
        return [f"WARNING: {said}; it was accepted."]
    raise RequestError(
        f"{said}. Give the one of the training with --mean, --std and --color-order, prove it with --preprocess, or "
        "pass --accept-contract to go on all the same."
    )


def _by_collapse(name: str, flatbuffer: bytes, images: list[NDArray[Any]], contract: InputContract) -> list[str]:
    if len(images) < 4:
        return []
    run = float_runner(flatbuffer)

    def alike(tried: InputContract) -> float:
        rows = np.stack([np.asarray(run(_ready(image, contract, tried)), np.float64).ravel() for image in images])
        if rows.shape[1] == 1:
            return 0.0  # One value has no direction but its sign.
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(norms).all() or not norms.all():
            return 1.0
        rows /= norms
        mean = rows.mean(axis=0)
        return float((len(rows) * (mean @ mean) - 1) / (len(rows) - 1))

    own = alike(contract)
    if own < _SAME_COSINE or all(np.array_equal(image, images[0]) for image in images):
        return []
    least, _, best = min((alike(tried), place, tried) for place, tried in enumerate(_others(contract)))
    if least > _OTHER_COSINE:
        return []
    return [
        f"WARNING: under the contract {name} gives {len(images)} photos nearly the same embedding (mean cosine "
        f"{own:.6f}); with {as_options(best, contract)} it tells them apart ({least:.3f}). Check mean, std and "
        "colour order: --preprocess proves them."
    ]


def _by_activations(name: str, flatbuffer: bytes, images: list[NDArray[Any]], contract: InputContract) -> list[str]:
    bounded = bounded_tensors(flatbuffer)
    if not bounded:
        return []

    def stuck(tried: InputContract) -> Stuck:
        return measure_stuck(flatbuffer, bounded, [_ready(image, contract, tried) for image in images])

    own = stuck(contract)
    if own.dead < _DEAD and own.clipped < _CLIPPED:
        return []
    found = [(stuck(tried), tried) for tried in _others(contract)]
    least, best = min(found, key=lambda pair: pair[0].dead + pair[0].clipped)
    if own.dead >= _DEAD and least.dead <= _OTHER_DEAD:
        what = f"{own.dead:.0%} of the channels of its first activations are dead or constant"
    elif own.clipped >= _CLIPPED and least.clipped <= _OTHER_CLIPPED and least.dead <= own.dead + _OTHER_DEAD:
        what = f"{own.clipped:.0%} of the values of its first activations are clipped"
    else:
        return []
    return [
        f"WARNING: under the contract {what} in {name} ({len(images)} photos); with {as_options(best, contract)} "
        f"{least.dead:.0%} are dead and {least.clipped:.0%} clipped. Check mean, std and colour order: --preprocess "
        "proves them."
    ]


def _others(contract: InputContract) -> Iterator[InputContract]:
    """The usual contracts, those in the colour order of this one first."""
    channels = contract.shape[2]
    orders = COLOR_ORDERS.get(channels, ("none",))
    for order in sorted(orders, key=lambda name: name != contract.color_order):
        for mean, std in SCALINGS:
            if channels != 3 and max(len(mean), len(std)) > 1:
                continue
            turn = -1 if order == "bgr" else 1
            tried = replace(contract, color_order=order, mean=mean[::turn], std=std[::turn])
            if tried != contract:
                yield tried


def _as_pixels(image: NDArray[Any], contract: InputContract) -> NDArray[Any]:
    """An image as pixels 0-255; a resampler that leaves fractions has made it ready already."""
    if image.dtype.kind != "f":
        return to_pixels(image)
    unscaled: NDArray[Any] = image * np.asarray(contract.std, np.float32) + np.asarray(contract.mean, np.float32)
    return unscaled


def _ready(pixels: NDArray[Any], own: InputContract, tried: InputContract) -> Values:
    """Pixels in the order of one contract as another one makes them ready."""
    turned = pixels if own.color_order == tried.color_order else pixels[..., ::-1]
    return scaled(np.ascontiguousarray(turned), tried)


def _divergence(layer: Trained, values: NDArray[Any]) -> float:
    """Kullback-Leibler divergence of two normal distributions for each channel; its median."""
    values = values.astype(np.float64)
    alive = layer.variance > 1e-6 * float(np.median(layer.variance))
    mean, variance = values.mean(axis=0)[alive], values.var(axis=0)[alive]
    stored = layer.variance[alive]
    ratio = np.maximum(variance / stored, 1e-12)
    found = 0.5 * (ratio + (mean - layer.mean[alive]) ** 2 / stored - 1 - np.log(ratio))
    return float(np.median(found))


def _trained(frozen: Any) -> list[Trained]:
    """The first BatchNormalizations of a frozen graph whose channels come last and whose statistics are not initial."""
    import tensorflow as tf

    nodes = {node.name: node for node in frozen.graph.as_graph_def().node}

    def constant(name: str) -> NDArray[np.float64] | None:
        node = nodes.get(name.partition(":")[0])
        while node is not None and node.op == "Identity" and node.input:
            node = nodes.get(node.input[0].partition(":")[0])
        if node is None or node.op != "Const":
            return None
        return np.asarray(tf.make_ndarray(node.attr["value"].tensor), np.float64)

    readers: dict[str, list[Any]] = {}
    for node in nodes.values():
        for text in node.input:
            readers.setdefault(text.partition(":")[0], []).append(node)

    def spelled_out(root: Any) -> Trained | None:
        """``x * (rsqrt(variance + e) * gamma) + (beta - mean * that)``, as Keras has it."""
        added = nodes.get(root.input[0].partition(":")[0])
        if added is None or added.op not in ("Add", "AddV2"):
            return None
        variance = next(
            (found for text in added.input if (found := constant(text)) is not None and found.size > 1), None
        )
        products = [node for node in readers.get(root.name, []) if node.op == "Mul"]
        direct = any(all(constant(text) is None for text in node.input) for node in products)
        # With a gamma, that is multiplied in first.
        factors = [root] if direct else products
        mean, tensor = None, None
        for factor in factors:
            for node in readers.get(factor.name, []):
                if node.op != "Mul":
                    continue
                other = next((text for text in node.input if text.partition(":")[0] != factor.name), "")
                found = constant(other) if other else None
                if found is not None and variance is not None and found.size == variance.size:
                    mean = found
                elif other and found is None:
                    tensor = other
        if variance is None or mean is None or tensor is None:
            return None
        return Trained(tensor if ":" in tensor else f"{tensor}:0", mean.ravel(), variance.ravel())

    def fused(node: Any) -> Trained | None:
        mean, variance = constant(node.input[3]), constant(node.input[4])
        if mean is None or variance is None or mean.size < 1 or node.attr["data_format"].s == b"NCHW":
            return None
        tensor = node.input[0]
        return Trained(tensor if ":" in tensor else f"{tensor}:0", mean.ravel(), variance.ravel())

    found = []
    for operation in frozen.graph.get_operations():
        node = nodes.get(operation.name)
        if node is None:
            continue
        trained = spelled_out(node) if node.op == "Rsqrt" else None
        trained = fused(node) if node.op.startswith("FusedBatchNorm") and len(node.input) >= 5 else trained
        # As a new layer has them, they say nothing.
        if trained is not None and (trained.mean.any() or not np.allclose(trained.variance, 1)):
            found.append((frozen.graph.get_tensor_by_name(trained.tensor).op, trained))
    place = {operation.name: index for index, operation in enumerate(frozen.graph.get_operations())}
    found.sort(key=lambda pair: place[pair[0].name])
    fitting = (trained for _, trained in found if _channels(frozen, trained.tensor) == len(trained.mean))
    return list(islice(fitting, _LAYERS))


def _channels(frozen: Any, tensor: str) -> int | None:
    """The size of a tensor's last axis."""
    shape = frozen.graph.get_tensor_by_name(tensor).shape
    if shape.rank is None:
        # What a compiled function gives, such as a grouped convolution on a processor, has a shape when it is run.
        source = frozen.inputs[0]
        run = runner_of_tensorflow(source.name, frozen.graph.as_graph_def(), [tensor])
        shape = np.shape(run(np.zeros((1, *source.shape.as_list()[1:]), np.float32))[0])
    size: int | None = shape[-1] if len(shape) else None
    return size
