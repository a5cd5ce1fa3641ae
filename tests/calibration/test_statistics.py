"""Statistics merge exactly: any order, any split, any tree of merges; and they survive the disk."""

import itertools
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedlite.calibration import (
    CalibrationDataError,
    Statistics,
    StatisticsMismatchError,
    choose_ranges,
    collect_statistics,
    load_statistics,
    merge,
    parse_method,
    save_statistics,
)
from embedlite.calibration.bins import BINS, bin_keys, count, filled_bins
from embedlite.calibration.statistics import (
    EXTREMES,
    TensorStatistics,
    highest_of,
    lowest_of,
    merge_on_demand,
    sparse,
)
from embedlite.calibration.tensors import TensorGroup
from embedlite.runtime.errors import OutputError, RequestError, UnreadableDataError
from embedlite.runtime.images.open import open_source
from embedlite.runtime.model.artifact import read_artifact

from conftest import Digits

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

GROUPS = (TensorGroup("a", 0, ("a", "a/reshaped"), False), TensorGroup("b", 1, ("b",), True))
METHODS = ("minmax", "percentile:99", "mse", "entropy")


def one_image(seed: int) -> Statistics:
    rng = np.random.default_rng(seed)
    # Whole numbers, so that extremes of different images are often equal.
    tensors = {
        "a": rng.normal(0, 3, (1, 6, 7)).round().astype(np.float32),
        "b": np.maximum(rng.normal(0, 2, (1, 30)), 0).astype(np.float32),
    }
    name = f"image {seed}"
    return Statistics(
        "model",
        {"mean": [0.0]},
        {
            key: TensorStatistics(
                lowest_of([(float(values.min()), name)] if key == "a" else [(0.0, "")]),
                highest_of([(float(values.max()), name)]),
                count(bin_keys(values)),
            )
            for key, values in tensors.items()
        },
        1,
        hash(name) % (1 << 256),
    )


IMAGES = [one_image(seed) for seed in range(24)]


def state(statistics: Statistics) -> object:
    return (
        statistics.samples,
        statistics.images,
        {
            name: (tensor.lowest, tensor.highest, None if tensor.counts is None else tensor.counts.tobytes())
            for name, tensor in statistics.tensors.items()
        },
        [choose_ranges(statistics, GROUPS, parse_method(method)).limits for method in METHODS],
    )


WHOLE = state(merge(IMAGES))


@settings(max_examples=60, deadline=None)
@given(
    order=st.permutations(range(len(IMAGES))),
    cuts=st.sets(st.integers(1, len(IMAGES) - 1)),
    tree=st.randoms(use_true_random=False),
)
def test_any_order_any_split_and_any_merge_tree(order: list[int], cuts: set[int], tree: random.Random) -> None:
    edges = [0, *sorted(cuts), len(IMAGES)]
    parts = [merge([IMAGES[i] for i in order[start:stop]]) for start, stop in itertools.pairwise(edges)]
    while len(parts) > 1:
        left = parts.pop(tree.randrange(len(parts)))
        right = parts.pop(tree.randrange(len(parts)))
        parts.insert(tree.randrange(len(parts) + 1), merge([left, right]))
    assert state(parts[0]) == WHOLE


def test_the_few_most_extreme_images_are_kept() -> None:
    whole = merge(IMAGES)
    everyone = sorted((image.tensors["a"].highest[0] for image in IMAGES), key=lambda item: (-item[0], item[1]))
    assert whole.tensors["a"].highest == tuple(everyone[:EXTREMES])
    assert whole.tensors["b"].lowest == ((0.0, ""),)


@pytest.mark.parametrize("change", ["model", "tensors", "input"])
def test_statistics_of_something_else_do_not_merge(change: str) -> None:
    one, other = IMAGES[0], IMAGES[1]
    facts = {"model": other.model, "input": other.input, "tensors": other.tensors}
    facts[change] = {
        "model": "another",
        "tensors": {"a": other.tensors["a"]},
        "input": {"mean": [127.5]},
    }[change]
    with pytest.raises(StatisticsMismatchError, match="preprocessing: mean" if change == "input" else "models"):
        merge([one, Statistics(samples=1, images=5, **facts)])


def test_the_same_part_twice_and_no_part_are_refused() -> None:
    with pytest.raises(CalibrationDataError, match="twice"):
        merge([IMAGES[0], IMAGES[1], IMAGES[0]])
    with pytest.raises(CalibrationDataError, match="at least one"):
        merge([])


def test_counts_need_both_sides() -> None:
    plain = {name: replace(tensor, counts=None) for name, tensor in IMAGES[0].tensors.items()}
    for parts in ([replace(IMAGES[0], tensors=plain), IMAGES[1]], [IMAGES[1], replace(IMAGES[0], tensors=plain)]):
        assert merge(parts).tensors["a"].counts is None


def test_a_file_holds_everything_and_the_same_statistics_are_the_same_bytes(tmp_path: Path) -> None:
    backwards = merge(IMAGES[::-1])
    for name, statistics in (("one", merge(IMAGES)), ("two", backwards)):
        save_statistics(tmp_path / f"{name}.npz", statistics)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    back = load_statistics(tmp_path / "one.npz")
    assert state(back) == WHOLE
    assert (back.model, back.input) == ("model", {"mean": [0.0]})


def test_shards_from_files_merge_with_fresh_ones(tmp_path: Path) -> None:
    save_statistics(tmp_path / "shard.npz", merge(IMAGES[:9]))
    assert state(merge([load_statistics(tmp_path / "shard.npz"), *IMAGES[9:]])) == WHOLE


def test_names_may_be_anything(tmp_path: Path) -> None:
    odd = "\udcff/ü\n"  # a file name that is not UTF-8
    tensor = TensorStatistics(((-1.0, odd),), ((1.0, odd),))
    save_statistics(tmp_path / "s.npz", Statistics("m", {}, {odd: tensor}, 1, 7))
    assert load_statistics(tmp_path / "s.npz").tensors[odd].highest == ((1.0, odd),)


@settings(max_examples=80, deadline=None)
@given(share=st.floats(0, 1), flip=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_is_refused_or_unharmed(
    share: float, flip: int, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    save_statistics(path, merge(IMAGES))
    data = bytearray(path.read_bytes())
    place = int(share * (len(data) - 1))
    if cut:
        data = data[:place]
    else:
        data[place] ^= flip
    path.write_bytes(data)
    try:
        assert state(load_statistics(path)) == WHOLE
    except UnreadableDataError as error:
        assert str(path) in str(error)


def test_a_directory_that_lost_entries_is_refused(tmp_path: Path) -> None:
    """One bit in a length of the directory hides entries, and the others are sound."""
    path = tmp_path / "damaged.npz"
    save_statistics(path, merge(IMAGES))
    data, refused, hidden = path.read_bytes(), 0, 0
    for place in range(data.index(b"PK\1\2"), len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            assert all(tensor.counts is not None for tensor in load_statistics(path).tensors.values())
        except UnreadableDataError as error:
            refused += 1
            hidden += "lacks some of its arrays" in str(error)
    assert refused > hidden > 0


def test_another_npz_is_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros(3))
    with pytest.raises(UnreadableDataError, match="holds no calibration statistics"):
        load_statistics(tmp_path / "x.npz")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"):
        save_statistics("/dev/full", IMAGES[0])
    assert not list(tmp_path.iterdir())


# ---- histograms


@settings(deadline=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False), min_size=1, max_size=60
    )
)
def test_every_value_lies_in_its_bin_and_bins_are_narrow(values: list[float]) -> None:
    array = np.array(values, np.float32)
    bins = filled_bins(count(bin_keys(array)))
    assert bins.total == len(array)
    assert (np.diff(bins.low) >= 0).all()
    for value in array.astype(np.float64):
        held = (bins.low <= value) & (value <= bins.high)
        assert held.any()
    wide = np.maximum(np.abs(bins.low), np.abs(bins.high)) > 1e-37
    assert ((bins.high - bins.low)[wide] <= np.maximum(np.abs(bins.low), np.abs(bins.high))[wide] / 128).all()


@pytest.mark.parametrize("channels", [1, 3, 8, 30])
def test_every_channel_of_a_large_tensor_is_counted(channels: int) -> None:
    values = np.broadcast_to(np.arange(channels, dtype=np.float32), (1, 400, 900, channels)).copy()
    keys, expected = bin_keys(values), np.unique(bin_keys(np.arange(channels, dtype=np.float32)))
    counts = np.bincount(keys, minlength=BINS)[expected]
    assert len(keys) <= 1 << 17
    assert counts.min() > 0.9 * counts.mean()


# ---- statistics in place of calibration images


@pytest.fixture(scope="module")
def shards(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statistics of the example's calibration images, collected in two parts."""
    folder = tmp_path_factory.mktemp("shards")
    artifact = read_artifact(digits.float32)
    source = open_source(digits.calibration, artifact.contract.input)
    parts = [collect_statistics(artifact.flatbuffer, source.subset(range(start, start + 100))) for start in (0, 100)]
    save_statistics(folder / "whole.npz", merge(parts))
    return folder


@pytest.mark.parametrize("method", ["minmax", "percentile:99.9"])
def test_an_export_from_shards_has_the_ranges_of_the_images(
    method: str, shards: Path, digits: Digits, tmp_path: Path
) -> None:
    from embedlite.convert import ExportOptions, export

    made = [
        export(
            digits.float32,
            tmp_path / name,
            quantize=["int8"],
            calibration_data=data,
            test_data=digits.test_images,
            options=ExportOptions(
                input_type="uint8", calibrate_method=method, equalize=False, correct=["none"], measure=False
            ),
        ).files[0]
        for name, data in (("shards", shards / "whole.npz"), ("images", digits.calibration))
    ]
    flatbuffers = [read_artifact(file.path).flatbuffer for file in made]
    assert flatbuffers[0] == flatbuffers[1]
    assert [file.contract["calibration"]["samples"] for file in made] == [200, 200]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mean": (127.5,), "accept_contract": True}, "other preprocessing: mean was"),
        ({"num_samples": 5}, "--num-samples needs calibration images"),
        ({"normalization": "frozen"}, "--normalization frozen needs calibration images"),
        ({"calibration_cache": "c.npz"}, "--calibration-cache needs calibration images"),
    ],
)
def test_statistics_are_no_images(
    options: dict[str, object], says: str, shards: Path, digits: Digits, tmp_path: Path
) -> None:
    from embedlite.convert import Asked, export_asked

    with pytest.raises((StatisticsMismatchError, RequestError), match=says):
        export_asked(
            digits.float32,
            Asked(output_dir=tmp_path / "x", quantize=["int8"], calibration_data=shards / "whole.npz", **options),
        )
    assert not (tmp_path / "x").exists()


def test_statistics_of_another_file_or_model_are_refused(shards: Path, digits: Digits, tmp_path: Path) -> None:
    from embedlite.convert import export
    from embedlite.convert.graph.graph import Graph

    with pytest.raises(StatisticsMismatchError, match="export that file"):
        export(digits.model, tmp_path / "x", quantize=["int8"], calibration_data=shards / "whole.npz")
    graph = Graph(read_artifact(digits.float32).flatbuffer)
    weights = next(op for op in graph.operators if graph.operator_name(op) == "CONV_2D").inputs[1]
    graph.make_constant(int(weights), graph.constant(int(weights)) * 2)
    other = tmp_path / "other.tflite"
    # Without the marker that a contract belongs to it.
    graph.model.metadata, graph.model.description = [], "MLIR Converted."
    other.write_bytes(graph.to_bytes())
    with pytest.raises(StatisticsMismatchError, match="of another model"):
        export(other, tmp_path / "x", quantize=["int8"], calibration_data=shards / "whole.npz")


def test_statistics_merged_on_demand_are_those_that_were_merged_at_once() -> None:
    parts = IMAGES[:3]
    whole, lazy = merge(parts), merge_on_demand([sparse(part) for part in parts])
    assert (lazy.samples, lazy.images, list(lazy.tensors)) == (whole.samples, whole.images, list(whole.tensors))
    for name, tensor in whole.tensors.items():
        found = lazy.tensors[name]
        assert (found.lowest, found.highest) == (tensor.lowest, tensor.highest)
        np.testing.assert_array_equal(found.counts, tensor.counts)
