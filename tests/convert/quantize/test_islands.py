"""Islands of float operators around slow integer kernels: found by an estimate of time, kept by what images gain."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops

from embedlite.convert import ExportOptions, ExportResult, export
from embedlite.convert.graph.graph import Graph
from embedlite.convert.quantize.floating.islands import find_islands
from embedlite.runtime import Encoder
from embedlite.runtime.model.artifact import read_artifact

from crops import crops
from encoders import PLAIN, Call

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")


def images() -> tuple[np.ndarray, np.ndarray]:
    """Crops of photos: 40 to calibrate, and 20 others."""
    found = np.stack([np.asarray(crop.resize((24, 24))) for crop in crops(60, (60, 160), 150)])
    return found[:40], found[40:]


CALIBRATION, UNSEEN = images()


def network(between: Callable[[], layers.Layer], pool: Callable[[], layers.Layer] | None = None) -> keras.Model:
    keras.utils.set_random_seed(1)
    image = keras.Input((24, 24, 3))
    x = layers.Conv2D(16, 2)(layers.Conv2D(16, 3, strides=2)(image))
    x = between()(x)
    x = (pool or layers.GlobalAveragePooling2D)()(layers.Conv2D(24, 3)(x) if pool is None else x)
    return keras.Model(image, layers.Dense(32)(x), name="small")


def made(
    folder: Path, model: keras.Model, *modes: str, calibration: np.ndarray = CALIBRATION, **options
) -> ExportResult:
    given = {"measure": False, **PLAIN, "equalize": True, **options}
    data = {"quantize": modes or ("int8",), "calibration_data": calibration}
    return export(model, folder, **data, options=ExportOptions(**given))


def told(result: ExportResult) -> list[str]:
    return [text for text in result.decisions if "whose integer kernels are slow" in text]


def dtypes(result: ExportResult, mode: str = "int8") -> dict[str, set[str]]:
    """What operators of each kind write."""
    (file,) = [file for file in result.files if file.mode == mode]
    graph, found = Graph(read_artifact(Path(file.path)).flatbuffer), dict[str, set[str]]()
    for operator in graph.operators:
        found.setdefault(graph.operator_name(operator), set()).add(graph.dtype(int(operator.outputs[0])))
    return found


def noise_db(model: keras.Model, result: ExportResult, mode: str = "int8") -> float:
    (file,) = [file for file in result.files if file.mode == mode]
    wanted = np.asarray(model(UNSEEN / np.float32(255)))
    with Encoder(file.path) as encoder:
        found = encoder.embed(UNSEEN)
    return float(10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


class Normalized(layers.Layer):
    """Three layer normalizations, each followed by a layer with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [part for _ in range(3) for part in (layers.LayerNormalization(), layers.Dense(16, "relu"))]

    def build(self, shape: tuple[int | None, ...]) -> None:
        for part in self.parts:
            part.build(shape)

    def call(self, x: keras.KerasTensor) -> keras.KerasTensor:
        for part in self.parts:
            x = part(x)
        return x


def attention(x: keras.KerasTensor) -> keras.KerasTensor:
    rows = ops.reshape(x, (-1, 100, 16))
    weights = ops.softmax(ops.matmul(rows, ops.transpose(rows, (0, 2, 1))), axis=-1)
    return ops.reshape(ops.matmul(weights, rows), (-1, 10, 10, 16))


def cubes(x: keras.KerasTensor) -> keras.KerasTensor:
    x = ops.maximum(x, 1e-3)
    return ops.mean(x * x * x, axis=(1, 2)) ** (1 / 3)


def test_layer_normalizations_are_float_in_int8_alone_on_every_runtime(tmp_path: Path) -> None:
    model = network(Normalized)
    result = made(tmp_path / "float", model, "int8", "int16x8", measure=True)
    (text,) = told(result)
    assert "RSQRT, SQUARED_DIFFERENCE" in text
    kinds = dtypes(result)
    assert kinds["RSQRT"] == kinds["SQUARED_DIFFERENCE"] == kinds["MUL"] == {"float32"}
    assert "int8" in kinds["CONV_2D"]
    assert dtypes(result, "int16x8")["MUL"] == {"int16"}
    (int8,) = [file for file in result.files if file.mode == "int8"]
    assert {verdict.runtime for verdict in int8.verified} >= {"ai-edge-litert", "tflite-runtime", "tflite-micro"}
    assert all(verdict.ok for verdict in int8.verified)
    # As the message says it.
    integers = made(tmp_path / "int8", model, output_type="int8")
    assert not told(integers)
    assert dtypes(integers)["RSQRT"] == {"int8"}
    assert noise_db(model, result) > noise_db(model, integers) + 3


def test_islands_of_prelus_hold_the_sums_between_them(tmp_path: Path) -> None:
    """As in the landmark networks of MediaPipe, whose PRELU takes most of the time in int8."""

    def residual(x: keras.KerasTensor) -> keras.KerasTensor:
        for _ in range(3):
            y = layers.Conv2D(16, 1)(layers.DepthwiseConv2D(3, padding="same")(x))
            x = layers.PReLU("random_uniform", shared_axes=[1, 2])(layers.Add()([x, y]))
        return x

    result = made(tmp_path, network(lambda: residual), "float32", "int8", equalize=False)
    float32, int8 = (read_artifact(Path(file.path)).flatbuffer for file in result.files)
    graph = Graph(float32)
    found = [graph.producer(graph.index_of(name)) for name in find_islands(float32, int8)]
    # The first sum is of two activations that other layers read in integers.
    assert sorted(map(graph.operator_name, found)) == ["ADD"] * 2 + ["PRELU"] * 3


@pytest.mark.parametrize(
    ("between", "kinds"),
    [
        (lambda: Call(lambda x: ops.rsqrt(ops.sigmoid(x))), ["RSQRT"]),
        (lambda: layers.PReLU("random_uniform", shared_axes=[1, 2]), []),
    ],
    ids=["RSQRT", "PRELU"],
)
def test_one_operator_alone_is_an_island_for_much_time_only(between, kinds: list[str], tmp_path: Path) -> None:
    result = made(tmp_path, network(between), "float32", "int8", output_type="int8", equalize=False)
    float32, int8 = (read_artifact(Path(file.path)).flatbuffer for file in result.files)
    graph = Graph(float32)
    found = [graph.producer(graph.index_of(name)) for name in find_islands(float32, int8)]
    assert list(map(graph.operator_name, found)) == kinds


@pytest.mark.parametrize(
    ("channels", "width", "is_float"), [(1, 16, True), (3, 16, False), (1, 128, False)], ids=["gray", "RGB", "large"]
)
def test_a_small_convolution_of_a_gray_image_is_part_of_an_island(
    channels: int, width: int, is_float: bool, tmp_path: Path
) -> None:
    keras.utils.set_random_seed(2)
    image = keras.Input((24, 24, channels))
    x = layers.LayerNormalization()(layers.Conv2D(width, 3, strides=2)(image))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(24, 3)(x))
    model = keras.Model(image, layers.Dense(32)(x), name="small")
    result = made(tmp_path, model, calibration=CALIBRATION[..., :channels])
    (text,) = told(result)
    assert ("CONV_2D" in text) == is_float
    assert dtypes(result)["CONV_2D"] == ({"float32", "int8"} if is_float else {"int8"})


@pytest.mark.parametrize("first", [False, True], ids=["convolution", "normalization"])
def test_what_reads_an_image_of_integers_is_no_part_of_an_island(first: bool, tmp_path: Path) -> None:
    keras.utils.set_random_seed(2)
    image = keras.Input((24, 24, 1))
    x = layers.LayerNormalization(axis=(1, 2, 3))(image) if first else image
    x = layers.LayerNormalization()(layers.Conv2D(16, 3, strides=2)(x))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(24, 3)(x))
    model = keras.Model(image, layers.Dense(32)(x), name="small")
    asked = {"input_type": "uint8", "mean": (0,), "std": (255,)}
    result = made(tmp_path, model, calibration=CALIBRATION[..., :1], **asked)
    assert bool(told(result)) != first
    assert dtypes(result)["CONV_2D"] == {"int8"}
    wanted = np.asarray(model(UNSEEN[..., :1] / np.float32(255)))
    with Encoder(result.files[0].path) as encoder:
        found = encoder.embed(UNSEEN[..., :1])
    assert 10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()) > 15


def test_a_mean_of_cubes_keeps_its_small_values(tmp_path: Path) -> None:
    """Generalized-mean pooling spelled as products: they are float, for the root is, and make one scale of x cubed."""
    model = network(lambda: Call(cubes), layers.Flatten)
    result = made(tmp_path / "float", model)
    assert told(result)
    integers = made(tmp_path / "int8", model, output_type="int8")
    assert noise_db(model, result) > noise_db(model, integers) + 6
    file = tmp_path / "float" / "small.export.json"
    asked = ExportOptions(measure=False, calibrate_method="minmax", correct=("none",), recipe=file)
    again = export(model, tmp_path / "again", calibration_data=CALIBRATION, options=asked)
    assert [item.sha256 for item in again.files] == [item.sha256 for item in result.files]
    # As one operator, whose answer alone was rounded to integers before the mean.
    power = network(lambda: Call(lambda x: ops.mean(ops.maximum(x, 1e-3) ** 3, axis=(1, 2)) ** (1 / 3)), layers.Flatten)
    result = made(tmp_path / "power", power, output_type="int8")
    assert dtypes(result)["MEAN"] == {"float32"}
    assert noise_db(power, result) > noise_db(model, integers) + 6


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        (lambda: Call(ops.hard_swish), "HARD_SWISH"),
        (lambda: Call(ops.abs), "ABS"),
        (lambda: Call(attention), "BATCH_MATMUL"),
    ],
    ids=["HARD_SWISH", "ABS", "BATCH_MATMUL"],
)
def test_what_gains_nothing_stays_in_integers(between, kind: str, tmp_path: Path) -> None:
    """One slow operator costs a single rounding, and that of its result is left in float, too."""
    result = made(tmp_path, network(between))
    assert not told(result)
    assert dtypes(result)[kind] == {"int8"}


def test_a_root_is_float_for_its_time(tmp_path: Path) -> None:
    """One layer normalization alone gains 0.7 dB, which is not clear on 32 images."""
    model = network(layers.LayerNormalization)
    result = made(tmp_path / "float", model)
    assert told(result)
    assert dtypes(result)["RSQRT"] == {"float32"}
    assert noise_db(model, result) > noise_db(model, made(tmp_path / "int8", model, output_type="int8"))


def test_few_images_decide_nothing(tmp_path: Path) -> None:
    assert not told(made(tmp_path, network(Normalized), calibration=CALIBRATION[:20]))
