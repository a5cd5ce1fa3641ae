"""SavedModels that would reach outside themselves, at every door; and ordinary ones, which come in."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.core.framework import op_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2
from tensorflow.python.client import pywrap_tf_session

from embedlite.convert.errors import ModelLoadError
from embedlite.convert.load import load_original
from embedlite.convert.load.lower import lower
from embedlite.convert.load.options import LoadOptions
from embedlite.convert.load.saved_graph import needed
from embedlite.convert.load.saved_operators import COMPUTING, INITIALIZING, RESTORING
from embedlite.report import reference
from embedlite.runtime.model.contract import InputContract

# What exports start to measure a file is a fork.
pytestmark = pytest.mark.usefixtures("served")

IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")
FRAME = np.random.default_rng(0).random((8, 8, 3), np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)


def pooled(x: Any, weights: Any = WEIGHTS) -> Any:
    return tf.matmul(tf.reduce_mean(x, (1, 2)), weights)


def network() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, strides=2, activation="swish"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


class Labelled(tf.Module):
    """An encoder beside a table of labels and a signature that reads files."""

    def __init__(self, labels: Path) -> None:
        super().__init__()
        self.weights = tf.Variable(WEIGHTS)
        text = tf.lookup.TextFileInitializer(
            str(labels),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticHashTable(text, -1)

    @tf.function(input_signature=[IMAGE])
    def embed(self, image: Any) -> dict[str, Any]:
        return {"embedding": tf.math.l2_normalize(pooled(image, self.weights), -1)}

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def read(self, name: Any) -> dict[str, Any]:
        return {"label": self.table.lookup(tf.io.read_file(name))}


def keras_export(folder: Path) -> Callable[[Any], Any]:
    model = network()
    model.export(folder, verbose=False)
    return lambda x: model(x, training=False)


def keras_save(folder: Path) -> Callable[[Any], Any]:
    model = network()
    tf.saved_model.save(model, str(folder))
    return lambda x: model(x, training=False)


def module(folder: Path) -> Callable[[Any], Any]:
    labels = folder.parent / "labels.txt"
    labels.write_text("cat\ndog\n")
    own = Labelled(labels)
    tf.saved_model.save(own, str(folder), {"serving_default": own.embed, "read": own.read})
    return lambda x: own.embed(x)["embedding"]


def constant(folder: Path) -> Callable[[Any], Any]:
    own = tf.Module()
    own.embed = tf.function(lambda image: {"embedding": pooled(image)}, input_signature=[IMAGE])
    tf.saved_model.save(own, str(folder), own.embed)
    return lambda x: own.embed(x)["embedding"]


def simple_save(folder: Path, *, resource: bool = False) -> Callable[[Any], Any]:
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3))
        weights = v1.get_variable("w", initializer=WEIGHTS, use_resource=resource)
        z = pooled(image, weights)
        v1.train.AdamOptimizer().minimize(tf.reduce_sum(z * z))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"image": image}, {"z": z})
    return pooled


def simple_save_resource(folder: Path) -> Callable[[Any], Any]:
    return simple_save(folder, resource=True)


@pytest.mark.parametrize("save", [keras_export, keras_save, module, constant, simple_save, simple_save_resource])
def test_ordinary_saved_models_come_in(save: Callable[[Path], Callable[[Any], Any]], tmp_path: Path) -> None:
    reference = save(tmp_path / "model")
    original = load_original(tmp_path / "model")
    lowered = lower(original)
    np.testing.assert_allclose(lowered.reference(FRAME), np.asarray(reference(FRAME[None]))[0], atol=1e-5)
    assert lowered.in_batches is not None
    assert save is constant or "SaveV2" in " ".join(original.decisions)


def graph_with(operator: str, door: str) -> Any:
    """A meta graph in which one operator stands at one door, alone or inside a function."""
    graph = meta_graph_pb2.MetaGraphDef()
    nodes = graph.graph_def.node
    nodes.add(name="image", op="Placeholder")
    nodes.add(name="z", op="Identity", input=["image"])
    nodes.add(name="all", op="NoOp")
    nodes.add(name="file", op="Placeholder")
    graph.saver_def.restore_op_name, graph.saver_def.filename_tensor_name = "all", "file:0"
    graph.signature_def["s"].inputs["image"].name = "image:0"
    graph.signature_def["s"].outputs["z"].name = "z:0"
    graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "start"
    graph.collection_def["saved_model_main_op"].node_list.value.append("main")
    nodes.add(name="start", op="NoOp")
    nodes.add(name="main", op="NoOp")
    at = {"signature": "z", "restore": "all", "initializer": "start", "main_op": "main", "function": "z"}[door]
    target = next(node for node in nodes if node.name == at)
    if door == "function":
        function = graph.graph_def.library.function.add()
        function.signature.name = "f"
        function.node_def.add(name="planted", op=operator)
        call = nodes.add(name="call", op="PartitionedCall")
        call.attr["f"].func.name = "f"
        target.input.append("^call")
    else:
        nodes.add(name="planted", op=operator)
        target.input.append("^planted")
    return graph


DOORS = {
    "signature": COMPUTING,
    "function": COMPUTING,
    "restore": RESTORING,
    "initializer": INITIALIZING,
    "main_op": INITIALIZING,
}


@pytest.mark.parametrize("door", DOORS)
def test_every_operator_that_is_not_listed_is_refused_at_every_door(door: str) -> None:
    operators = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    registered = {operator.name for operator in operators.op}
    assert len(registered) > 1500
    for operator in sorted(registered - DOORS[door]):
        with pytest.raises(ModelLoadError, match="was not loaded"):
            needed(Path("model"), graph_with(operator, door), "s", "z:0")
    assert DOORS[door] - registered == set()


TOUCHING = (
    *("WriteFile", "ReadFile", "Save", "SaveSlices", "SaveV2", "MergeV2Checkpoints", "PrintV2", "DebugIdentityV2"),
    *("ImmutableConst", "TextLineDataset", "TFRecordDataset", "TFRecordDatasetV2", "FixedLengthRecordDatasetV2"),
    *("WholeFileReaderV2", "TextLineReaderV2", "TFRecordReaderV2", "FixedLengthRecordReaderV2", "LMDBReader"),
    *("MatchingFiles", "MatchingFilesDataset", "LMDBDataset", "SqlDataset", "CacheDataset", "CacheDatasetV2"),
    *("SnapshotDataset", "SnapshotDatasetV2", "SaveDataset", "SaveDatasetV2", "LoadDataset", "DatasetToTFRecord"),
    *("CreateSummaryFileWriter", "WriteSummary", "WriteGraphSummary", "PyFunc", "PyFuncStateless", "EagerPyFunc"),
    *("DataServiceDatasetV4", "RpcCall", "ConfigureDistributedTPU", "ReaderReadV2", "DecodeProtoV2"),
)
"""Operators that read or write files, listen, call Python or other machines."""


def test_nothing_that_touches_files_comes_in_by_the_door_of_a_reference(tmp_path: Path) -> None:
    """Folders with one operator, as ``drift-report --reference`` loads them: refused, before TensorFlow sees them."""
    folder, contract = tmp_path / "model", InputContract((8, 8, 3))
    folder.mkdir()
    request = {"model": str(folder), "data": "", "feature": None, "ids": [], "contract": asdict(contract)}
    request |= {"opening": LoadOptions().to_json(), "result": str(tmp_path / "result.npy")}
    for operator in TOUCHING:
        for door in DOORS:
            graph = graph_with(operator, door)
            graph.meta_info_def.tags.append("serve")
            spec = graph.signature_def["s"].inputs["image"]
            spec.dtype = tf.float32.as_datatype_enum
            for size in (-1, 8, 8, 3):
                spec.tensor_shape.dim.add(size=size)
            model = saved_model_pb2.SavedModel(saved_model_schema_version=1, meta_graphs=[graph])
            (folder / "saved_model.pb").write_bytes(model.SerializeToString())
            with pytest.raises(ModelLoadError, match=f"{operator}"):
                reference._embed(request)


def test_restoring_reads_the_folders_own_variables_alone() -> None:
    for tensor, fed in {"file": True, "elsewhere": False}.items():
        graph = graph_with("NoOp", "restore")
        graph.graph_def.node.add(name="elsewhere", op="Const")
        planted = next(node for node in graph.graph_def.node if node.name == "planted")
        planted.op = "RestoreV2"
        planted.input.append(tensor)
        if fed:
            needed(Path("model"), graph, "s", "z:0")
            continue
        with pytest.raises(ModelLoadError, match="reads another file"):
            needed(Path("model"), graph, "s", "z:0")


def test_functions_and_loops_have_to_end() -> None:
    graph = graph_with("NoOp", "function")
    inside = graph.graph_def.library.function[0].node_def.add(name="again", op="PartitionedCall")
    inside.attr["f"].func.name = "f"
    with pytest.raises(ModelLoadError, match="calls itself"):
        needed(Path("model"), graph, "s", "z:0")


def test_what_touches_files_is_refused_before_it_does(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    def write(image: Any) -> Any:
        tf.io.write_file(str(canary), "x")
        return pooled(image)

    def endless(image: Any) -> Any:
        return pooled(image) + tf.while_loop(lambda i: i >= 0.0, lambda i: [i * 1.0], [tf.constant(1.0)])[0]

    for name, function, message in (("write", write, "WriteFile"), ("endless", endless, "does not count")):
        own = tf.Module()
        own.embed = tf.function(function, input_signature=[IMAGE])
        tf.saved_model.save(own, str(tmp_path / name), own.embed)
        with pytest.raises(ModelLoadError, match=message):
            load_original(tmp_path / name)
    assert not canary.exists()


def test_links_and_assets_outside_the_folder(tmp_path: Path) -> None:
    constant(tmp_path / "model")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "model" / "assets" / "a.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelLoadError, match="outside the folder"):
        load_original(tmp_path / "model")
    (tmp_path / "model" / "assets" / "a.txt").unlink()
    os.mkfifo(tmp_path / "model" / "assets" / "pipe")
    with pytest.raises(ModelLoadError, match="neither a file nor a folder"):
        load_original(tmp_path / "model")
    graph = graph_with("NoOp", "signature")
    graph.asset_file_def.add(filename="../../secret")
    with pytest.raises(ModelLoadError, match="own assets"):
        needed(tmp_path / "model", graph, "s", "z:0")
