"""The contract that does what the user's own function does: found, proved, or refused with what differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import layers
from PIL import Image, ImageOps

from embedlite.convert import ExportOptions, export
from embedlite.convert.load.preprocess import prove
from embedlite.runtime import Encoder
from embedlite.runtime.errors import RequestError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.contract import InputContract, InputOptions

from encoders import small_encoder
from ways_out import walk, walks

SIZE = 24
CONTRACT = InputContract((SIZE, SIZE, 3))
MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])
CAFFE = np.float32([103.939, 116.779, 123.68])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of several sizes, JPEG and PNG, some turned by EXIF."""
    from skimage import data

    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(16):
        photo = getattr(data, ("astronaut", "coffee", "chelsea")[number % 3])()
        height, width = rng.integers(40, 160, 2)
        top, left = rng.integers(0, 90, 2)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 4 == 0 else 1
        crop = Image.fromarray(photo[top : top + height, left : left + width])
        crop.save(folder / f"{number:02d}.{'jpg' if number % 2 else 'png'}", exif=exif)
    return folder


def opened(path: str) -> Any:
    return ImageOps.exif_transpose(Image.open(path)).convert("RGB")


def pillow(path: str) -> np.ndarray:
    return np.asarray(opened(path).resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1


def torch(image: Any) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    width, height = image.size
    short = SIZE + 3
    new = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(new, Image.Resampling.BILINEAR)
    left, top = (round((side - SIZE) / 2.0) for side in new)
    return (np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32) - MEAN) / STD


def caffe(path: str) -> np.ndarray:
    pixels = np.asarray(opened(path).resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    return pixels[..., ::-1] - CAFFE


def integers(path: str) -> np.ndarray:
    return np.asarray(opened(path).resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def by_tensorflow(path: str) -> Any:
    import tensorflow as tf

    image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    return tf.image.resize(image, (SIZE, SIZE))[None] / 255.0


def of_its_own(path: str) -> np.ndarray:
    pixels = np.asarray(opened(path).resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32)
    return (pixels - np.float32([90, 100, 110])) / np.float32([33, 44, 55])


FOUND: dict[Callable[[Any], Any], dict[str, Any]] = {
    pillow: {"resampler": "bicubic", "mean": (127.5,), "std": (127.5,)},
    torch: {"fit": "resize-crop:27", "mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
    caffe: {"color_order": "bgr", "mean": (103.939, 116.779, 123.68), "std": (1.0,)},
    integers: {"resampler": "lanczos", "mean": (0.0,), "std": (1.0,)},
    by_tensorflow: {"resampler": "tf-bilinear", "jpeg_decoder": "tensorflow", "exif": "ignore", "std": (255.0,)},
}


@pytest.mark.parametrize("function", FOUND, ids=lambda function: function.__name__)
def test_the_contract_of_a_function_is_found_and_proved(function: Callable[[Any], Any], pictures: Path) -> None:
    proof = prove(function, [pictures], CONTRACT, InputOptions())
    assert {**vars(CONTRACT), **FOUND[function]} == vars(proof.contract)
    assert proof.holds
    assert proof.images == 16
    assert proof.notes == ()


def test_a_scaling_of_its_own_is_measured(pictures: Path) -> None:
    proof = prove(of_its_own, [pictures], CONTRACT, InputOptions())
    np.testing.assert_allclose(proof.contract.mean, [90, 100, 110], rtol=1e-4)
    np.testing.assert_allclose(proof.contract.std, [33, 44, 55], rtol=1e-4)
    assert proof.holds


def blurred(path: str) -> np.ndarray:
    from PIL import ImageFilter

    return np.asarray(opened(path).filter(ImageFilter.GaussianBlur(3)).resize((SIZE, SIZE)), np.float32) / 255


@walks("{}.{} {}, or pass --accept-contract to go on all the same")
def test_what_no_contract_does_is_told_with_its_cost(pictures: Path, tmp_path: Path) -> None:
    model = small_encoder([layers.GlobalAveragePooling2D()])
    options = ExportOptions(preprocess=blurred, measure=False)
    with pytest.raises(RequestError, match=r"no contract does what blurred\(\) does: .* costs [\d.]+ dB .*neighbours"):
        export(model, tmp_path / "out", quantize=["float32"], test_data=pictures, options=options)
    assert not (tmp_path / "out").exists()
    options = ExportOptions(preprocess=blurred, accept_contract=True, measure=False)
    result = export(model, tmp_path / "out", quantize=["float32"], test_data=pictures, options=options)
    assert any("it was accepted" in text for text in result.decisions)
    # What is meant by it is what the message calls nearest; what one of the contracts does is exact.
    options = ExportOptions(preprocess=pillow, measure=False)
    result = export(model, tmp_path / "as one", quantize=["float32"], test_data=pictures, options=options)
    with Encoder(result.files[0].path) as encoder:
        found = np.stack(list(encoder.embed_iter(open_source(pictures, encoder.contract.input))))
    wanted = np.asarray(model(np.stack([pillow(str(path)) for path in sorted(pictures.iterdir())])))
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_file_and_a_function_are_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text(
        "import helper\ndef half(path):\n    return helper.read(path) / 127.5 - 1\n", encoding="utf-8"
    )
    (tmp_path / "helper.py").write_text(
        "import numpy as np\nfrom PIL import Image, ImageOps\ndef read(path):\n"
        "    image = ImageOps.exif_transpose(Image.open(path)).convert('RGB').resize((24, 24), Image.Resampling.BOX)\n"
        "    return np.asarray(image, np.float32)\n"
    )
    model = small_encoder([layers.GlobalAveragePooling2D()])
    options = ExportOptions(preprocess=f"{tmp_path / 'prepare.py'}:half", measure=False)
    result = export(model, tmp_path / "out", quantize=["float32"], test_data=pictures, options=options)
    contract = result.files[0].contract["input"]
    assert (contract["mean"], contract["std"], contract["resampler"]) == ((127.5,), (127.5,), "box")
    assert any(text.startswith("the contract does what half() does, proved: ") for text in result.decisions)
    with pytest.raises(RequestError, match=r"has no function 'whole'; it has half"):
        prove(f"{tmp_path / 'prepare.py'}:whole", [pictures], CONTRACT, InputOptions())


def raising(path: Any) -> Any:
    raise ValueError("no such luck")


def random(path: str) -> np.ndarray:
    return pillow(path) + np.random.default_rng().normal(size=(SIZE, SIZE, 3)).astype(np.float32)


def ending(path: Any) -> Any:
    raise SystemExit(3)


def fickle(path: str) -> np.ndarray:
    """Floats for the upright ones, integers for the rest."""
    with Image.open(path) as image:
        turned = image.getexif().get(0x0112, 1) != 1
    return np.uint8(255 * pillow(path)) if turned else pillow(path)


BAD: dict[str, tuple[Any, str]] = {
    "raises": (raising, r"raising\(\) raises with the path .*no such luck"),
    "ends": (ending, r"ending\(\) raises with the path .*SystemExit: 3"),
    "two dtypes": (fickle, r"returns (uint8|float32) for .* and (uint8|float32) for another image"),
    "another size": (lambda path: pillow(path)[:-1], r"returns another thing.*\(23, 24, 3\)"),
    "channels first": (lambda path: pillow(path).transpose(2, 0, 1), "channels come first"),
    "another dtype": (lambda path: "text", "returns str of dtype"),
    "nothing": (lambda path: None, "returns NoneType"),
    "NaN": (lambda path: pillow(path) * np.float32(np.nan), "returns NaN or infinity"),
    "random": (random, r"random\(\) differs between two calls"),
    "flat": (lambda path: np.zeros((SIZE, SIZE, 3), np.float32), "returns flat images"),
    "negative": (lambda path: -pillow(path), "turns light into dark"),
    "no function": ("prepare.py", "name a file and a function in it"),
    "no file": ("nowhere.py:f", "there is no file nowhere.py"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_function_that_cannot_be_used_is_named_with_what_it_did(name: str, pictures: Path) -> None:
    function, said = BAD[name]
    with pytest.raises(RequestError, match=said):
        prove(function, [pictures], CONTRACT, InputOptions())


def test_bad_manners_are_noted_and_kept_from_the_output(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def loud(image: Any) -> np.ndarray:
        print("look at", image.size)
        image = ImageOps.exif_transpose(image)
        return np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32) / 255

    def rude(image: Any) -> np.ndarray:
        result = loud(image)
        image.paste(0, (0, 0, 5, 5))
        return result

    for function, notes in ((loud, ["prints"]), (rude, ["prints", "changes the image"])):
        proof = prove(function, [pictures], CONTRACT, InputOptions())
        assert proof.holds
        assert len(proof.notes) == len(notes)
        assert all(note in "\n".join(proof.notes) for note in notes)
    assert capsys.readouterr().out == ""


def test_what_was_said_otherwise_is_a_contradiction(pictures: Path) -> None:
    with pytest.raises(RequestError, match=r"--mean says \(0\.0,\), and pillow\(\) does \(127\.5,\)"):
        prove(pillow, [pictures], CONTRACT, InputOptions(mean=(0.0,)))


def test_what_the_images_do_not_show_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(tmp_path / f"{number}.png")
    proof = prove(pillow, [tmp_path], CONTRACT, InputOptions())
    assert proof.holds
    (note,) = proof.notes
    for part in ("the resampler and --fit", "--exif", "--jpeg-decoder"):
        assert part in note
    with pytest.raises(RequestError, match="there are none"):
        prove(pillow, [np.zeros((2, SIZE, SIZE, 3), np.uint8), None], CONTRACT, InputOptions())


PREPARE = "import numpy as np\nfrom PIL import Image, ImageOps\n\n\ndef preprocess(path):\n" + (
    "    image = ImageOps.exif_transpose(Image.open(path)).convert('RGB').resize((24, 24), Image.Resampling.BOX)\n"
    "    return np.asarray(image, np.float32) / 255\n"
)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        walk("returns flat images for all of", (lambda path: pillow(path) * 0,), [(pillow,)]),
        walk("it is random. Pass what the model is to be used with, without", (random,), [(pillow,)]),
        walk(
            "name a file and a function in it, such as prepare.py:preprocess",
            ("prepare.py",),
            [("prepare.py:preprocess",)],
        ),
        walk("Name a Python file and a function in it", ("nowhere.py:preprocess",), [("prepare.py:preprocess",)]),
        walk("--preprocess: {} fails when it is run", ("broken.py:preprocess",), [("prepare.py:preprocess",)]),
        walk(
            "--preprocess is run on image files, and there are none. Pass a folder",
            (pillow, {}, np.zeros((2, SIZE, SIZE, 3), np.uint8)),
            [(pillow,)],
        ),
        walk(
            "Leave the option out, or pass another function",
            (pillow, {"mean": (0.0,)}),
            [(pillow,), (integers, {"mean": (0.0,)})],
        ),
    ],
)
def test_what_an_error_says_of_the_function_is_done_and_proved(
    wrong: tuple[Any, ...],
    right: list[tuple[Any, ...]],
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prepare.py").write_text(PREPARE)
    (tmp_path / "broken.py").write_text("import nothing\n" + PREPARE)

    def proved(function: Any, said: dict[str, Any] | None = None, data: Any = pictures) -> Any:
        return prove(function, [data, None], CONTRACT, InputOptions(**(said or {})))

    with pytest.raises(RequestError):
        proved(*wrong)
    for given in right:
        assert proved(*given).holds
