"""The export, from the user's model to measured files.

load           the user's model, no foreign code; once through TensorFlow: the float graph   load/
normalization  recognised in the float graph, proved, guarded or frozen                      normalization/
quantize       activation ranges from calibration images; each mode from the float graph     quantize/
correct        weights and biases, where held-out images gain                                quantize/correct/
search         layers that should not be int8, which file keeps the limits                   search/
make           placement, types at the ends, repair, contract: one mode's file               make/
verify         every installed runtime, drift, latency, the batch                            verify/
outcome        the table, which file to ship, what was decided                               outcome/
pipeline       one export from the opened model to the written files, all or none
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..calibration.engine import LOCAL
from ..runtime.errors import RequestError
from ..runtime.files import sha256
from ..runtime.images.open import Data
from ..runtime.model.contract import InputContract, InputOptions
from ..runtime.progress import stage
from .load import load_original
from .load.keras_model import from_keras
from .load.options import LoadOptions
from .load.original import Original
from .make.outputs import check_outputs
from .make.recipe import deciding_options, read_recipe
from .modes import check_targets
from .options import (
    Request,
    check_calibration,
    check_data_options,
    check_normalization,
    check_numbers,
    check_raw_pixels,
    check_search,
    check_types,
    choose_modes,
    parse_budget,
)
from .pipeline import Pipeline
from .quantize.correct import choose_corrections
from .results import ExportResult


def export(
    model: Any,
    output_dir: str | Path | None = None,
    *,
    quantize: Sequence[str] = (),
    calibration_data: Data | None = None,
    test_data: Data | None = None,
    golden_from: Data | None = None,
    feature: str | None = None,
    skip_unreadable: bool = False,
    input_shape: tuple[int, int, int] | None = None,
    layer: str | None = None,
    output: str | None = None,
    custom_objects: str | Path | None = None,
    replace_lambda: Sequence[str] = (),
    normalization: str = "auto",
    targets: Sequence[str] = (),
    c_array: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    color_order: str | None = None,
    resampler: str | None = None,
    input_type: str | None = None,
    output_type: str | None = None,
    num_samples: int | None = None,
    select: str = "random",
    calibrate_method: str = "auto",
    calibration_cache: str | Path | None = None,
    batch_size: int = 32,
    seed: int = 0,
    equalize: bool = True,
    correct: Sequence[str] = (),
    pareto: bool = False,
    max_drift: Sequence[str] = (),
    time_budget: float | None = None,
    search_cache: str | Path | None = None,
    measured: str | Path | None = None,
    recipe: str | Path | None = None,
    threads: int | None = None,
    engine: Any = LOCAL,
    measure: bool = True,
    force: bool = False,
) -> ExportResult:
    """Export an encoder, normalization included, to TFLite files that carry their contract.

    Args:
        model: path of a ``.keras``, ``.h5`` or ``.hdf5`` file, of a SavedModel's folder or of a float ``.tflite``; or a
            ``keras.Model`` in memory.
        output_dir: where the files go; default beside the model file.
        quantize: modes: ``float32``, ``float16``, ``dynamic``, ``int8``, ``int16x8``, ``all``. Default float32, and
            int8 too when there is calibration data.
        calibration_data: images (or statistics of them, see :mod:`embedlite.calibration`) that set the ranges for
            int8: a folder, ``.npy``, ``.npz``, ``.tfrecord``, an array (N, H, W, C), an iterable of images or a
            function that returns one; see :func:`embedlite.runtime.images.open.open_source`. Integers are pixels,
            floats are model-ready.
        test_data: images that the drift is measured on; default a seeded fifth of the calibration data (at most 64),
            which then sets no ranges.
        golden_from: images of which a few are stored in every file with their embeddings, for
            ``embed-tflite --selftest``; default synthetic frames.
        feature: which feature of a ``.tfrecord``, array of a ``.npz`` or key of a dict holds the images.
        skip_unreadable: leave out images that cannot be read or hold NaN, and name them in the result, instead of
            refusing all.
        input_shape: (height, width, channels), for a model whose fixed shape is lost.
        layer: the encoder ends at this layer (in a SavedModel of TensorFlow 1 an operation, in a ``.tflite`` a
            tensor).
        output: which of several outputs is the embedding.
        custom_objects: a Python file that defines what a Keras file needs; it is executed.
        replace_lambda: ``LAYER=KIND``, a known layer in a Lambda's place; see
            :data:`embedlite.convert.load.custom_code.REPLACEMENTS`.
        normalization: where it is computed: ``graph`` (float operators in the file), ``runtime`` (``Encoder`` applies
            it), ``frozen`` (min-max with constants from the calibration data), or ``auto``: ``graph``, except
            ``runtime`` where the output is an integer or a target computes with integers only.
        targets: runtimes that must run the files: ``litert``, ``tflite-runtime``, ``micro``, ``ethos-u``.
        c_array: write the smallest file that a microcontroller can run as C, too.
        mean: subtracted from pixels, one value or one a channel; default 0.
        std: divides pixels, likewise; default 255.
        color_order: ``rgb``, ``bgr``, ``gray`` or ``rgba``; default by the number of channels.
        resampler: how image files are stretched to the model's size; default ``bilinear`` (Pillow's).
        input_type: ``float32``, ``uint8`` (raw pixels) or ``int8``, of the int8 file; default float32, or int8 for a
            target that computes with integers only.
        output_type: likewise; with an integer type the file ends at the raw embedding, and ``Encoder`` normalizes.
        num_samples: use so many of the calibration images.
        select: which: ``random`` (seeded), or ``coverage``: those that cover the encoder's embedding space best.
        calibrate_method: how ranges are taken: ``minmax``, ``percentile`` or ``percentile:99.9``, ``mse``, ``entropy``,
            or ``auto``: for each tensor the one that moves the embeddings of held-out calibration images least.
        calibration_cache: a file that keeps the statistics; a killed run takes up there, and a later one with the same
            model and images needs no inference.
        batch_size: of training; how far an image's embedding moves between batches of one and of this size is measured.
        seed: of every random choice.
        equalize: whether the int8 file may be made from equalized convolutions, and from convolutions between which
            offsets were moved into a bias, where that lowers its drift.
        correct: which corrections to try on the int8 file (``rounding`` on int16x8, too), kept only where held-out
            calibration images gain: ``rounding``, ``bias``, ``refit``; see :mod:`embedlite.convert.quantize.correct`.
            ``none`` for none; default ``auto``: all.
        pareto: make every mode that is not ruled out by ``quantize``, search for layers that should not be int8, and
            say which files others make superfluous; see docs/accuracy.md.
        max_drift: ``METRIC=VALUE``, limits on drift metrics (for instance ``sqnr_db=30``): only the fastest file that
            keeps them on the first target is written, or, if none does, the best one, named ``.rejected``.
        time_budget: seconds after which the search ends with the best so far; default none.
        search_cache: a file that keeps what the search tried: a killed search takes up there, and the same search
            decides the same.
        measured: what ``embed-tflite --measure`` wrote on a device; its latencies take the place of those here.
        recipe: an ``export.json``: the same files are made again from its decisions, byte for byte, without any search.
        threads: processors; default all.
        engine: what runs the calibration images: ``local``, ``dask``, a scheduler's address, or a
            ``distributed.Client``; see docs/scale-out.md.
        measure: whether to run the files (drift, latency, verdicts, golden vectors); False only writes them.
        force: replace existing files.

    Returns:
        What was written and measured; the same as ``STEM.export.json``.

    Raises:
        EmbedliteError: see the trees in :mod:`embedlite.runtime.errors` and :mod:`embedlite.convert.errors`; nothing
            was written then.
    """
    in_memory = not isinstance(model, (str, Path))
    if in_memory and output_dir is None:
        raise RequestError("a model in memory has no folder of its own. Pass output_dir.")
    path = Path(f"{model.name}.keras" if in_memory else model)
    calibrated = calibration_data is not None
    check_search(
        asked=quantize,
        pareto=pareto,
        limited=bool(max_drift),
        calibrated=calibrated,
        measure=measure,
        time_budget=time_budget,
        search_cache=search_cache,
        measured=measured,
        recipe=recipe,
    )
    decided = None if recipe is None else read_recipe(Path(recipe))
    modes = choose_modes(quantize, calibrated=calibrated, compared=pareto or bool(max_drift))
    if decided is not None:
        modes = tuple(decided.files)
    check_types(modes, input_type, output_type)
    check_normalization(normalization, calibrated=calibrated)
    check_calibration(select, calibrate_method, calibration_cache, num_samples, calibrated=calibrated)
    check_numbers(seed=seed, batch_size=batch_size)
    check_data_options(
        feature, skip_unreadable=skip_unreadable, data=calibration_data is not None or test_data is not None
    )
    if golden_from is not None and not measure:
        raise RequestError("golden vectors are made by running the files, and measure is False. Leave one of them out.")
    required = check_targets(targets, modes)
    if required and not measure:
        raise RequestError("targets are checked by running the files, and measure is False. Leave one of them out.")
    request = Request(
        stem=path.resolve().name if path.is_dir() else path.stem,
        output_dir=Path(output_dir) if output_dir is not None else path.resolve().parent,
        modes=modes,
        # What ``all`` brought along is wanted where it can be had; what was named is wanted.
        named=tuple(mode for mode in modes if mode in quantize) if "all" in quantize or pareto else modes,
        calibration_data=calibration_data,
        test_data=test_data,
        golden_from=golden_from,
        feature=feature,
        skip_unreadable=skip_unreadable,
        normalization=normalization,
        input_type=input_type,
        output_type=output_type,
        targets=required,
        c_array=c_array,
        num_samples=num_samples,
        select=select,
        calibrate_method=calibrate_method,
        calibration_cache=None if calibration_cache is None else Path(calibration_cache),
        batch_size=batch_size,
        seed=seed,
        equalize=equalize,
        corrections=choose_corrections(correct, modes),
        pareto=pareto,
        budget=parse_budget(max_drift) if max_drift else None,
        time_budget=time_budget,
        search_cache=None if search_cache is None else Path(search_cache),
        measured=None if measured is None else Path(measured),
        recipe=None if recipe is None else Path(recipe),
        threads=threads,
        measure=measure,
        engine=engine,
    )
    options = LoadOptions(
        input_shape, layer, output, None if custom_objects is None else Path(custom_objects), tuple(replace_lambda)
    )
    with stage("loading the model"):
        original = from_keras(model, model.name, options) if in_memory else load_original(path, options)
    contract = _input_contract(original, InputOptions(mean, std, color_order, resampler))
    if input_type == "uint8":
        check_raw_pixels(contract)
    if decided is not None and request.recipe is not None:
        decided.check_options(deciding_options(request, contract), request.recipe)
    source = {"path": str(path), "sha256": None if in_memory else _digest(path)}
    made = not request.output_dir.exists()
    check_outputs(request, force=force)
    try:
        return Pipeline(request, contract, source, decided).run(original)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                request.output_dir.rmdir()
        raise


def _input_contract(original: Original, given: InputOptions) -> InputContract:
    """What the caller says of the input, filled up with what the file itself says."""
    said = {key: value for key, value in vars(given).items() if value is not None}
    known = {} if original.inputs is None else vars(original.inputs)
    return InputOptions(**{**known, **said}).for_shape(original.input_shape)


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        return sha256(path.read_bytes())
    files = sorted(item for item in path.rglob("*") if item.is_file())
    return sha256("\n".join(f"{item.relative_to(path)} {sha256(item.read_bytes())}" for item in files).encode())
