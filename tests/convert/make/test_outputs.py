"""No two files of an export are the same one, whatever they are called."""

from pathlib import Path

import pytest

from embedlite.convert import Asked
from embedlite.convert.make.outputs import check_written, written
from embedlite.convert.modes import MODES
from embedlite.convert.request import check_request
from embedlite.runtime.errors import OutputError, RequestError

ALL = Asked(quantize=["all"], calibration_data="photos", pareto=True, c_array=True)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, a model that is a folder with a dot in its name, photos, and a folder for the files."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "out", "saved.v2"):
        (tmp_path / name).mkdir()
    for name in ("model.keras", "photos/a.png", "saved.v2/saved_model.pb", "code.py", "old.json", "device.json"):
        (tmp_path / name).write_bytes(b"precious")
    return tmp_path


def refuse(asked: dict, json: str | None = None, model: str = "model.keras") -> None:
    whole = Asked(**{"output_dir": "out", "quantize": ["float32", "int8"], "calibration_data": "photos", **asked})
    check_written(check_request(whole, Path(model), None), Path(model), json)


@pytest.mark.parametrize(
    ("asked", "json", "model"),
    [
        ({"c_array": True}, "out/model.int8.h", "model.keras"),
        ({"c_array": True}, "out/model.int8.c", "model.keras"),
        ({}, "out/saved.v2.int8.tflite", "saved.v2"),
        ({"output_dir": None}, "saved.v2.export.json", "saved.v2"),
        ({}, "out/model.int8.tflite.rejected", "model.keras"),
        ({}, "out/../out/model.export.json", "model.keras"),
        ({"targets": ["ethos-u"]}, "out/model.int8.vela.tflite", "model.keras"),
        ({"targets": ["ethos-u"]}, "out/model.int8.vela.tflite.embedlite.json", "model.keras"),
        ({"pareto": True}, "out/model.mixed2.tflite", "model.keras"),
        ({}, "model.keras", "model.keras"),
        ({}, "photos/a.png", "model.keras"),
        ({}, "saved.v2/saved_model.pb", "saved.v2"),
        ({"custom_objects": "code.py"}, "code.py", "model.keras"),
        ({"calibration_cache": "c.npz"}, "c.npz", "model.keras"),
        ({"calibration_cache": "c.npz"}, "c.npz.tmp", "model.keras"),
        ({"calibration_cache": "out/model.int8.tflite"}, None, "model.keras"),
        ({"calibration_cache": "model.keras"}, None, "model.keras"),
        ({"calibration_cache": "x", "pareto": True, "search_cache": "x"}, None, "model.keras"),
        ({"pareto": True, "search_cache": "out/model.export.json"}, None, "model.keras"),
        (
            {"quantize": (), "recipe": "old.json", "pareto": True, "measured": "device.json"},
            "device.json",
            "model.keras",
        ),
        ({"quantize": (), "recipe": "old.json"}, "old.json", "model.keras"),
        ({"test_data": Path("old.json")}, "old.json", "model.keras"),
    ],
)
def test_one_name_for_two_files_is_refused(asked: dict, json: str | None, model: str) -> None:
    with pytest.raises(RequestError, match="named twice"):
        refuse(asked, json, model)


def test_links_are_followed(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "out")
    (folder / "other.json").symlink_to(folder / "model.keras")
    with pytest.raises(RequestError, match=r"as the int8 file and as --json"):
        refuse({}, "link/model.int8.tflite")
    with pytest.raises(RequestError, match="it is read"):
        refuse({}, "other.json")


def test_what_is_not_a_clash_is_written(folder: Path) -> None:
    refuse({"calibration_cache": "c.npz"}, "-")
    refuse({}, "/dev/null")
    refuse({"output_dir": "new"}, "new/report.json")
    (folder / "photos" / "report.json").write_text("{}")
    refuse({}, "photos/report.json")
    # export.json may take the place of the recipe that it is made from.
    (folder / "out" / "model.export.json").write_text("{}")
    refuse({"quantize": (), "recipe": "out/model.export.json"})
    with pytest.raises(OutputError, match="there is no folder"):
        refuse({}, "nowhere/report.json")


def test_every_file_has_a_name_of_its_own() -> None:
    request = check_request(ALL, Path("model.keras"), None)
    paths = list(written(request).values())
    assert len(set(paths)) == len(paths)
    assert {request.path(mode) for mode in MODES} <= set(paths)
