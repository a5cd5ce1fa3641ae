"""The export, from the user's model to measured files.

load           the user's model, no foreign code; once through TensorFlow: the float graph   load/
normalization  recognised in the float graph, proved, guarded or frozen                      normalization/
quantize       activation ranges from calibration images; each mode from the float graph     quantize/
correct        weights and biases, where held-out images gain                                quantize/correct/
tune           the int8 file's weights, trained to answer as the float model does           tune/
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

from ..runtime.child_limits import bounded, note_made
from ..runtime.errors import RequestError
from ..runtime.files import sha256
from ..runtime.images.open import Data
from ..runtime.model.contract import InputOptions
from ..runtime.model.words import wording
from ..runtime.options import part
from ..runtime.progress import Stages
from .contract_decision import stated_contract
from .load import load_original
from .load.keras_model import from_keras
from .load.options import LoadOptions
from .load.original import Original
from .load.preprocess import prove
from .make.outputs import check_kept, check_outputs, check_written
from .make.recipe import read_recipe
from .options import Asked, ExportOptions
from .request import check_request, check_search
from .results import ExportResult


def export(
    model: Any,
    output_dir: str | Path | None = None,
    *,
    quantize: Sequence[str] = (),
    calibration_data: Data | None = None,
    test_data: Data | None = None,
    options: ExportOptions | None = None,
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
        options: all others, by the names that ``export-tflite --help`` gives them (``--num-samples`` is
            ``num_samples``): ``options=ExportOptions(num_samples=200, seed=3)``. They are declared in
            :mod:`embedlite.convert.options`.

    Returns:
        What was written and measured; the same as ``STEM.export.json``.

    Raises:
        EmbedliteError: see the trees in :mod:`embedlite.runtime.errors` and :mod:`embedlite.convert.errors`; nothing
            was written then.
    """
    return export_asked(
        model,
        Asked(
            **vars(options or ExportOptions()),
            output_dir=output_dir,
            quantize=tuple(quantize),
            calibration_data=calibration_data,
            test_data=test_data,
        ),
    )


def export_asked(model: Any, asked: Asked, *, json_path: str | None = None) -> ExportResult:
    """The same as :func:`export`, with all that was asked in one object.

    Args:
        model: as in :func:`export`.
        asked: all options.
        json_path: where the caller is going to write the result besides, so that it is none of the files made here.
    """
    in_memory = not isinstance(model, (str, Path))
    if in_memory and asked.output_dir is None:
        raise RequestError("a model in memory has no folder of its own. Pass output_dir.")
    path = Path(f"{model.name}.keras" if in_memory else model)
    check_search(asked)
    decided = None if asked.recipe is None else read_recipe(Path(asked.recipe))
    request = check_request(asked, path, None if decided is None else tuple(decided.files))
    check_written(request, None if in_memory else path, json_path)
    opening = part(request, LoadOptions)
    stages = Stages()
    with stages.time("loading the model"), bounded("loading the model", path, request.time_limit):
        original = from_keras(model, model.name, opening) if in_memory else load_original(path, opening)
    # Sizes, orders and names that do not fit should say so before the model is converted.
    given = part(request, InputOptions)
    _check_size(original, accept=request.accept_contract)
    contract, _ = stated_contract(original.input_shape, given, original.inputs)
    proof = None
    if request.preprocess is not None and not contract.is_image:
        raise RequestError(
            f"--preprocess is for images, and the model takes arrays of shape {contract.shape}. Say --mean and --std."
        )
    if request.preprocess is not None:
        with stages.time("looking for the contract that preprocesses alike"):
            images = (request.test_data, request.calibration_data)
            proof = prove(request.preprocess, images, contract, given)
    # Late: many a request is refused before, and that should not wait for what makes and measures files.
    from .pipeline import Pipeline

    source = {"path": str(path), "sha256": None if in_memory else _digest(path)}
    made = not request.folder.exists()
    check_outputs(request)
    if made:
        note_made(request.folder)
    try:
        check_kept(request)
        with wording(lambda: contract.is_image, path, *vars(request).values()):
            return Pipeline(request, source, decided, proof, stages).run(original)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                request.folder.rmdir()
        raise


def _check_size(original: Original, *, accept: bool) -> None:
    """Refuse an input shape that is not the one a model brings pictures to, where its own would be taken.

    Raises:
        RequestError: it is another one, and nobody insists.
    """
    if original.resizes_to is not None and not accept:
        own, does = original.resizes_to
        raise RequestError(
            f"--input-shape {','.join(map(str, original.input_shape))} contradicts {original.name}: it {does}, so "
            f"pictures would be resized twice. Leave it out, and the contract takes {own[0]}x{own[1]} and the way of "
            "resizing from the model, or insist with --accept-contract."
        )


def _digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        return sha256(path.read_bytes())
    files = sorted(item for item in path.rglob("*") if item.is_file())
    return sha256("\n".join(f"{item.relative_to(path)} {sha256(item.read_bytes())}" for item in files).encode())
