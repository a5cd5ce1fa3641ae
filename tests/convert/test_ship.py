"""Which file is recommended where, from given verdicts and figures."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedlite.convert.max_drift import Budget, missed_text, required_of_shipped
from embedlite.convert.outcome.recommend import recommend
from embedlite.convert.results import DEVICE, ExportedFile, Verdict
from embedlite.runtime.drift.metrics import Drift
from embedlite.runtime.drift.silent import Silent

GOOD = Drift(100, 0, 0.9999, 0.999, 0.99, 40.0, 0.1, 0.01, 0.01, 0, 1.0, 0.95, 0.96, 0.99, 0.01, 10)
LITERT = {"name": "ai-edge-litert"}
BAD = Drift(100, 0, 0.97, 0.90, 0.80, 12.0, 0.9, 0.50, 0.30, 0, 1.1, 0.60, 0.61, 0.90, 0.10, 10)

FAILED = missed_text(required_of_shipped(None).missed(BAD))


def exported(
    mode: str,
    drift: Drift | None = GOOD,
    *,
    micro: bool | None = True,
    arena: int = 30_000,
    npu: tuple[int, int] | None = (9, 1),
    floats: tuple[str, ...] = (),
) -> ExportedFile:
    """A file; ``npu``: operators on the NPU and left to the CPU, a negative one of which says that it was refused."""
    verified = [Verdict("ai-edge-litert", "2", True, "")]
    if micro is not None:
        verified.append(Verdict("tflite-micro", "1", micro, "", arena_bytes=arena if micro else None))
    if npu is not None:
        verified.append(Verdict("ethos-u-vela", "5", min(npu) >= 0, "", None, npu[0], {"DIV": npu[1]}))
    contract = {"normalization": {"kind": "minmax", "placement": "graph"}}
    path = Path(f"m.{mode}.tflite")
    figures = (drift, {}, 100.0, 99.0, 101.0, None)
    return ExportedFile(mode, path, 1000, "0" * 64, contract, floats, *figures, tuple(verified))


def lines(*files: ExportedFile) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in recommend(files, LITERT).ship)


def reasons(*files: ExportedFile) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in recommend(files, LITERT).why)


def test_int8_where_nothing_speaks_against_it() -> None:
    files = exported("float32"), exported("int8", floats=("DIV",)), exported("int16x8", arena=60_000)
    said, why = lines(*files), reasons(*files)
    assert said["NPU"] == "ship m.int8.tflite (40.0 dB; Ethos-U runs 9 of 10 operators)."
    assert said["microcontroller"] == "ship m.int8.tflite (40.0 dB; an arena of 30,000 bytes)."
    integers = (
        "8-bit integers throughout but for DIV in float, the normalization; --input-type int8 --output-type int8 "
        "leaves it to Encoder"
    )
    assert why["NPU"] == f"{integers}."
    assert why["microcontroller"] == f"{integers}; int16x8: 60,000 bytes, 40.0 dB."
    assert why["CPU"] == "int8: 100 µs, 40.0 dB."


def test_a_float_end_that_integers_could_compute_is_no_reason_for_16_bits() -> None:
    def left(file: ExportedFile, **operators: int) -> ExportedFile:
        verdict = replace(file.verified[-1], npu_operators=18, cpu_operators=operators)
        return replace(file, verified=(*file.verified[:-1], verdict))

    int8 = left(exported("int8", floats=("CONV_2D", "RESHAPE", "DIV")), CONV_2D=1, DEQUANTIZE=2, RESHAPE=1, DIV=5)
    wide = left(exported("int16x8", floats=("DIV",)), DEQUANTIZE=1, DIV=5)
    assert lines(int8, wide)["NPU"].startswith("ship m.int8.tflite (40.0 dB; Ethos-U runs 18 of 27 operators)")
    assert reasons(int8, wide)["NPU"] == (
        "8-bit integers throughout but for CONV_2D, RESHAPE, DIV in float, where a CPU loses no time by it, and the "
        "normalization; --input-type int8 --output-type int8 has that in integers and leaves the normalization to "
        "Encoder."
    )
    # What the end is not the reason for counts as before.
    assert lines(left(int8, CONV_2D=3, DIV=5), wide)["NPU"].startswith("ship m.int16x8.tflite")


def test_what_to_ship_is_one_short_line_each() -> None:
    files = (exported(mode, floats=("DIV", "SUB", "MAXIMUM")) for mode in ("float32", "dynamic", "int8", "int16x8"))
    assert all(len(line) < 80 for line in recommend(tuple(files), LITERT).ship)


def test_sixteen_bits_where_eight_fail_the_gates() -> None:
    files = exported("int8", BAD), exported("int16x8")
    said, why = lines(*files), reasons(*files)
    for target in ("NPU", "microcontroller"):
        assert said[target].startswith("ship m.int16x8.tflite (40.0 dB; int8 fails the drift gates; ")
        assert why[target].startswith("8-bit weights and 16-bit activations throughout")


def test_a_mixed_file_goes_where_it_runs_and_no_further() -> None:
    files = exported("int8", BAD), exported("mixed1", npu=(5, 5)), exported("int16x8", npu=(9, 1), micro=False)
    said = lines(*files)
    assert said["NPU"].startswith("ship m.int16x8.tflite")
    assert said["microcontroller"].startswith("ship m.mixed1.tflite (")
    assert reasons(*files)["microcontroller"].startswith("integers but for the layers that the search left")


def test_what_fails_the_gates_everywhere_is_recommended_nowhere() -> None:
    said = lines(exported("float32"), exported("int8", BAD))
    assert said["CPU"].startswith("ship m.float32.tflite")
    for target, name in (("NPU", "ethos-u"), ("microcontroller", "micro")):
        assert said[target] == (
            f"nothing to ship: int8 has {FAILED}. Instead: -q int16x8, which rounds activations to 16 bits; "
            f"--pareto --target {name}, which looks for the layers that must not be rounded so; "
            "more calibration images; drift-report --layers tells which layers make the drift."
        )
    both = lines(exported("int8", BAD), exported("int16x8", BAD), exported("mixed", BAD))
    assert both["NPU"].startswith(f"nothing to ship: int8 has {FAILED}; int16x8 has {FAILED}; mixed has {FAILED}.")
    assert both["NPU"].endswith(
        "Instead: more calibration images; drift-report --layers tells which layers make the drift."
    )
    assert both["CPU"].endswith("Instead: -q float32, which rounds nothing.")


def test_a_cause_that_is_known_stands_in_place_of_the_search_for_it() -> None:
    (cpu, npu, micro) = recommend((exported("int8", BAD),), LITERT, cause="the divisor is what fails").ship
    assert all(text.endswith("; the divisor is what fails.") for text in (cpu, npu, micro))
    (fine, *_) = recommend((exported("int8"),), LITERT, cause="the divisor is what fails").ship
    assert "divisor" not in fine


def test_float32_that_fails_is_not_told_to_be_float32() -> None:
    said = lines(exported("float32", BAD, npu=None), exported("int8", BAD))
    assert said["CPU"].startswith(f"nothing to ship: float32 has {FAILED}; int8 has {FAILED}.")
    assert "rounding is not the cause" in said["CPU"]


def test_a_file_whose_embeddings_say_nothing_is_named_and_not_called_missing() -> None:
    silent = replace(exported("int8"), silent=Silent(100, 0, 90, 0, False, 0))
    said = lines(exported("float32"), silent)
    assert said["CPU"].startswith("ship m.float32.tflite")
    for target in ("NPU", "microcontroller"):
        assert said[target].startswith("nothing to ship: int8's embeddings say nothing (")
        assert "Instead: -q int16x8" in said[target]
    (only,) = recommend((silent,), LITERT).ship
    assert only.startswith("nothing to ship: the embeddings say nothing of the images (int8: ")


def test_one_image_says_nothing_for_or_against_a_file() -> None:
    """It has no standard deviation, in which a shift would be told."""
    files = (
        exported("float32", replace(GOOD, count=1)),
        exported("int8", replace(GOOD, count=1, bias_max_sigma=math.inf)),
    )
    said = "nothing to ship: drift was measured on one image, which says nothing of others."
    assert recommend(files, LITERT).ship == (said,)
    assert recommend(files[:1], LITERT, chosen=True).ship == (said,)


def test_limits_that_were_asked_for_are_laid_over_the_default_ones() -> None:
    strict = recommend((exported("int8"),), LITERT, budget=Budget({"sqnr_db": 41.0})).ship
    assert all("nothing to ship: int8 has sqnr_db 40 (at least 41)." in text for text in strict)
    loose = Budget({gate.name: gate.value for gate in required_of_shipped(None).missed(BAD) if gate.value is not None})
    assert all(
        ": ship m.int8.tflite" in text for text in recommend((exported("int8", BAD),), LITERT, budget=loose).ship
    )


def test_without_integers_they_need_some() -> None:
    said = lines(exported("float32"), exported("float16", micro=False, npu=None))
    assert said["NPU"] == said["microcontroller"] == "needs an int8 file, which -q int8 makes with --calibration-data."
    refused = lines(exported("int8", micro=False))
    assert refused["microcontroller"] == "TFLite Micro runs none of these files."
    assert recommend((), LITERT).ship == ("nothing to ship: a required target runs none of these files.",)
    assert recommend((), LITERT, missed=True).ship == ("nothing to ship: no file keeps the limits.",)


@pytest.mark.parametrize("name", ["ethos-u-vela", "tflite-micro"])
def test_times_of_others_are_no_cpu_s(name: str) -> None:
    (cpu, npu, micro) = recommend((exported("int8"),), {"name": name}).ship
    assert cpu == f"CPU: the latencies are {name}'s; for a CPU's name --target litert first."
    assert npu.startswith("NPU: ship m.int8.tflite")
    assert micro.startswith("microcontroller: ship m.int8.tflite")
    assert recommend((exported("int8"),), {"name": name}, chosen=True).ship == (npu, micro)


def test_of_the_one_file_that_was_chosen_only_is_said_what_it_is_for() -> None:
    (said,) = recommend((exported("float32", npu=None),), LITERT, chosen=True).ship
    assert said.startswith("CPU: ship m.float32.tflite")


def test_what_failed_on_the_device_is_not_shipped() -> None:
    failed = Verdict(DEVICE, "ai-edge-litert 2", False, "crashed with signal 11")
    bad = exported("int8")
    bad = replace(bad, verified=(*bad.verified, failed), latency_us=None)
    said = lines(bad, exported("float32"))
    assert said["CPU"].startswith("ship m.float32.tflite")
    assert not bad.runs


FILES = st.lists(
    st.builds(
        exported,
        st.sampled_from(["float32", "dynamic", "int8", "int16x8", "mixed", "mixed2"]),
        st.sampled_from([GOOD, BAD, None]),
        micro=st.sampled_from([True, False, None]),
        npu=st.one_of(st.none(), st.tuples(st.integers(-1, 20), st.integers(-1, 20))),
    ),
    min_size=1,
    unique_by=lambda file: file.mode,
)


@given(FILES)
def test_no_file_is_sent_where_it_does_not_run_or_is_worse_than_another(files: list[ExportedFile]) -> None:
    said = lines(*files)
    named = {
        target: next((f for f in files if f"ship {f.path.name} " in f"{text.rstrip('.')} "), None)
        for target, text in said.items()
    }
    micro, npu = named["microcontroller"], named["NPU"]
    assert micro is None or all(verdict.ok for verdict in micro.verified if verdict.runtime == "tflite-micro")
    integers = [file for file in files if file.mode not in ("float32", "dynamic")]
    taken = [f for f in integers if all(verdict.ok for verdict in f.verified if verdict.runtime == "ethos-u-vela")]
    assert (npu is None) == all(file.drift is BAD for file in taken)
    assert all(file is None or file.drift is not BAD for file in named.values())
