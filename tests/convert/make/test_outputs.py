"""No two files of an export are the same one, whatever they are called."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from embedlite.convert import Asked
from embedlite.convert.make.names import OutputNames
from embedlite.convert.make.outputs import check_kept, check_written, write_outputs
from embedlite.convert.modes import MODES
from embedlite.convert.request import Request, check_request
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
        ({"preprocess": "code.py:prepare"}, "code.py", "model.keras"),
        ({"fine_tune": True, "fine_tune_data": "old.json"}, "old.json", "model.keras"),
        ({"card": True}, "out/model.card.md", "model.keras"),
        ({"c_header": True}, "out/model.float32.contract.h", "model.keras"),
        ({"c_array": True, "quantize": ["int16x8"]}, "out/model.int16x8.c", "model.keras"),
        ({}, "out/model.int8.tflite.embedlite.json", "model.keras"),
        ({"calibration_cache": "out/c", "pareto": True, "search_cache": "out/c.tmp"}, None, "model.keras"),
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


@pytest.mark.parametrize("json", ["out/MODEL.int8.tflite", "out/model.Export.json", "OUT/model.int8.tflite"])
def test_names_that_differ_in_case_are_one_on_many_disks(json: str) -> None:
    with pytest.raises(RequestError, match="differ only in how their letters are written"):
        refuse({}, json)


def test_a_file_is_not_the_folder_of_others() -> None:
    for json, folder in (("new", "new"), ("new", "new/deep"), ("link/../new", "new")):
        with pytest.raises(RequestError, match="and as the folder of"):
            refuse({"output_dir": folder}, json)
    with pytest.raises(RequestError, match="and as the folder of"):
        refuse({"output_dir": "new", "calibration_cache": "new"})


STEMS = st.one_of(
    st.sampled_from([*MODES, "mixed", "mixed1", "model.int8", "card", "export", "a.vela", "x.contract", "saved.v2"]),
    st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="/"), min_size=1, max_size=20),
)
"""What files may be called after, with the words that their own names are made of."""

ASKED = st.fixed_dictionaries(
    {
        "quantize": st.sets(st.sampled_from(MODES), min_size=1).map(lambda modes: tuple(sorted({*modes, "int8"}))),
        "pareto": st.booleans(),
        "max_drift": st.sampled_from([(), ("sqnr_db=40",)]),
        "c_array": st.booleans(),
        "c_header": st.booleans(),
        "card": st.booleans(),
        "targets": st.sampled_from([(), ("ethos-u",)]),
    }
)


def requested(asked: dict, stem: str, folder: Path) -> Request:
    given = Asked(calibration_data="photos", output_dir=folder, force=True, **asked)
    return check_request(given, Path(f"{stem}.keras"), None)


def folded(path: Path) -> str:
    return unicodedata.normalize("NFC", str(path).casefold())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ASKED, STEMS, st.data())
def test_every_file_has_a_name_of_its_own(folder: Path, asked: dict, stem: str, data: st.DataObject) -> None:
    """Given any stem and any options. Result: no two names are one, even without case; nothing else may have one."""
    request = requested(asked, stem, folder / "out")
    names = OutputNames(request)
    paths = list(names.every().values())
    assert {path.parent for path in paths} == {request.folder}
    assert len({folded(path) for path in (*paths, *names.reserved().values())}) == len(paths) + len(names.reserved())
    assert {names.file(mode) for mode in request.modes} <= set(paths)
    taken = data.draw(st.sampled_from(paths), "taken")
    other = data.draw(st.sampled_from(["same", "around", "link", "case"]), "spelt")
    (folder / "link").is_symlink() or (folder / "link").symlink_to(folder / "out")
    spelt = {
        "same": taken,
        "around": folder / "out" / ".." / "out" / taken.name,
        "link": folder / "link" / taken.name,
        "case": taken.with_name(taken.name.swapcase()),
    }[other]
    # Some letters become others that way: a dotless i an I, which is a file of its own everywhere.
    assume(folded(spelt) == folded(taken) or other != "case")
    for option in ({}, {"calibration_cache": spelt}):
        with pytest.raises(RequestError, match=r"is named twice|differ only in how"):
            check_written(requested({**asked, **option}, stem, folder / "out"), None, None if option else str(spelt))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ASKED, STEMS)
def test_all_that_may_be_written_lies_side_by_side(folder: Path, asked: dict, stem: str) -> None:
    request = requested(asked, stem, folder / "out")
    contents = {path: name.encode() for name, path in OutputNames(request).every().items()}
    write_outputs(request, contents)
    assert {path: path.read_bytes() for path in contents} == contents
    assert len(list(request.folder.iterdir())) == len(contents)
    for path in contents:
        path.unlink()


def test_a_name_that_nobody_checked_is_not_written(folder: Path) -> None:
    request = check_request(ALL, Path("model.keras"), None)
    with pytest.raises(AssertionError):
        write_outputs(request, {folder / "model.txt": b""})


@pytest.mark.parametrize(("name", "says"), [("photos", "it is a folder"), ("nowhere/state.npz", "there is no folder")])
@pytest.mark.parametrize("kept", [{"fine_tune": True, "fine_tune_checkpoint": 0}, {"pareto": True, "search_cache": 0}])
def test_what_is_kept_on_the_way_is_refused_before_any_work(kept: dict, name: str, says: str) -> None:
    asked = {option: value or name for option, value in kept.items()}
    request = check_request(Asked(calibration_data="photos", **asked), Path("model.keras"), None)
    with pytest.raises(OutputError, match=says):
        check_kept(request)


@pytest.mark.parametrize("content", [b"precious", b"PK\x03\x04" + bytes(40)])
def test_a_checkpoint_that_is_another_file_is_refused_until_it_is_removed(content: bytes, folder: Path) -> None:
    """What a training left is read, or said to be damaged: tests/convert/tune/test_fine_tune.py."""
    asked = Asked(calibration_data="photos", fine_tune=True, fine_tune_checkpoint="photos.npz")
    request, path = check_request(asked, Path("model.keras"), None), folder / "photos.npz"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"photos\.npz is not a checkpoint .* Remove it, or name another file\.$"):
        check_kept(request)
    assert path.read_bytes() == content
    path.unlink()
    check_kept(request)
