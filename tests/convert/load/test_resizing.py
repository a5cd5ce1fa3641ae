"""Models that take pictures of any size and resize them: the contract does it, against Keras on the photo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image

from embedlite.convert import ExportOptions, ExportResult, export
from embedlite.convert.errors import ModelShapeError
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_runner
from embedlite.convert.load import load_original
from embedlite.convert.load.edit.resizing import find_resizing
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.runtime import Encoder
from embedlite.runtime.errors import RequestError
from embedlite.runtime.images.open import open_source

from crops import save_crops
from rounding import decibels
from ways_out import walks

SIZE = (20, 28)
TO_ONE = layers.Rescaling(1 / 255)
TO_SIGNED = layers.Rescaling(1 / 127.5, offset=-1)
TURNED = layers.Lambda(lambda x: x[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures larger than the model in both directions, of many proportions."""
    root = tmp_path_factory.mktemp("photos")
    save_crops(root, 6, (30, 160), 50)
    return root / "png" / "all"


def model(*fronts: Callable[[Any], Any], **of_input: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3), **of_input)
    x = image
    for front in fronts:
        x = front(x)
    x = layers.Conv2D(6, 3, strides=2, activation="relu")(x)
    return keras.Model(image, layers.Dense(8)(layers.GlobalAveragePooling2D()(x)), name="any")


def exported(made: Any, folder: Path, **options: Any) -> ExportResult:
    return export(made, folder, quantize=["float32"], options=ExportOptions(measure=False, **options))


def vectors(result: ExportResult, photos: Path) -> np.ndarray:
    with Encoder(result.files[0].path) as encoder:
        return np.stack(list(encoder.embed_iter(open_source(photos, encoder.contract.input))))


def by_keras(made: keras.Model, photos: Path, read: ExportResult | None = None) -> np.ndarray:
    """The model on every photo as it is, in its own size, or as it is read for a file."""
    pixels = (np.asarray(Image.open(path), np.float32) for path in sorted(photos.iterdir()))
    if read is not None:
        with Encoder(read.files[0].path) as encoder:
            contract = encoder.contract.input
        source = open_source(photos, contract)
        pixels = (source.load(index).astype(np.float32) for index in range(len(source)))
    return np.concatenate([np.asarray(made(image[None], training=False)) for image in pixels])


Resizing = layers.Resizing
FRONTS: dict[str, tuple[list[Callable[[Any], Any]], tuple[str, str]]] = {
    "scaled after": ([Resizing(*SIZE), TO_ONE], ("tf-bilinear", "stretch")),
    "scaled before, and cropped": (
        [TO_SIGNED, Resizing(*SIZE, crop_to_aspect_ratio=True)],
        ("tf-bilinear", "crop"),
    ),
    "padded": ([Resizing(*SIZE, pad_to_aspect_ratio=True), TO_ONE], ("tf-bilinear", "pad-resize")),
    "nearest": ([Resizing(*SIZE, interpolation="nearest"), TO_ONE], ("tf-nearest", "stretch")),
    "area": ([TO_ONE, Resizing(*SIZE, interpolation="area")], ("tf-area", "stretch")),
    "CenterCrop": ([layers.CenterCrop(*SIZE), TO_ONE], ("tf-bilinear", "center-crop")),
    "Resizing, then CenterCrop": ([Resizing(30, 30), layers.CenterCrop(*SIZE), TO_ONE], ("tf-bilinear", "stretch")),
    "tf.image, caffe": (
        [layers.Lambda(lambda x: tf.image.resize(x, SIZE, method="bicubic")), TURNED],
        ("tf-bicubic", "stretch"),
    ),
    "augmented and nested": (
        [
            layers.RandomFlip(),
            keras.Sequential([keras.Input((None, None, 3)), Resizing(*SIZE, interpolation="bicubic"), TO_ONE]),
        ],
        ("tf-bicubic", "stretch"),
    ),
}


@pytest.mark.parametrize("name", FRONTS)
def test_the_file_gives_on_photos_what_the_model_gives(name: str, photos: Path, tmp_path: Path) -> None:
    fronts, reading = FRONTS[name]
    made = model(*fronts)
    result = exported(made, tmp_path)
    contract = result.files[0].contract
    assert (contract["input"]["resampler"], contract["input"]["fit"]) == reading
    assert contract["input"]["mean"] == (0.0,)
    assert contract["input"]["std"] == (1.0,)
    assert {contract["origins"][part] for part in ("mean", "std", "resampler", "fit")} == {"graph"}
    assert decibels(vectors(result, photos), by_keras(made, photos)) > 100
    graph = Graph(Path(result.files[0].path).read_bytes())
    assert not [name for name in map(graph.operator_name, graph.operators) if "RESIZE" in name or "PAD" in name]
    (said,) = [text for text in result.decisions if "brings pictures to" in text]
    assert said.endswith(f"--resampler {reading[0]} --fit {reading[1]}.")


@pytest.mark.parametrize("suffix", [".keras", ".h5", ""])
def test_every_format_tells(suffix: str, photos: Path, tmp_path: Path) -> None:
    made = model(Resizing(*SIZE, crop_to_aspect_ratio=True), TO_ONE)
    path = tmp_path / f"any{suffix}"
    if suffix:
        made.save(path)
    else:
        made.export(path, verbose=False)
    result = exported(path, tmp_path / "out")
    assert decibels(vectors(result, photos), by_keras(made, photos)) > 100


def test_what_pillow_does_but_for_rounding_is_taken_and_said(photos: Path, tmp_path: Path) -> None:
    made = model(Resizing(*SIZE, antialias=True), TO_ONE)
    result = exported(made, tmp_path)
    assert result.files[0].contract["input"]["resampler"] == "bilinear"
    assert "up to rounding" in " ".join(result.decisions)
    assert decibels(vectors(result, photos), by_keras(made, photos)) > 50


def test_half_precision_does_not_hide_it(photos: Path) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        made = model(Resizing(*SIZE), TO_ONE)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    found = find_resizing(made, (None, None, None, 3))
    assert found is not None
    assert found.options == "--resampler tf-bilinear --fit stretch"
    assert found.apart < 0.1


@pytest.mark.parametrize(
    ("fronts", "nearest"),
    [
        ([Resizing(*SIZE, interpolation="lanczos3"), TO_ONE], "tf-bicubic --fit stretch"),
        # What is black after it was not black before.
        ([TO_SIGNED, Resizing(*SIZE, pad_to_aspect_ratio=True)], "bilinear --fit stretch"),
    ],
)
@walks("of 255 levels apart. Take that, with --input-shape")
def test_what_no_contract_does_is_told_with_a_way_out(
    fronts: list[Any], nearest: str, photos: Path, tmp_path: Path
) -> None:
    made = model(*fronts)
    with pytest.raises(ModelShapeError, match="no contract does the same") as raised:
        exported(made, tmp_path)
    way = f"--input-shape 20,28,3 --resampler {nearest}"
    assert way in str(raised.value)
    resampler, _, fit = nearest.partition(" --fit ")
    result = exported(made, tmp_path, input_shape=(*SIZE, 3), resampler=resampler, fit=fit)
    assert decibels(vectors(result, photos), by_keras(made, photos, result)) > 100
    otherwise = model(*(Resizing(*SIZE) if isinstance(front, Resizing) else front for front in fronts))
    assert decibels(vectors(exported(otherwise, tmp_path / "other"), photos), by_keras(otherwise, photos)) > 100
    assert "in another way" in " ".join(result.decisions)
    assert result.files[0].contract["origins"]["resampler"] == "given"


def test_a_part_far_from_the_corner_is_not_taken_for_resizing() -> None:
    """No picture of the model's size has it, nor one of those that are tried."""
    made = model(layers.Lambda(lambda x: x[:, 100:120, 100:128]))
    assert find_resizing(made, (None, None, None, 3)) is None


def test_what_cannot_be_cut_asks_for_a_size_and_works_with_it() -> None:
    import tf_keras

    def steps(x: Any) -> Any:
        return layers.GRU(4)(layers.Reshape((20, 84))(x))

    image = keras.Input((None, None, 3))
    loop = keras.Model(image, steps(Resizing(*SIZE)(image)))
    photo = tf_keras.Input((None, None, 3))
    x = tf_keras.layers.GlobalMaxPooling2D()(tf_keras.layers.Resizing(*SIZE)(photo))
    random = tf_keras.Model(photo, tf_keras.layers.Dropout(0.5)(x, training=True))
    values = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    for made, said in ((loop, False), (random, True)):
        with pytest.raises(ModelShapeError, match="Pass --input-shape"):
            from_keras(made, "any", LoadOptions())
        lowered = lower(from_keras(made, "any", LoadOptions((*SIZE, 3))))
        assert ("is random at inference" in " ".join(lowered.decisions)) == said
        wanted = np.asarray(made(values[None]))[0] if not said else values.max((0, 1))
        np.testing.assert_allclose(float_runner(lowered.flatbuffer)(values), wanted, atol=1e-5)


@walks(
    ", so pictures would be resized twice. Leave it out, and the contract",
    "Leave the options out, or insist with --accept-contract",
)
def test_options_that_contradict_it_are_refused_with_both(photos: Path, tmp_path: Path) -> None:
    made = model(Resizing(*SIZE, crop_to_aspect_ratio=True), TO_ONE)
    with pytest.raises(
        RequestError, match=r"--input-shape 50,50,3 contradicts any: it brings pictures to 20x28 itself"
    ):
        exported(made, tmp_path, input_shape=(50, 50, 3))
    with pytest.raises(
        RequestError, match=r"--resampler bilinear contradicts any: .* --resampler tf-bilinear --fit crop"
    ):
        exported(made, tmp_path, resampler="bilinear")
    result = exported(made, tmp_path, resampler="bilinear", accept_contract=True)
    read = result.files[0].contract["input"]
    assert (read["resampler"], read["fit"]) == ("bilinear", "crop")
    assert "--accept-contract takes the options all the same" in " ".join(result.decisions)
    twice = exported(made, tmp_path / "twice", input_shape=(50, 50, 3), accept_contract=True)
    assert "pictures of 50x50 are resized again" in " ".join(twice.decisions)
    for insisted in (result, twice):
        assert decibels(vectors(insisted, photos), by_keras(made, photos, insisted)) > 100
    assert decibels(vectors(exported(made, tmp_path / "left out"), photos), by_keras(made, photos)) > 100


def test_the_right_size_may_be_given_and_other_models_still_need_one(tmp_path: Path) -> None:
    made = model(Resizing(*SIZE), TO_ONE)
    path = tmp_path / "any.keras"
    made.save(path)
    given = load_original(path, LoadOptions(input_shape=(*SIZE, 3)))
    assert given.inputs is not None
    assert given.inputs.options.stated() == {"resampler": "tf-bilinear", "fit": "stretch"}
    with pytest.raises(ModelShapeError, match="Pass --input-shape, for instance --input-shape 224,224,3"):
        exported(model(TO_ONE), tmp_path)
