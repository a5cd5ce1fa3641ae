"""Fine-tuning mends what held-out images see, leaves a file that it does not improve, and says what it did."""

import errno
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from embedlite.convert import Asked, ExportOptions, export
from embedlite.convert.data import open_data
from embedlite.convert.graph.constraints import check_constraints
from embedlite.convert.graph.graph import Graph
from embedlite.convert.graph.run import float_rows
from embedlite.convert.load.keras_model import from_keras
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.make.recipe import read_recipe
from embedlite.convert.normalization.prepare import prepare
from embedlite.convert.quantize.choices import CalibrationOptions
from embedlite.convert.quantize.correct.paired_graph import PairedGraph
from embedlite.convert.quantize.int16x8 import quantize_wide
from embedlite.convert.quantize.plan import plan_int8
from embedlite.convert.request import check_request
from embedlite.convert.tune import train as training
from embedlite.convert.tune.checkpoint import check_checkpoint
from embedlite.convert.tune.fine_tune import FineTuner, Tuned
from embedlite.convert.tune.images import Batches
from embedlite.convert.tune.parameters import Parameters
from embedlite.runtime import Encoder, InputContract
from embedlite.runtime.errors import InputError, RequestError
from embedlite.runtime.images.open import open_source

from encoders import PLAIN, small_encoder
from rounding import decibels
from ways_out import walks

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

SHAPE = (24, 24, 3)
CONTRACT = InputContract(SHAPE)


def smooth(count: int, seed: int) -> np.ndarray:
    """Pixels that differ from image to image and place to place."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3))
    return np.kron(coarse, np.ones((1, 6, 6, 1))).astype(np.uint8)


@cache
def made() -> SimpleNamespace:
    """A plan, its int8 graph, and one that is damaged: biases of the first layer moved by some steps."""
    model = small_encoder([layers.Flatten(), layers.UnitNormalization()])
    graph = prepare(lower(from_keras(model, "small", LoadOptions())).flatbuffer)
    source = open_source(smooth(48, 0), CONTRACT)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, source, CONTRACT, options, raw_pixels=False)
    assert plan.trial is not None
    good = plan.trial.quantized(plan.flatbuffer, plan.ranges)
    damaged = Graph(good)
    first = next(item for item in damaged.operators if damaged.operator_name(item) == "CONV_2D")
    at = int(first.inputs[2])
    steps = float(damaged.tensor(int(first.outputs[0])).quantization.scale[0])
    scale = np.asarray(damaged.tensor(at).quantization.scale, np.float64)
    moved = damaged.constant(at) + np.round(3 * steps / scale)
    damaged.model.buffers[damaged.tensor(at).buffer].data = np.frombuffer(moved.astype(np.int32).tobytes(), np.uint8)
    return SimpleNamespace(graph=graph, plan=plan, good=good, damaged=damaged.to_bytes())


class Clock:
    """A time that passes by one second whenever somebody looks, so that a training has the same steps everywhere."""

    def __init__(self) -> None:
        self.now, self.pace = 0, 1

    def monotonic(self) -> float:
        self.now += self.pace
        return float(self.now)


def few_steps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, "time", Clock())
    patch.setattr(training, "RATES", (0.02, 0.1))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, and larger ones."""
    few_steps(monkeypatch)


@dataclass
class Int8Tuner:
    """Of int8 files of the plan."""

    tuner: FineTuner

    def tune(self, quantized: bytes) -> Tuned:
        return self.tuner.tune(quantized, "int8", made().plan.flatbuffer)


def tuner(seconds: float = 150.0, checkpoint: Path | None = None, **changed) -> Int8Tuner:
    return Int8Tuner(
        FineTuner(replace(made().plan, **changed), made().graph.raw_name, None, seconds, 0, checkpoint=checkpoint)
    )


@pytest.mark.usefixtures("steps")
def test_what_is_wrong_is_mended_and_told() -> None:
    tuned = tuner().tune(made().damaged)
    report, trial = tuned.report, made().plan.trial
    assert report is not None
    assert report.kept
    # On images that nothing has seen, not only on those that judged.
    unseen = [open_source(smooth(32, 9), CONTRACT).ready(index) for index in range(32)]
    expected = float_rows(made().graph.flatbuffer, unseen)
    noise = [((float_rows(file, unseen) - expected) ** 2).sum() for file in (made().damaged, tuned.graph)]
    assert noise[1] < 0.5 * noise[0]
    assert report.sqnr_after == pytest.approx(trial.sqnr(trial.errors_of(tuned.graph)))
    assert report.sqnr_after > report.sqnr_before + 3
    assert (report.images, report.held_out, report.ended, report.failures) == (36, 12, "finished", 0)
    assert report.float_from_original is not None
    (said,) = tuned.decisions
    assert said.startswith("the weights of int8 were changed by fine-tuning: ")
    assert "drift is measured against the original" in said
    # Numbers only: the operators are those of the file before.
    before, after = (Graph(file) for file in (made().damaged, tuned.graph))
    assert [*map(after.operator_name, after.operators)] == [*map(before.operator_name, before.operators)]


def test_without_a_clear_gain_the_file_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate that destroys any network."""
    monkeypatch.setattr(training, "time", Clock())
    monkeypatch.setattr(training, "RATES", (50.0,))
    tuning = tuner(40.0).tune(made().good)
    assert tuning.graph is made().good
    assert "no clear gain on 12 held-out calibration images (" in tuning.decisions[0]
    assert tuning.report is not None
    assert not tuning.report.kept


@pytest.mark.usefixtures("steps")
def test_after_a_loss_that_is_no_number_it_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Batches.draw
    calls = []

    def draw(self: Batches) -> np.ndarray:
        calls.append(1)
        return drawn(self) * np.float32(np.nan if len(calls) == 10 else 1)

    monkeypatch.setattr(Batches, "draw", draw)
    tuning = tuner().tune(made().damaged)
    assert tuning.report is not None
    assert tuning.report.failures == 1
    assert "1 of which ended in NaN and was taken back" in tuning.decisions[0]


@pytest.mark.usefixtures("steps")
def test_ctrl_c_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = training.Run._judged

    def interrupted(run: training.Run) -> float:
        score = judged(run)
        if run.result.best is not None:
            os.kill(os.getpid(), signal.SIGINT)
        return score

    monkeypatch.setattr(training.Run, "_judged", interrupted)
    tuning = tuner(400.0).tune(made().damaged)
    assert tuning.report is not None
    assert tuning.report.ended == "interrupted"
    assert tuning.report.kept
    # Of more than three hundred.
    assert tuning.report.steps < 100
    assert ", interrupted" in tuning.decisions[0]


class KilledError(Exception):
    """In place of a signal that nothing can catch."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ends the training after a number of steps, once; -1 never."""
    after, step = [-1], training.Training.step

    def counted(self: training.Training, rate: float) -> float:
        after[0] -= 1
        if after[0] == 0:
            raise KilledError
        return step(self, rate)

    monkeypatch.setattr(training.Training, "step", counted)
    yield after


@pytest.mark.usefixtures("steps")
def test_a_training_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(tmp_path: Path, killed: list[int]) -> None:
    whole = tuner(150.0, tmp_path / "whole.npz").tune(made().damaged)
    assert whole.report.kept
    path = tmp_path / "state.npz"
    killed[0] = whole.report.steps // 2
    with pytest.raises(KilledError):
        tuner(150.0, path).tune(made().damaged)
    resumed = tuner(150.0, path).tune(made().damaged)
    assert 0 < resumed.report.resumed < resumed.report.steps == whole.report.steps
    assert resumed.graph == whole.graph
    (said,) = resumed.decisions
    assert f"{whole.report.steps} steps, {resumed.report.resumed} of them in an earlier run" in said
    # And one that had ended is not made again.
    again = tuner(150.0, path).tune(made().damaged)
    assert again.report.resumed == again.report.steps
    assert again.graph == whole.graph
    assert sorted(item.name for item in tmp_path.iterdir()) == ["state.npz", "whole.npz"]
    check_checkpoint(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Of a training of 60 seconds."""
    path = tmp_path_factory.mktemp("checkpoint") / "state.npz"
    with pytest.MonkeyPatch.context() as patch:
        few_steps(patch)
        tuner(60.0, path).tune(made().damaged)
    return path.read_bytes()


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("what", ["cut", "no archive", "encrypted", "another"])
def test_a_checkpoint_that_does_not_help_is_one_line(tmp_path: Path, what: str, checkpoint: bytes) -> None:
    path = tmp_path / "state.npz"
    content = bytearray(checkpoint)
    if what == "no archive":
        content = bytearray(b"no archive at all")
    if what == "cut":
        del content[-1000:]
    if what == "encrypted":
        content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    tuning = tuner(100.0 if what == "another" else 60.0, path).tune(made().damaged)
    assert tuning.report.resumed == 0
    check_checkpoint(path)
    _, said = tuning.decisions
    why = "is of a training of another model, or with other" if what == "another" else "cannot be read"
    assert said.startswith(f"the checkpoint {path} {why}")
    assert said.endswith("so the fine-tuning of int8 began again.")


@pytest.mark.usefixtures("steps")
def test_a_training_whose_time_was_over_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes ten times as fast once the steps are planned."""
    clock, plan = training.time, training.Run.plan

    def planned(run: training.Run) -> None:
        plan(run)
        monkeypatch.setattr(clock, "pace", 10)

    monkeypatch.setattr(training.Run, "plan", planned)
    path = tmp_path / "state.npz"
    first = tuner(150.0, path).tune(made().damaged)
    assert first.report.ended == "time"
    assert ", fewer than were planned: the time was over" in first.decisions[0]
    again = tuner(150.0, path).tune(made().damaged)
    assert again.report.steps == again.report.resumed == first.report.steps
    assert again.graph == first.graph


@pytest.mark.usefixtures("steps")
def test_no_training_begins_that_would_not_be_built_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unrolled LSTM of sixteen steps was built for half a minute whatever the time."""
    begun, step = [], training.Training.step
    monkeypatch.setattr(training.Training, "step", lambda self, rate: begun.append(rate) or step(self, rate))
    monkeypatch.setattr(training, "_BUILDING", 30.0)
    tuned = tuner(150.0).tune(made().damaged)
    assert (tuned.graph, tuned.report.ended, tuned.report.steps) == (made().damaged, "building", 0)
    assert not begun
    assert (
        ": building the first takes longer than the time that was left; give --fine-tune-time more)"
        in tuned.decisions[0]
    )
    assert tuner(400.0).tune(made().damaged).report.kept
    assert begun


def test_other_images_have_another_fingerprint() -> None:
    few = open_source(smooth(40, 0), CONTRACT)
    further = [open_source(smooth(40, seed), CONTRACT) for seed in (1, 1, 2)]
    first, same, other = (Batches([few, source], 32, 0).fingerprint for source in further)
    assert first == same != other


@pytest.mark.usefixtures("steps")
def test_a_disk_that_is_full_costs_the_checkpoint_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "state.npz", Path.open

    def full(self: Path, mode: str = "r", **options: object) -> object:
        if self.name.startswith("state.npz"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    tuning = tuner(60.0, path).tune(made().damaged)
    assert tuning.report.steps > 0
    _, said = tuning.decisions
    assert said.startswith(f"no checkpoint of fine-tuning was kept: cannot write {path}: No space left on device")
    assert not path.exists()


@pytest.mark.usefixtures("steps")
def test_16_bit_files_are_trained_too() -> None:
    plan, original = made().plan, made().graph.flatbuffer
    wide = quantize_wide(original, plan.minmax, made().graph.keep_float)
    tuning = FineTuner(plan, made().graph.raw_name, None, 150.0, 0).tune(wide, "int16x8", original)
    assert tuning.report.mode == "int16x8"
    assert tuning.report.kept
    unseen = [open_source(smooth(32, 9), CONTRACT).ready(index) for index in range(32)]
    expected = float_rows(original, unseen)
    noise = [((float_rows(file, unseen) - expected) ** 2).sum() for file in (wide, tuning.graph)]
    assert noise[1] < noise[0]
    check_constraints(Graph(tuning.graph))


@pytest.mark.parametrize("flips", [False, True])
def test_what_is_trained_on_stays_between_black_and_white(flips: bool) -> None:
    contract = InputContract(SHAPE, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
    pixels = np.random.default_rng(1).integers(0, 256, (4, *SHAPE), np.uint8)
    batches = Batches([open_source(pixels, contract)], 32, 0, flips=flips)
    black, white = ((value - np.array(contract.mean)) / np.array(contract.std) for value in (0, 255))
    drawn = np.concatenate([batches.draw() for _ in range(8)])
    assert (drawn >= black - 1e-5).all()
    assert (drawn <= white + 1e-5).all()
    images = [batches._image(number) for number in range(4)]
    given = {image.tobytes() for image in images}
    mirrored = {np.ascontiguousarray(image[:, ::-1]).tobytes() for image in images}
    seen = {image.tobytes() for image in drawn}
    assert seen & given
    assert seen - given - mirrored
    assert bool(seen & mirrored) == flips
    # The state is all that it takes to draw the same again.
    state = json.loads(json.dumps(batches.state))
    first = batches.draw()
    batches.state = state
    assert (batches.draw() == first).all()


def test_an_image_that_turns_out_to_be_damaged_costs_itself_alone() -> None:
    """Found while the training runs: others are looked at when they are opened."""
    pixels = smooth(40, 3).astype(np.float32)
    pixels[[35, 36]] = np.nan
    source = open_source(pixels, CONTRACT)
    batches = Batches([source], 8, 0)
    drawn = np.concatenate([batches.draw() for _ in range(20)])
    assert np.isfinite(drawn).all()
    assert set(batches.unreadable) == {source.ids[35], source.ids[36]}
    # Thousands one after the other, as where a disk went.
    pixels = np.concatenate([pixels[:35], np.full((2000, *SHAPE), np.nan, np.float32)])
    source = open_source(pixels, CONTRACT)
    assert np.isfinite(Batches([source], 8, 0).draw()).all()
    tuning = FineTuner(made().plan, made().graph.raw_name, source, 0.5, 0).tune(
        made().good, "int8", made().plan.flatbuffer
    )
    (said,) = [text for text in tuning.decisions if "turned out to be unusable while int8 was trained" in text]
    assert said.startswith("WARNING: ")
    with pytest.raises(InputError):
        Batches([open_source(np.full((3, *SHAPE), np.nan, np.float32), CONTRACT)], 8, 0).draw()


def test_images_for_fine_tuning_that_cannot_be_read_are_left_out_if_asked() -> None:
    further = smooth(6, 3).astype(np.float32)
    further[2] = np.nan
    asked = Asked(calibration_data=smooth(30, 0), fine_tune=True, fine_tune_data=further, skip_unreadable=True)
    data = open_data(check_request(asked, Path("model.keras"), None), CONTRACT)
    assert data.further is not None
    assert len(data.further) == 5
    assert [image.id for image in data.skipped] == ["2"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"trial": None}, "there are no calibration images, or too few to hold some of them out"),
        ({"fitting": open_source(smooth(5, 0), CONTRACT)}, "17 calibration images are too few to judge it by"),
    ],
)
def test_too_few_images_are_one_line(changed: dict, says: str) -> None:
    tuning = tuner(**changed).tune(made().good)
    assert tuning.graph is made().good
    (said,) = tuning.decisions
    assert said.startswith(f"int8 was not fine-tuned: {says}")


def test_a_graph_without_layers_is_one_line() -> None:
    model = keras.Sequential([keras.Input(SHAPE), layers.AveragePooling2D(6), layers.Flatten()])
    graph = prepare(lower(from_keras(model, "pooled", LoadOptions())).flatbuffer)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, open_source(smooth(48, 0), CONTRACT), CONTRACT, options, raw_pixels=False)
    quantized = plan.trial.quantized(plan.flatbuffer, plan.ranges)
    tuning = FineTuner(plan, None, None, 1.0, 0).tune(quantized, "int8", plan.flatbuffer)
    assert tuning.graph is quantized
    (said,) = tuning.decisions
    assert said.startswith("int8 was not fine-tuned: ")


@walks("was fine-tuned, and a recipe holds no weights. Keep that file, or")
@pytest.mark.usefixtures("steps")
def test_an_export_says_so_everywhere_and_its_recipe_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from a .tflite, which has no gradient of its own. Whatever comes of it is kept."""
    monkeypatch.setattr(training, "better", lambda *_: True)
    model = small_encoder([layers.Flatten(), layers.UnitNormalization()])
    first = export(model, tmp_path / "float", quantize=["float32"], options=ExportOptions(measure=False))
    np.save(tmp_path / "more.npy", smooth(16, 3))
    tuning = {"fine_tune": True, "fine_tune_time": 30.0, "fine_tune_data": tmp_path / "more.npy", "card": True}
    result, without = (
        export(
            first.files[0].path,
            tmp_path / folder,
            quantize=["int8"],
            calibration_data=smooth(48, 0),
            test_data=smooth(16, 5),
            options=ExportOptions(**PLAIN, **options, measure=False),
        )
        for folder, options in (("tuned", tuning), ("plain", {}))
    )
    (report,) = result.fine_tuning
    # What it would be without is the file that is made without.
    (file,), (plain,) = result.files, without.files
    assert plain.untuned is None
    assert file.untuned is not None
    assert (file.untuned.sha256, file.untuned.bytes) == (plain.sha256, plain.bytes)
    assert file.sha256 != plain.sha256
    assert (report.images, report.held_out) == (52, 12)
    told = [text for text in result.decisions if "fine-tun" in text]
    assert len(told) == 1
    written = json.loads((tmp_path / "tuned" / "small.float32.export.json").read_text())
    assert written["fine_tuning"][0]["kept"]
    assert written["files"][0]["untuned"]["sha256"] == plain.sha256
    assert written["recipe"]["files"]["int8"]["tuned"] == report.sha256
    card = (tmp_path / "tuned" / "small.float32.card.md").read_text()
    assert "were trained further on 52 unlabelled" in card
    with pytest.raises(RequestError, match="was fine-tuned, and a recipe holds no weights"):
        read_recipe(tmp_path / "tuned" / "small.float32.export.json")
    # The file is kept, and what was exported above with --fine-tune may be exported again.
    with Encoder(result.files[0].path) as encoder:
        wanted = np.asarray(model(smooth(4, 6) / np.float32(255)))
        assert decibels(encoder.embed(smooth(4, 6)), wanted) >= 20


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fine_tune_flips": True}, "--fine-tune-flips is for fine-tuning. Add --fine-tune"),
        ({"fine_tune_checkpoint": "x"}, "--fine-tune-checkpoint is for fine-tuning. Add --fine-tune"),
        ({"fine_tune_time": 60.0}, "--fine-tune-time is for fine-tuning. Add --fine-tune"),
        ({"fine_tune_data": "x"}, "--fine-tune-data is for fine-tuning. Add --fine-tune"),
        ({"fine_tune": True, "fine_tune_time": 0.0}, "--fine-tune-time is 0 s. Give the training some time"),
        ({"fine_tune": True, "fine_tune_time": float("nan")}, "--fine-tune-time is nan s"),
        (
            {"fine_tune": True, "quantize": ("float32",)},
            "--fine-tune is for int8 and int16x8 files, and none was asked for",
        ),
        ({"fine_tune": True, "recipe": "x", "quantize": ("int8",)}, "--recipe makes files again without trying"),
    ],
)
def test_where_it_does_not_apply_it_is_refused(options: dict, says: str) -> None:
    with pytest.raises(RequestError) as raised:
        check_request(Asked(calibration_data=smooth(2, 0), **options), Path("model.keras"), None)
    assert says in str(raised.value)


def planned(*body: keras.layers.Layer, seconds: float = 0.5) -> tuple[FineTuner, bytes, bytes]:
    """A tuner of a small network, its int8 graph, and the float one."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input(SHAPE), *body, layers.GlobalAveragePooling2D()])
    graph = prepare(lower(from_keras(model, "planned", LoadOptions())).flatbuffer)
    options = CalibrationOptions("minmax", None, False, 1, modes=("int8",))
    plan = plan_int8(graph, open_source(smooth(48, 0), CONTRACT), CONTRACT, options, raw_pixels=False)
    assert plan.trial is not None
    quantized = plan.trial.quantized(plan.flatbuffer, plan.ranges)
    return FineTuner(plan, None, None, seconds, 0), quantized, plan.flatbuffer


def test_a_layer_that_is_used_twice_keeps_the_step_sizes_of_what_it_reads() -> None:
    """Its weights are not trained, so the step size of its bias stays."""
    twice = layers.Conv2D(3, 3, padding="same", activation="relu")
    tuner, quantized, original = planned(twice, layers.Conv2D(3, 1), twice, layers.Conv2D(8, 3, activation="relu"))
    parameters = Parameters(PairedGraph(quantized, original, [], None), original, tuner._plan.ranges.limits)
    moved = [*parameters.start[:-1], parameters.start[-1] + np.float32(0.05)]
    check_constraints(Graph(parameters.file(moved)))


@pytest.mark.usefixtures("steps")
def test_a_last_layer_in_float_is_trained_with_its_weights_in_8_bits() -> None:
    """Its weights alone are damaged."""
    tuner, _, original = planned(
        layers.Conv2D(16, 3, strides=2, activation="relu"), layers.Conv2D(24, 3), seconds=150.0
    )
    plan = tuner._plan
    end = tuple(Graph(original).tensor_name(int(item.outputs[0])) for item in Graph(original).operators[1:])
    graph = Graph(plan.trial.quantized(original, plan.ranges, end))
    (reads,) = (int(item.inputs[0]) for item in graph.operators if graph.is_constant(int(item.inputs[0])))
    noise = np.random.default_rng(0).integers(-6, 7, graph.shape(reads))
    stored = np.clip(graph.constant(reads) + noise, -127, 127).astype(np.int8)
    graph.model.buffers[graph.tensor(reads).buffer].data = np.frombuffer(stored.tobytes(), np.uint8)
    damaged = graph.to_bytes()
    tuned = tuner.tune(damaged, "int8", original)
    assert tuned.report is not None
    assert tuned.report.kept
    unseen = [open_source(smooth(32, 9), CONTRACT).ready(index) for index in range(32)]
    expected = float_rows(original, unseen)
    before, after = (((float_rows(file, unseen) - expected) ** 2).sum() for file in (damaged, tuned.graph))
    assert after < 0.5 * before
    mended = Graph(tuned.graph)
    assert (mended.constant(mended.index_of(graph.tensor_name(reads))) != stored).any()


def test_dilated_convolutions_have_a_gradient() -> None:
    tuner, quantized, original = planned(
        layers.Conv2D(8, 3, dilation_rate=2, activation="relu"), layers.Conv2D(8, 3, strides=2, activation="relu")
    )
    report = tuner.tune(quantized, "int8", original).report
    assert report is not None
    assert report.steps > 0
    assert report.failures == 0
