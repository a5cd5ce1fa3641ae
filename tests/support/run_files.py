"""Files run on one runtime, in a process of their own: some interpreters do not stand each other in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RUN = """
import sys
from pathlib import Path
import numpy as np
from embedlite.runtime.backends.interpreters import find_runtime, open_interpreter
runtime, folder = find_runtime(sys.argv[1]), Path(sys.argv[2])
inputs = np.load(folder / "inputs.npy")
for path in sorted(folder.glob("*.tflite")):
    if path.stem in sys.argv[3:]:
        continue
    interpreter = open_interpreter(runtime, path.read_bytes(), threads=1)
    rows = []
    for values in inputs:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    np.save(folder / f"{path.stem}.{runtime.name}.npy", rows)
"""


def run_files(run: Any, runtime: str, folder: Path, without: tuple[str, ...] = ()) -> None:
    """Answers of each ``.tflite`` of a folder to its ``inputs.npy``, in ``NAME.RUNTIME.npy``.

    Args:
        run: the fixture that runs commands.
        runtime: a name of :data:`embedlite.runtime.backends.registry.BACKENDS`.
        folder: what it holds is run, one input of batch 1 after the other.
        without: files that the runtime cannot run, by the name without the ending.
    """
    done = run("python", "-c", RUN, runtime, str(folder), *without, world="device")
    assert done.returncode == 0, done.stderr
