"""``auto``: it finds what is planted, and keeps its hands off what chance would explain."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest

from embedlite.calibration import Ranges, Statistics, auto
from embedlite.calibration.auto import MOST_TRIALS, all_if_better, better, choose_methods
from embedlite.calibration.bins import count
from embedlite.calibration.methods import Method, choose_range
from embedlite.calibration.statistics import TensorStatistics
from embedlite.calibration.tensors import TensorGroup
from embedlite.convert import ExportOptions, export
from embedlite.runtime import Encoder
from embedlite.runtime.drift import measure_drift

from conftest import Digits

RNG = np.random.default_rng(0)
NAMES = ("plain", "outlier", "tail")
GROUPS = tuple(TensorGroup(name, place, (name,), rectified=True) for place, name in enumerate(NAMES))
VALUES = {
    "plain": RNG.uniform(0, 1, 50_000),
    "outlier": np.append(RNG.uniform(0, 1, 50_000), 90.0),
    "tail": RNG.uniform(0, 1, 50_000),
}


def statistics() -> Statistics:
    tensors = {}
    for name, values in VALUES.items():
        single = values.astype(np.float32)
        tensors[name] = TensorStatistics(
            ((0.0, ""),), ((float(single.max()), "x"),), count(single.view(np.uint16)[1::2])
        )
    return Statistics("m", {}, tensors, 10, 1)


def errors_of(limits: Callable[[Ranges], float]) -> Callable[[Iterable[Ranges]], Iterator[np.ndarray]]:
    noise = RNG.uniform(0.9, 1.1, (4, 10))
    return lambda folds: (part * limits(ranges) for part, ranges in zip(noise, folds, strict=True))


def test_the_tensor_with_the_outlier_gets_another_method_than_the_others() -> None:
    """The width of the outlier's range costs; clipping any of the others costs more."""

    def cost(ranges: Ranges) -> float:
        return ranges.limits["outlier"][1] + 1000 * max(0.0, 0.995 - min(ranges.limits[name][1] for name in NAMES))

    choice = choose_methods([statistics()] * 4, GROUPS, errors_of(cost))
    chosen = {name: choice.only.get(name, choice.method) for name in NAMES}
    assert chosen["outlier"].kind != "minmax"
    limits = {name: choose_range(statistics().tensors[name], method)[1] for name, method in chosen.items()}
    assert limits["outlier"] < 2
    assert min(limits.values()) > 0.995
    assert choice.after < 0.1 * choice.before
    assert choice.trials <= MOST_TRIALS


def test_nothing_changes_where_nothing_is_gained() -> None:
    choice = choose_methods([statistics()] * 4, GROUPS, errors_of(lambda ranges: 1.0))
    assert (str(choice.method), choice.only) == ("minmax", {})
    assert choice.before == choice.after


def test_ranges_are_not_looked_for_that_no_trial_is_left_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set()

    def counted(tensor: TensorStatistics, method: Method) -> tuple[float, float]:
        asked.add(str(method))
        return choose_range(tensor, method)

    monkeypatch.setattr(auto, "choose_range", counted)
    choice = choose_methods([statistics()] * 4, GROUPS, errors_of(lambda ranges: 1.0), most=2)
    assert choice.trials == 2
    assert asked == {str(method) for method in auto.CANDIDATES[:2]}


@pytest.mark.parametrize(("most", "wanted"), [(4, "percentile:99.99"), (MOST_TRIALS, "minmax")])
def test_ranges_have_to_prove_less_where_few_are_tried(most: int, wanted: str) -> None:
    """A gain of 2.7 standard errors: chance gives it to one of 290 sets of ranges, so to one of three hardly ever."""
    noise = np.random.default_rng(2).normal(size=(4, 40))
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    after = np.exp(0.03 * (noise - 2.7 / np.sqrt(noise.size)))

    def trial(folds: Iterable[Ranges]) -> Iterator[np.ndarray]:
        whole = (ranges.limits["outlier"][1] > 50 for ranges in folds)
        return (np.ones(40) if is_whole else part for is_whole, part in zip(whole, after, strict=True))

    assert str(choose_methods([statistics()] * 4, GROUPS, trial, most=most).method) == wanted


def test_ranges_that_give_no_embedding_are_never_chosen() -> None:
    def dead(ranges: Ranges) -> float:
        return 1.0 if ranges.limits["outlier"][1] > 50 else np.inf

    assert str(choose_methods([statistics()] * 4, GROUPS, errors_of(dead)).method) == "minmax"


@pytest.mark.parametrize(
    ("gains", "wanted"),
    [
        (np.full(40, 0.8), True),  # every image gains
        (np.where(np.arange(40) == 0, 0.01, 1.0), False),  # one image gains much
        (np.where(np.arange(40) < 20, 0.9, 1.1), False),  # half gain, half lose
        (np.where(np.arange(40) == 0, 20.0, 0.8), False),  # all but one gain, and that one is ruined
        (np.full(1, 0.5), False),  # one image proves nothing
        (np.full(40, np.nan), False),
    ],
)
def test_better_is_more_than_chance(gains: np.ndarray, wanted: bool) -> None:
    before = RNG.uniform(1, 2, len(gains))
    assert better(before * gains, before, 3) is wanted


@pytest.mark.parametrize("needed", [1, 2, 3])
def test_a_trial_ends_early_where_it_is_lost_and_decides_as_all_images_would(needed: float) -> None:
    """Of gains from clear losses to clear ones, each of which chance moves by a standard error."""
    asked, wrong, rng = list[int](), 0, np.random.default_rng(1)
    for effect in np.linspace(-8, 8, 400):
        before = rng.lognormal(0, 1, (4, 32))
        after = before / np.exp(effect / np.sqrt(before.size) + rng.normal(size=before.shape))
        asked.append(0)

        def parts(after: np.ndarray = after) -> Iterator[np.ndarray]:
            for part in after:
                asked[-1] += 1
                yield part

        found = all_if_better(parts(), before.ravel(), needed)
        wanted = better(after.ravel(), before.ravel(), needed)
        wrong += (found is not None) != wanted
        assert found is None or (wanted and np.array_equal(found, after.ravel()))
    # One of forty that just pass is lost, at each of three looks, and few just pass.
    assert wrong <= 3 / 40 * 100
    assert asked[0] == 1
    assert asked[-1] == 4
    assert np.mean(asked[:200]) < 2


def test_anything_finite_is_better_than_no_embedding() -> None:
    assert better(np.ones(3), np.array([1, np.inf, 1]))


def test_the_digits_lose_nothing_by_it(digits: Digits, tmp_path: pytest.TempPathFactory) -> None:
    """On images that neither set nor chose any range."""
    from embedlite.runtime.images.open import open_source

    drifts = {}
    with Encoder(digits.float32) as encoder:
        images = open_source(digits.test_images, encoder.contract.input)
        reference = encoder.embed(np.stack([images.load(index) for index in range(len(images))]))
    for method in ("minmax", "auto"):
        result = export(
            digits.float32,
            tmp_path / method,
            quantize=["int8"],
            calibration_data=digits.calibration,
            test_data=digits.test_images,
            options=ExportOptions(calibrate_method=method, equalize=False, correct=["none"], measure=False),
        )
        with Encoder(result.files[0].path) as encoder:
            found = encoder.embed(np.stack([images.load(index) for index in range(len(images))]))
        drifts[method] = measure_drift(found, reference, k=None)[0].sqnr_db
    assert drifts["auto"] > drifts["minmax"] - 0.5
    assert result.files[0].contract["calibration"]["method"] == "auto"
