"""examples/web in headless Chromium, against Encoder in Python: vectors, self-test, and what it refuses."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedlite.runtime import Encoder

from browser import Page, open_browser
from conftest import Digits, Run
from tools import require
from web import install, serve

PHOTOS = 20


class Web:
    """The example's page, open in a browser; what tests put into ``folder`` is served."""

    def __init__(self, page: Page, folder: Path, address: str) -> None:
        self.page, self.folder, self.address = page, folder, address

    def ask(self, body: str, **values: Any) -> Any:
        """Run the body of an async function that has ``Encoder`` and these values."""
        names = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
        return self.page.evaluate(
            f"(async () => {{ const {{Encoder}} = await import('./embedlite.js'); {names} "
            f"try {{ {body} }} catch (error) {{ return String(error.message); }} }})()"
        )

    def vectors(self, model: str, images: list[str]) -> np.ndarray:
        found = self.ask(
            "const encoder = await Encoder.open(model, './node_modules/@litertjs/core/wasm/'); const vectors = [];"
            "for (const name of images) { const blob = await (await fetch(name)).blob();"
            "vectors.push([...await encoder.embed(await createImageBitmap(blob))]); } encoder.close(); return vectors;",
            model=model,
            images=images,
        )
        assert isinstance(found, list), found
        return np.array(found, np.float32)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    folder = tmp_path_factory.mktemp("web")
    program = require("chromium")
    install(folder)
    with serve(folder) as address, open_browser(program, tmp_path_factory.mktemp("chromium")) as page:
        page.open_address(f"{address}/index.html", 800)
        yield Web(page, folder, address)


@pytest.fixture(scope="module")
def pictures(web: Web) -> list[str]:
    """Crops of photos in many sizes, larger and smaller than the models, none higher than wide (see embedlite.js)."""
    from skimage import data

    rng = np.random.default_rng(0)
    names = []
    for index in range(PHOTOS):
        photo = (data.astronaut, data.coffee, data.chelsea)[index % 3]()
        width = int(rng.integers(20, photo.shape[1]))
        height = int(rng.integers(9, min(width, photo.shape[0])))
        top, left = (
            int(rng.integers(0, size - side)) for size, side in zip(photo.shape, (height, width), strict=False)
        )
        names.append(f"photo{index:02d}.png")
        Image.fromarray(photo[top : top + height, left : left + width]).save(web.folder / names[-1])
    return names


@pytest.fixture(scope="module")
def colour(small: Path, photos: Path, web: Web, run: Run) -> Path:
    """An RGB encoder whose normalization is left to the reader; another resampler, BGR, a mean for each channel."""
    done = run(
        *("export-tflite", small, "-q", "int8", "--calibration-data", photos, "-o", web.folder),
        *("--normalization", "runtime", "--color-order", "bgr", "--resampler", "bicubic"),
        *("--mean", "103.9,116.8,123.7", "--std", "60"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return web.folder / "small.int8.tflite"


@pytest.mark.parametrize(("mode", "tolerance"), [("float32", 1e-4), ("float16", 1e-4), ("int8", 0.02)])
def test_the_browser_gives_the_vectors_of_python(
    web: Web, digits: Digits, pictures: list[str], mode: str, tolerance: float
) -> None:
    shutil.copy(digits.file(mode), web.folder)
    images = [
        Image.open(web.folder / name).convert("L").resize((32, 32), Image.Resampling.BILINEAR) for name in pictures
    ]
    with Encoder(digits.file(mode)) as encoder:
        wanted = encoder.embed(np.stack([np.asarray(image)[..., None] for image in images]))
    found = web.vectors(digits.file(mode).name, pictures)
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=tolerance * np.abs(wanted).max())


def test_a_normalization_that_is_left_to_the_reader(web: Web, colour: Path, pictures: list[str]) -> None:
    images = [Image.open(web.folder / name).resize((24, 24), Image.Resampling.BICUBIC) for name in pictures]
    with Encoder(colour) as encoder:
        wanted = encoder.embed(np.stack([np.asarray(image)[..., ::-1] for image in images]))
    found = web.vectors(colour.name, pictures)
    # Divided by the extent of some 100 steps: two of these are 0.02.
    np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=0.02)


@pytest.mark.parametrize(
    ("key", "value", "other"),
    [("kind", "minmax", "medmad"), ("divisor", "shifted", "doubled"), ("epsilon_mode", "max", "min")],
)
def test_a_normalization_that_the_page_does_not_know_is_refused_in_one_line(
    web: Web, colour: Path, key: str, value: str, other: str
) -> None:
    """It would be computed as another one without a word."""
    content, said = colour.read_bytes(), f'"{key}": "{value}"'.encode()
    assert content.count(said) == 1
    (web.folder / f"{other}.tflite").write_bytes(content.replace(said, f'"{key}": "{other}"'.encode()))
    answer = web.ask(SELFTEST + "return 'opened';", model=f"{other}.tflite")
    assert "a normalization to its reader that this page does not know" in answer
    assert other in answer
    assert "\n" not in answer


SELFTEST = "const encoder = await Encoder.open(model, './node_modules/@litertjs/core/wasm/');"


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_the_selftest_passes_and_catches_another_preprocessing(web: Web, digits: Digits, mode: str) -> None:
    shutil.copy(digits.file(mode), web.folder)
    name = digits.file(mode).name
    good = web.ask(SELFTEST + "return await encoder.selftest();", model=name)
    assert good["passed"], good
    assert len(good["checks"]) == 4
    wrong = web.ask(SELFTEST + "encoder.contract.input.mean[0] += 0.5; return await encoder.selftest();", model=name)
    assert not wrong["passed"]
    assert not wrong["checks"][0]["passed"]


def test_a_file_that_is_damaged_or_has_no_contract_is_refused_in_one_line(web: Web, digits: Digits) -> None:
    content = bytearray(digits.int8.read_bytes())
    content[len(content) // 2] ^= 1
    (web.folder / "damaged.tflite").write_bytes(content)
    with Encoder(digits.int8) as encoder:
        (web.folder / "plain.tflite").write_bytes(encoder.artifact.flatbuffer)
    open_it = SELFTEST + "return 'opened';"
    assert "its checksum is not the contract's" in web.ask(open_it, model="damaged.tflite")
    assert "has no contract" in web.ask(open_it, model="plain.tflite")
    assert "the server answers 404" in web.ask(open_it, model="missing.tflite")


def test_what_the_page_cannot_carry_out_it_refuses(web: Web, digits: Digits, pictures: list[str]) -> None:
    shutil.copy(digits.int8, web.folder)
    answer = web.ask(
        SELFTEST + "encoder.contract.input.resampler = 'tf-bilinear'; const blob = await (await fetch(image)).blob();"
        "return await encoder.embed(await createImageBitmap(blob));",
        model=digits.int8.name,
        image=pictures[0],
    )
    assert "resampler tf-bilinear" in answer


def test_a_file_with_integers_at_its_ends_is_refused_with_the_way_out(
    web: Web, small: Path, photos: Path, run: Run
) -> None:
    folder = web.folder / "ends"
    done = run(
        *("export-tflite", small, "-q", "int8", "--calibration-data", photos, "-o", folder),
        *("--input-type", "int8", "--output-type", "int8"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = web.ask(SELFTEST, model="ends/small.int8.tflite")
    assert "takes int8 and gives int8" in answer
    assert "without --input-type and --output-type" in answer


def test_nothing_is_fetched_from_elsewhere(web: Web, digits: Digits, pictures: list[str]) -> None:
    shutil.copy(digits.int8, web.folder)
    web.vectors(digits.int8.name, pictures[:1])
    assert [request for request in web.page.requests if not request.startswith((web.address, "data:", "blob:"))] == []
