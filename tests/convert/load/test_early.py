"""What can be told without TensorFlow is told before its seconds are spent, and says the same as it would after."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert.errors import ModelLoadError
from embedlite.convert.load import load_original
from embedlite.convert.load.keras_2 import known
from embedlite.convert.load.keras_3.known import KERAS_3, unopened
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.options import LoadOptions

from ways_out import walks

_PROGRAM = """
import sys
from pathlib import Path
from embedlite.convert.load import load_original
from embedlite.runtime.errors import EmbedliteError
for name in sys.argv[1:]:
    try:
        load_original(Path(name))
    except EmbedliteError as error:
        print(str(error))
assert not {"tensorflow", "keras", "tf_keras"} & set(sys.modules), "a library was imported"
"""


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """A copy of an archive whose members are changed, or left out where the change gives None."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)


def of_keras(version: str) -> Callable[[str, bytes], bytes]:
    return lambda name, content: json.dumps({"keras_version": version}).encode() if name == "metadata.json" else content


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """By name a bad file, and what is said of it."""
    folder = tmp_path_factory.mktemp("bad")
    image = keras.Input((4, 4, 3))
    dense = layers.Dense(2)(layers.Flatten()(image))
    plain, coded = folder / "plain.keras", folder / "coded.keras"
    keras.Model(image, dense).save(plain)
    model = keras.Model(image, layers.Lambda(lambda x: x * 2, name="twice")(dense))
    model.save(coded)
    model.save(folder / "coded.h5")
    rewritten(plain, folder / "newer.keras", of_keras("99.1.0"))
    rewritten(plain, folder / "weightless.keras", lambda name, content: None if name.endswith(".h5") else content)
    (folder / "text.keras").write_text("a text")
    (folder / "dangling.keras").symlink_to("nowhere.keras")
    (folder / "empty").mkdir()
    said = {
        "newer.keras": "was written by Keras 99.1.0, and Keras",
        "weightless.keras": "holds no weights, only config.json, metadata.json",
        "coded.keras": "the Lambda layer 'twice' wants a function that is stored in the file as bytecode",
        "coded.h5": "the Lambda layer 'twice' wants a function that is stored in the file as bytecode",
        "text.keras": "is not a complete .keras file",
        "dangling.keras": "there is no ",
        "empty": "a folder without saved_model.pb",
    }
    return {name: (folder / name, text) for name, text in said.items()}


def test_a_refusal_that_needs_no_tensorflow_imports_none(bad: dict[str, tuple[Path, str]]) -> None:
    paths = [str(path) for path, _ in bad.values()]
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(bad)
    for line, (path, text) in zip(lines, bad.values(), strict=True):
        assert text in line
        with pytest.raises(ModelLoadError) as caught:
            load_original(path)  # where Keras is imported already, it is asked
        assert str(caught.value) == line


def test_a_file_of_a_later_keras_of_the_same_kind_is_tried(bad: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    plain = bad["newer.keras"][0].with_name("plain.keras")
    rewritten(plain, tmp_path / "later.keras", of_keras("3.999.0"))
    assert load_original(tmp_path / "later.keras").input_shape == (4, 4, 3)

    def unknown(name: str, content: bytes) -> bytes:
        return content.replace(b'"Dense"', b'"Denser"') if name == "config.json" else of_keras("3.999.0")(name, content)

    rewritten(plain, tmp_path / "unknown.keras", unknown)
    with pytest.raises(ModelLoadError, match=r", which Keras 3\.999\.0 wrote, cannot be loaded by Keras .*Denser"):
        load_original(tmp_path / "unknown.keras")


def test_the_names_read_from_a_library_are_those_that_it_has() -> None:
    homes = (keras, keras.layers, keras.initializers, keras.regularizers, keras.constraints, keras.dtype_policies)
    names = {name for home in (*homes, keras.activations, keras.ops) for name in dir(home)}
    new, old = unopened("keras"), unopened("tf_keras")
    assert [name for name in names if KERAS_3.has_class({"class_name": name}) and not has(new, name)] == []
    assert [name for name in names if KERAS_3.has_function(name, None) and not new.has_function(name, None)] == []
    assert [name for name in known._classes() if not has(old, name)] == []
    assert not has(new, "Denser")
    assert not has(old, "Denser")


def has(library: object, name: str) -> bool:
    return bool(library.has_class({"class_name": name}))  # type: ignore[attr-defined]


@walks(", because TensorFlow converts it. Save it with")
def test_a_keras_that_runs_on_something_else(
    bad: dict[str, tuple[Path, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = bad["newer.keras"][0].with_name("plain.keras")
    # Not imported yet, it is imported on TensorFlow, whatever it runs on elsewhere.
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(4)])
    model.save(tmp_path / "model.keras")
    image = np.random.default_rng(0).random((4, 4, 3), np.float32)
    np.save(tmp_path / "image.npy", image)
    code = (
        "import sys, pathlib, numpy as np; from embedlite.convert.load import load_original as load\n"
        "load(pathlib.Path(sys.argv[1])); folder = pathlib.Path(sys.argv[2])\n"
        "from embedlite.convert.load.lower import lower; from embedlite.convert.graph.run import float_runner\n"
        "run = float_runner(lower(load(folder / 'model.keras')).flatbuffer)\n"
        "np.save(folder / 'embedding.npy', run(np.load(folder / 'image.npy')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(plain), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "embedding.npy"), np.asarray(model(image[None]))[0], atol=1e-6)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ModelLoadError, match=r"^mine cannot be exported where Keras runs on torch.*export-tflite"):
        from_keras(keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten()]), "mine", LoadOptions())
    with pytest.raises(ModelLoadError, match=r"plain\.keras cannot be exported where Keras runs on torch"):
        load_original(plain)
