"""The Keras layers against their definition in plain numpy, and their life as files."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from embedlite.convert.graph.run import float_runner
from embedlite.convert.layers import L2Normalization, MinMaxNormalization, PixelPreprocessing
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime.input.normalize import normalize
from embedlite.runtime.model.contract import NormalizationSpec

from changed import FORGET
from conftest import Run
from ways_out import walk

AXES = {"sample": (1, 2, 3), "channel": (0, 1, 2), "batch": (0, 1, 2, 3)}

embeddings = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)),
    elements=st.floats(-100, 100, width=16),
)


@settings(max_examples=40, deadline=None)
@given(x=embeddings, axis=st.sampled_from(list(AXES)), divisor=st.sampled_from(["shifted", "input"]))
def test_min_max_is_its_definition(x: np.ndarray, axis: str, divisor: str) -> None:
    layer = MinMaxNormalization(axis, divisor)
    mode = "max" if divisor == "shifted" else "none"
    spec = NormalizationSpec("minmax", AXES[axis], divisor, layer.epsilon, mode)
    np.testing.assert_allclose(np.asarray(layer(x)), normalize(x, spec), rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(x=embeddings)
def test_l2_is_its_definition(x: np.ndarray) -> None:
    spec = NormalizationSpec("l2", (3,), "shifted", 1e-6, "max")
    np.testing.assert_allclose(np.asarray(L2Normalization()(x)), normalize(x, spec), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [*AXES, 1, (1, 2), -1])
@pytest.mark.parametrize("divisor", ["shifted", "input"])
@pytest.mark.parametrize("epsilon", [None, 0.0, 1e-3])
@pytest.mark.parametrize("value", [0.0, -3.5, 7.25])
def test_a_flat_embedding_gives_zeros(
    axis: str | int | tuple[int, ...], divisor: str, epsilon: float | None, value: float
) -> None:
    flat = np.full((2, 3, 3, 4), value, np.float32)
    normalized = np.asarray(MinMaxNormalization(axis, divisor, epsilon)(flat))
    np.testing.assert_array_equal(normalized, np.zeros_like(flat))


def test_a_zero_vector_gives_zeros_under_l2() -> None:
    np.testing.assert_array_equal(np.asarray(L2Normalization()(np.zeros((2, 5), np.float32))), np.zeros((2, 5)))


def test_epsilon_is_added_to_the_input_divisor_and_bounds_the_shifted_one() -> None:
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    np.testing.assert_allclose(np.asarray(MinMaxNormalization(divisor="input", epsilon=1)(x)), [[0, 1 / 4, 2 / 4]])
    np.testing.assert_allclose(np.asarray(MinMaxNormalization(epsilon=8)(x)), [[0, 1 / 8, 2 / 8]])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        walk(
            "axis is {}. Use one of {}, or integers",
            {"axis": "image"},
            [{"axis": axis} for axis in (*AXES, -1, (1, 2))],
        ),
        walk("divisor is {}. Use", {"divisor": "max"}, [{"divisor": divisor} for divisor in ("shifted", "input")]),
        walk("Use 'caffe', 'tf' or 'torch'", {"mode": "rgb"}, [{"mode": mode} for mode in ("caffe", "tf", "torch")]),
    ],
)
def test_arguments_that_an_error_names_are_taken_and_export(
    wrong: dict[str, Any], right: list[dict[str, Any]], tmp_path: Path
) -> None:
    made = PixelPreprocessing if "mode" in wrong else MinMaxNormalization
    with pytest.raises(ValueError, match="Use"):
        made(**wrong)
    image = np.random.default_rng(0).uniform(0, 255, (4, 4, 3)).astype(np.float32)
    for arguments in right:
        model = keras.Sequential([keras.Input((4, 4, 3)), made(**arguments), keras.layers.Flatten()])
        got = float_runner(lower(from_keras(model, "model", LoadOptions())).flatbuffer)(image)
        wanted = np.asarray(model(image[None]))[0]
        np.testing.assert_allclose(got, wanted, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"axis": "image"}, "sample, channel, batch"), ({"divisor": "max"}, "shifted"), ({"epsilon": -1}, "negative")],
)
def test_wrong_arguments_say_what_is_right(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinMaxNormalization(**arguments)


def test_a_saved_model_loads_with_no_custom_code(tmp_path, run: Run) -> None:
    layers = [
        keras.Input((4, 4, 3)),
        MinMaxNormalization((1, 2), "input", 0.5),
        MinMaxNormalization("channel"),
        keras.layers.Flatten(),
        L2Normalization(epsilon=1e-4),
    ]
    model = keras.Sequential(layers)
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "image.npy", image)
    # Another process: here the layers are registered already. It forgets what made it ready, and has Keras forget.
    code = (
        f"{FORGET}import keras, numpy as np\n"
        "keras.saving.get_custom_objects().clear()\n"
        "import embedlite.convert.layers\n"
        "model = keras.saving.load_model('model.keras')\n"
        "np.save('embedding.npy', np.asarray(model(np.load('image.npy'))))\n"
    )
    done = run("python", "-c", code, world="tensorflow", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "embedding.npy"), np.asarray(model(image)))
