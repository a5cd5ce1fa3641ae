"""A Keras model's embeddings for a drift report: ``python -m embedlite.convert.reference``, a request on stdin.

See :mod:`embedlite.runtime.keras_reference` for why this is a process of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.contract import InputContract
from ..runtime.errors import EmbedliteError
from ..runtime.model_options import ModelOptions
from ..runtime.progress import progress
from ..runtime.sources import open_source
from ..runtime.terminal import quiet_libraries
from .load import load_original
from .lower import keras_reference, trace
from .original import LoadOptions


def main() -> None:
    """Serve one request; an error goes to stdout with a non-zero exit code."""
    try:
        with quiet_libraries():
            _embed(json.load(sys.stdin))
    except EmbedliteError as error:
        sys.stdout.write(str(error))
        sys.exit(error.exit_code)


def _embed(request: dict[str, Any]) -> None:
    contract = InputContract.from_json(request["contract"])
    original = load_original(
        Path(request["model"]), LoadOptions(contract.shape, **vars(ModelOptions.from_json(request["opening"])))
    )
    traced, _ = trace(original)
    embed = keras_reference(traced)
    source = open_source(request["data"], contract, request["feature"])
    place = {name: index for index, name in enumerate(source.ids)}
    images = (source.ready(place[name]) for name in request["ids"])
    total = len(request["ids"])
    open_memmap: Any = np.lib.format.open_memmap
    rows = None
    for index, image in enumerate(progress(images, total, "Keras reference")):
        row = embed(image)
        if rows is None:
            rows = open_memmap(request["result"], "w+", np.float32, (total, *row.shape))
        rows[index] = row


if __name__ == "__main__":
    main()
