"""What is seen of a float graph's tensors: exact, and the same whatever the order, the threads and the parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedlite.calibration import CalibrationDataError, collect_ranges, collect_statistics, tensor_groups
from embedlite.calibration.collect import collect_outputs
from embedlite.calibration.images import hold_out
from embedlite.calibration.tensors import model_fingerprint
from embedlite.convert.graph.graph import Graph
from embedlite.runtime import InputContract
from embedlite.runtime.images.open import open_source
from embedlite.runtime.images.source import Source
from embedlite.runtime.model.artifact import read_artifact

from conftest import Digits
from ways_out import needs_package, walks


@pytest.fixture(scope="module")
def flatbuffer(digits: Digits) -> bytes:
    return read_artifact(digits.float32).flatbuffer


@pytest.fixture(scope="module")
def source(digits: Digits) -> Source:
    return open_source(digits.calibration, InputContract((32, 32, 1))).sample(12, 0)


def tensors_by_reference_kernels(flatbuffer: bytes, source: Source) -> list[dict[str, np.ndarray]]:
    """Every float tensor of every image without any delegate: the judge of what XNNPACK leaves readable."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    reference = Interpreter(
        model_content=flatbuffer,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_REF,
    )
    reference.allocate_tensors()
    seen = []
    for index in range(len(source)):
        reference.set_tensor(reference.get_input_details()[0]["index"], source.ready(index)[None])
        reference.invoke()
        found = {}
        for detail in reference.get_tensor_details():
            if detail["dtype"] == np.float32 and Graph(flatbuffer).constant(detail["index"]) is None:
                found[detail["name"]] = reference.get_tensor(detail["index"])
        seen.append(found)
    return seen


def test_statistics_are_those_of_every_tensor(flatbuffer: bytes, source: Source) -> None:
    statistics = collect_statistics(flatbuffer, source)
    seen = tensors_by_reference_kernels(flatbuffer, source)
    groups = tensor_groups(flatbuffer)
    assert len(groups) > 20
    assert sum(group.rectified for group in groups) >= 18
    for group in groups:
        for member in group.members:
            values = np.stack([image[member] for image in seen])
            found = statistics.tensors[group.name]
            assert found.high == pytest.approx(values.max(), rel=1e-4, abs=1e-5)
            assert found.low == (0 if group.rectified else pytest.approx(values.min(), rel=1e-4, abs=1e-5))
            assert values.min() >= 0 or not group.rectified
            assert found.counts is not None
            assert found.counts.sum() == values.size
            highest = sorted(range(len(seen)), key=lambda index: -seen[index][member].max())
            assert found.highest[0][1] == source.ids[highest[0]]


def test_tensors_that_hold_the_same_values_are_one_group(flatbuffer: bytes) -> None:
    groups = tensor_groups(flatbuffer)
    members = [name for group in groups for name in group.members]
    assert len(members) == len(set(members))
    assert any(len(group.members) > 1 for group in groups)
    for group in groups:
        assert group.name == group.members[0]


def test_the_number_of_threads_changes_nothing(flatbuffer: bytes, source: Source) -> None:
    one, three = (collect_statistics(flatbuffer, source, threads=threads) for threads in (1, 3))
    assert one.images == three.images
    for name, tensor in one.tensors.items():
        other = three.tensors[name]
        assert (tensor.lowest, tensor.highest) == (other.lowest, other.highest)
        np.testing.assert_array_equal(tensor.counts, other.counts)


def test_ranges_by_channel_are_those_of_the_tensor(flatbuffer: bytes, source: Source) -> None:
    group = next(group for group in tensor_groups(flatbuffer) if group.rectified)
    ranges = collect_ranges(flatbuffer, source, by_channel={group.name})
    lows, highs = ranges.channels[group.name]
    assert lows.shape == highs.shape == (8,)
    assert ranges.limits[group.name] == (lows.min(), highs.max())
    assert ranges.samples == len(source)
    whole = collect_statistics(flatbuffer, source)
    assert ranges.limits[group.name][1] == whole.tensors[group.name].high


def test_outputs_come_in_the_order_that_was_asked_for(flatbuffer: bytes, source: Source) -> None:
    seen = tensors_by_reference_kernels(flatbuffer, source)
    rows = collect_outputs(flatbuffer, source, [7, 2, 5], threads=2)
    name = read_artifact_output(flatbuffer)
    for row, index in zip(rows, (7, 2, 5), strict=True):
        np.testing.assert_allclose(row, seen[index][name].ravel(), atol=1e-5)


def read_artifact_output(flatbuffer: bytes) -> str:
    graph = Graph(flatbuffer)
    return graph.tensor_name(int(graph.subgraph.outputs[0]))


def test_the_fingerprint_is_of_the_weights(flatbuffer: bytes) -> None:
    graph = Graph(flatbuffer)
    graph.tensor(3).name = "another name"
    renamed = graph.to_bytes()
    assert renamed != flatbuffer
    assert model_fingerprint(renamed) == model_fingerprint(flatbuffer)
    convolution = next(op for op in graph.operators if graph.operator_name(op) == "CONV_2D")
    weights = graph.constant(int(convolution.inputs[1])).copy()
    weights.flat[0] += 1
    graph.make_constant(int(convolution.inputs[1]), weights)
    assert model_fingerprint(graph.to_bytes()) != model_fingerprint(flatbuffer)


def test_no_images_give_no_statistics(flatbuffer: bytes, source: Source) -> None:
    with pytest.raises(CalibrationDataError, match="at least one"):
        collect_statistics(flatbuffer, source.subset([]))


@pytest.mark.parametrize("threads", [1, 4])
def test_a_tensor_that_is_not_finite_is_named_with_the_first_image(flatbuffer: bytes, threads: int) -> None:
    images = np.random.default_rng(0).random((40, 32, 32, 1)).astype(np.float32)
    images[[23, 9, 31]] = 3e38
    with pytest.raises(CalibrationDataError, match=r"image '9': the float model's tensor .* is not finite"):
        collect_statistics(flatbuffer, open_source(images, InputContract((32, 32, 1))), threads=threads)


@given(count=st.integers(0, 1000), seed=st.integers(0, 5))
def test_held_out_images_are_a_seeded_fifth_and_set_no_ranges(count: int, seed: int) -> None:
    kept, held = hold_out(count, seed)
    assert len(held) == min(count // 5, 64)
    assert sorted(kept + held) == list(range(count))
    assert hold_out(count, seed) == (kept, held)


@walks("there are no calibration images to take ranges from. Pass at least")
def test_one_image_is_enough_for_ranges(flatbuffer: bytes, source: Source) -> None:
    with pytest.raises(CalibrationDataError):
        collect_ranges(flatbuffer, source, indices=[])
    ranges, image = collect_ranges(flatbuffer, source, indices=[3]), source.ready(3)
    graph = Graph(flatbuffer)
    name = graph.tensor_name(int(graph.subgraph.inputs[0]))
    assert ranges.limits[name] == (image.min(), image.max())


@walks("calibration reads a graph's operators with ai-edge-litert, which is")
def test_what_reads_a_graph_is_brought_by_what_the_error_names(flatbuffer: bytes) -> None:
    needs_package("ai_edge_litert", lambda: tensor_groups(flatbuffer))
