"""A file without a contract that crashes an interpreter, never ends or answers NaN costs one error, nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from embedlite.convert.graph.graph import Graph
from embedlite.convert.load import load_original
from embedlite.runtime.backends import trial
from embedlite.runtime.encoder import Encoder
from embedlite.runtime.errors import InterpreterFailedError
from embedlite.runtime.model.contract import InputContract

# What a foreign .tflite is tried in is a fork.
pytestmark = pytest.mark.usefixtures("served")


def convert(function: Callable[[Any], Any]) -> bytes:
    spec = tf.TensorSpec((1, 8, 8, 3), tf.float32, name="image")
    own = tf.Module()
    own.embed = tf.function(lambda image: {"z": function(image)}, input_signature=[spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([own.embed.get_concrete_function()], own)
    return bytes(converter.convert())


def pooled(image: Any) -> Any:
    return tf.reduce_mean(image, (1, 2))


def crashing() -> bytes:
    """The last operator, once a multiplication, is called CONCATENATION and has the options of another one."""
    graph = Graph(convert(lambda image: tf.matmul(pooled(image), tf.ones((3, 4)))))
    code = graph.model.operatorCodes[graph.operators[-1].opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = 2
    return graph.to_bytes()


def endless() -> bytes:
    def answer(image: Any) -> Any:
        start = tf.reduce_max(image) * 0.0 + 1.0
        return pooled(image) + tf.while_loop(lambda i: i >= 0.0, lambda i: [i + 1.0], [start])[0]

    return convert(answer)


def not_a_number() -> bytes:
    return convert(lambda image: tf.sqrt(pooled(image) - 5.0))


FILES = {
    # It reads memory that is not its own, and may find there what it refuses before it crashes.
    "crashed with signal|refuses the model": crashing,
    "gave no answer within 3 s": endless,
    "answered NaN": not_a_number,
}


@pytest.mark.parametrize("message", FILES)
def test_what_would_end_or_stop_this_process(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES[message]())
    if "no answer" in message:
        monkeypatch.setattr(trial, "TRIAL_SECONDS", 3)
    with pytest.raises(InterpreterFailedError, match=message):
        Encoder(path, input_contract=InputContract((8, 8, 3)))
    with pytest.raises(InterpreterFailedError, match=message):
        load_original(path)


def test_a_sound_one_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(convert(pooled))
    asked: list[str] = []
    ask = trial.ask

    def counted(module: str, request: Any, seconds: float) -> Any:
        asked.append(module)
        return ask(module, request, seconds)

    monkeypatch.setattr(trial, "ask", counted)
    for _ in range(2):
        Encoder(path, input_contract=InputContract((8, 8, 3))).close()
        assert load_original(path).input_shape == (8, 8, 3)
    assert len(asked) == 1


def test_another_number_of_values_than_the_file_declares(tmp_path: Path) -> None:
    graph = Graph(convert(lambda image: tf.matmul(pooled(image), tf.ones((3, 4)))))
    graph.tensor(int(graph.subgraph.outputs[0])).shape = [1, 5]
    path = tmp_path / "model.tflite"
    path.write_bytes(graph.to_bytes())
    with (
        Encoder(path, input_contract=InputContract((8, 8, 3))) as encoder,
        pytest.raises(InterpreterFailedError, match=r"answered 4 values, where the file declares the shape \(5,\)"),
    ):
        encoder.embed_one(np.zeros((8, 8, 3), np.uint8))
