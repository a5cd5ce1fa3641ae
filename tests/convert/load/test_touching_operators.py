"""Operators that touch files: each does so through TensorFlow alone, and not through us, in a watched folder."""

import contextlib
import ctypes
import os
import re
import shutil
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.data.ops import dataset_ops

from embedlite import calibration, convert, report, runtime
from embedlite.convert import ExportOptions, export
from embedlite.convert.command import export_tflite
from embedlite.convert.errors import ModelLoadError
from embedlite.convert.load import load_original
from embedlite.convert.load.options import LoadOptions
from embedlite.report import reference
from embedlite.report.causes import ladder_files
from embedlite.runtime.model.contract import InputContract

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it asks the system who opens files")

IMAGE = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")
raw = tf.raw_ops


class Canary:
    """A folder with files of all kinds, and whether anything was opened or made in it since the last question."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "text").write_text("a\nb\n")
        (folder / "csv").write_text("1\n2\n")
        (folder / "bytes").write_bytes(struct.pack("<4f", 1, 2, 3, 4))
        (folder / "vocabulary").write_text("a,1.0\nb,2.0\n")
        with tf.io.TFRecordWriter(str(folder / "records")) as writer:
            writer.write(b"record")
        with contextlib.closing(sqlite3.connect(folder / "sqlite")) as database, database:
            database.execute("create table t (a integer)")
            database.execute("insert into t values (1)")
        for name in ("v2", "merging"):  # merging moves it away
            raw.SaveV2(prefix=self / name, tensor_names=["x"], shape_and_slices=[""], tensors=[tf.ones((1, 4))])
        raw.Save(filename=self / "v1", tensor_names=["x"], data=[tf.ones((1, 4))])
        dataset = tf.data.Dataset.from_tensors(tf.ones(2))
        dataset.save(self / "dataset")
        self._own = {path.name for path in folder.iterdir()}
        libc = ctypes.CDLL(None)
        self._watch = libc.inotify_init1(os.O_NONBLOCK)
        # Opened, made, moved here.
        assert libc.inotify_add_watch(self._watch, os.fsencode(folder), 0x20 | 0x100 | 0x80) >= 0

    def __truediv__(self, name: str) -> str:
        return str(self.folder / name)

    def touched(self) -> bool:
        try:
            found = os.read(self._watch, 1 << 16)
        except BlockingIOError:
            return False
        return bool(found)

    def clean(self) -> None:
        for made in [path for path in self.folder.iterdir() if path.name not in self._own]:
            shutil.rmtree(made) if made.is_dir() else made.unlink()
        self.touched()

    def close(self) -> None:
        os.close(self._watch)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    found = Canary(tmp_path_factory.mktemp("files") / "canary")
    yield found
    found.close()


@pytest.fixture
def canary(files: Canary) -> Canary:
    """The canary without what an operator made of it before."""
    files.clean()
    return files


def all_of(variant: Any, *dtypes: Any) -> None:
    """Read a data set to its end; its elements are tensors of these kinds."""
    specs = tuple(tf.TensorSpec(None, dtype) for dtype in dtypes)
    dataset = dataset_ops._VariantDataset(variant, specs if len(specs) > 1 else specs[0])
    dataset.reduce(np.int64(0), lambda count, *_: count + 1)


def ones() -> Any:
    return tf.data.Dataset.from_tensors(tf.ones(2))._variant_tensor


SHAPED: dict[str, Any] = {"output_types": [tf.float32], "output_shapes": [[2]]}
TEXTS: dict[str, Any] = {"output_types": [tf.string], "output_shapes": [[]]}


def read_with(reader: Any, name: str) -> None:
    queue = raw.FIFOQueueV2(component_types=[tf.string])
    raw.QueueEnqueueV2(handle=queue, components=[tf.constant(name)])
    raw.ReaderReadV2(reader_handle=reader, queue_handle=queue)


def fixed(c: Canary) -> dict[str, Any]:
    return {"filenames": c / "bytes", "header_bytes": 0, "record_bytes": 4, "footer_bytes": 0, "buffer_size": 0}


def csv(c: Canary) -> dict[str, Any]:
    given: dict[str, Any] = {"filenames": c / "csv", "compression_type": "", "buffer_size": 1024, "header": False}
    given |= {"field_delim": ",", "use_quote_delim": True, "na_value": "", "record_defaults": [tf.constant([0.0])]}
    return given | {"select_cols": tf.constant([], tf.int64), "output_shapes": [[]]}


def table(c: Canary, name: str) -> Any:
    return raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name=c / name)


TOUCH: dict[str, Callable[[Canary], Any]] = {
    "WriteFile": lambda c: raw.WriteFile(filename=c / "new", contents="x"),
    "ReadFile": lambda c: raw.ReadFile(filename=c / "text"),
    "MatchingFiles": lambda c: raw.MatchingFiles(pattern=c / "*"),
    "SaveV2": lambda c: raw.SaveV2(prefix=c / "n", tensor_names=["x"], shape_and_slices=[""], tensors=[tf.ones(2)]),
    "Save": lambda c: raw.Save(filename=c / "n", tensor_names=["x"], data=[tf.ones(2)]),
    "SaveSlices": lambda c: raw.SaveSlices(
        filename=c / "n", tensor_names=["x"], shapes_and_slices=[""], data=[tf.ones(2)]
    ),
    "RestoreV2": lambda c: raw.RestoreV2(
        prefix=c / "v2", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32]
    ),
    "Restore": lambda c: raw.Restore(file_pattern=c / "v1", tensor_name="x", dt=tf.float32),
    "RestoreSlice": lambda c: raw.RestoreSlice(
        file_pattern=c / "v1", tensor_name="x", shape_and_slice="", dt=tf.float32
    ),
    "MergeV2Checkpoints": lambda c: raw.MergeV2Checkpoints(
        checkpoint_prefixes=[c / "merging"], destination_prefix=c / "merged", delete_old_dirs=False
    ),
    "PrintV2": lambda c: raw.PrintV2(input="x", output_stream=f"file://{c / 'new'}"),
    "ImmutableConst": lambda c: raw.ImmutableConst(dtype=tf.float32, shape=[4], memory_region_name=c / "bytes"),
    "TextLineDataset": lambda c: all_of(
        raw.TextLineDataset(filenames=c / "text", compression_type="", buffer_size=0), tf.string
    ),
    "TFRecordDataset": lambda c: all_of(
        raw.TFRecordDataset(filenames=c / "records", compression_type="", buffer_size=0), tf.string
    ),
    "FixedLengthRecordDatasetV2": lambda c: all_of(
        raw.FixedLengthRecordDatasetV2(**fixed(c), compression_type=""), tf.string
    ),
    "CSVDataset": lambda c: all_of(raw.CSVDataset(**csv(c)), tf.float32),
    "CSVDatasetV2": lambda c: all_of(raw.CSVDatasetV2(**csv(c), exclude_cols=tf.constant([], tf.int64)), tf.float32),
    "ExperimentalCSVDataset": lambda c: all_of(raw.ExperimentalCSVDataset(**csv(c)), tf.float32),
    "MatchingFilesDataset": lambda c: all_of(raw.MatchingFilesDataset(patterns=[c / "*"]), tf.string),
    "SqlDataset": lambda c: all_of(
        raw.SqlDataset(
            driver_name="sqlite",
            data_source_name=c / "sqlite",
            query="select a from t",
            output_types=[tf.int64],
            output_shapes=[[]],
        ),
        tf.int64,
    ),
    "CacheDataset": lambda c: all_of(raw.CacheDataset(input_dataset=ones(), filename=c / "new", **SHAPED), tf.float32),
    "CacheDatasetV2": lambda c: all_of(
        raw.CacheDatasetV2(input_dataset=ones(), filename=c / "new", cache=raw.DummyMemoryCache(), **SHAPED),
        tf.float32,
    ),
    "DatasetToTFRecord": lambda c: raw.DatasetToTFRecord(
        input_dataset=tf.data.Dataset.from_tensors("x")._variant_tensor, filename=c / "new", compression_type=""
    ),
    "InitializeTableFromTextFileV2": lambda c: raw.InitializeTableFromTextFileV2(
        table_handle=table(c, "table"), filename=c / "text", key_index=-2, value_index=-1
    ),
    "WholeFileReaderV2": lambda c: read_with(raw.WholeFileReaderV2(), c / "text"),
    "TextLineReaderV2": lambda c: read_with(raw.TextLineReaderV2(), c / "text"),
    "TFRecordReaderV2": lambda c: read_with(raw.TFRecordReaderV2(), c / "records"),
    "FixedLengthRecordReaderV2": lambda c: read_with(raw.FixedLengthRecordReaderV2(record_bytes=4), c / "bytes"),
    "DebugIdentityV2": lambda c: raw.DebugIdentityV2(
        input=tf.ones(2), tfdbg_context_id="x", tensor_debug_mode=1, debug_urls=[f"file://{c / 'new'}"]
    ),
    "DebugIdentity": lambda c: raw.DebugIdentity(input=tf.ones(2), tensor_name="x:0", debug_urls=[f"file://{c / 'n'}"]),
    "DebugNanCount": lambda c: raw.DebugNanCount(input=tf.ones(2), tensor_name="x:0", debug_urls=[f"file://{c / 'n'}"]),
    "DebugNumericSummary": lambda c: raw.DebugNumericSummary(
        input=tf.ones(2), tensor_name="x:0", debug_urls=[f"file://{c / 'n'}"]
    ),
    "GenerateVocabRemapping": lambda c: raw.GenerateVocabRemapping(
        new_vocab_file=c / "text", old_vocab_file=c / "text", new_vocab_offset=0, num_new_vocab=2
    ),
    "LoadAndRemapMatrix": lambda c: raw.LoadAndRemapMatrix(
        ckpt_path=c / "v2",
        old_tensor_name="x",
        row_remapping=tf.constant([0], tf.int64),
        col_remapping=tf.constant([], tf.int64),
        initializing_values=tf.constant([], tf.float32),
        num_rows=1,
        num_cols=4,
    ),
    "FixedUnigramCandidateSampler": lambda c: raw.FixedUnigramCandidateSampler(
        true_classes=tf.constant([[0]], tf.int64),
        num_true=1,
        num_sampled=1,
        unique=True,
        range_max=2,
        vocab_file=c / "vocabulary",
    ),
    "DecodeProtoV2": lambda c: raw.DecodeProtoV2(
        bytes=[b""], message_type="x", field_names=[], output_types=[], descriptor_source=c / "bytes"
    ),
    "EagerPyFunc": lambda c: tf.py_function(lambda: Path(c / "new").write_text("x") and None, (), ()),
    "PyFunc": lambda c: tf.numpy_function(lambda: float(Path(c / "new").write_text("x")), (), tf.float64),
}
"""What each does to a canary."""


def encoder(touch: Callable[[], Any]) -> tf.Module:
    def embed(image: Any) -> dict[str, Any]:
        # An operator would be left out, if nothing needed its result or waited for it.
        results = [result for result in tf.nest.flatten(touch()) if result is not None]
        others = {f"other {place}": result for place, result in enumerate(results) if isinstance(result, tf.Tensor)}
        with tf.control_dependencies(results):
            return {"embedding": tf.reduce_mean(image, (1, 2)), **others}

    own = tf.Module()
    own.embed = tf.function(embed, input_signature=[IMAGE], autograph=False)
    return own


def by_command(model: Path, opening: LoadOptions) -> None:
    """``export-tflite``, without the process of its own."""
    export_tflite.main([str(model), "-o", str(model.parent / "out"), "--output", "embedding"], standalone_mode=False)


def by_function(model: Path, opening: LoadOptions) -> None:
    export(model, model.parent / "out", options=ExportOptions(output="embedding"))


def by_reference(model: Path, opening: LoadOptions) -> None:
    """``drift-report --reference``, in the process that it starts."""
    request = {"model": str(model), "data": "", "feature": None, "ids": [], "result": str(model.parent / "rows.npy")}
    contract = InputContract((8, 8, 3)).to_json()
    reference._embed({**request, "contract": contract, "opening": opening.to_json()})


def by_ladder(model: Path, opening: LoadOptions) -> None:
    """``drift-report --ladder`` and ``--layers``, in the process that they start."""
    request: dict[str, Any] = {"folder": str(model.parent), "model": str(model), "opening": opening.to_json()}
    request |= {"contract": InputContract((8, 8, 3)).to_json(), "data": "", "feature": None, "ids": []}
    ladder_files._Parts({**request, "candidate": None, "batch_size": 4, "resize": False}).make()


DOORS: tuple[Callable[[Path, LoadOptions], Any], ...] = (
    load_original,
    by_command,
    by_function,
    by_reference,
    by_ladder,
)
"""Every way by which a SavedModel comes in."""


@pytest.mark.parametrize("operator", TOUCH)
def test_touches_through_tensorflow_and_not_through_us(operator: str, canary: Canary, tmp_path: Path) -> None:
    own = encoder(lambda: TOUCH[operator](canary))
    tf.saved_model.save(own, str(tmp_path / "model"), own.embed)
    canary.clean()
    for door in DOORS:
        with pytest.raises(ModelLoadError, match=r"was not loaded: its operator"):
            door(tmp_path / "model", LoadOptions(output="embedding"))
        assert not canary.touched(), door
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    try:
        tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](image=tf.zeros((1, 8, 8, 3)))
    except tf.errors.OpError:
        assert operator == "DecodeProtoV2"  # it reads the canary, and finds no description of a protocol there
    assert canary.touched()


PACKAGES = (calibration, convert, report, runtime)
_OPENERS = (
    "load_original|load_model|load_weights|saved_model\\.load|loader\\.load|from_saved_model|TFLiteSavedModelConverterV2"
    "|TFSMLayer"
)
OPENS = re.compile(rf"(?<!def )\b([\w.]*\b(?:{_OPENERS}))\(")


def test_all_doors_are_one() -> None:
    """Only ``load_original`` opens models of TensorFlow, and whatever calls it is a door here."""
    opening: dict[str, set[str]] = {}
    for package in PACKAGES:
        root = Path(str(package.__file__)).parent
        for path in root.rglob("*.py"):
            for called in OPENS.findall(path.read_text()):
                opening.setdefault(called, set()).add(f"{root.name}/{path.relative_to(root)}")
    assert opening == {
        "load_original": {"convert/exporting.py", "report/reference.py", "report/causes/ladder_files.py"},
        # After they were looked into.
        "tf.saved_model.load": {"convert/load/saved_model.py"},
        "v1.saved_model.load": {"convert/load/saved_model.py"},
        "keras.saving.load_model": {"convert/load/keras_model.py"},
        "tf_keras.models.load_model": {"convert/load/keras_2/load.py"},
        # What this module froze and saved itself.
        "TFLiteSavedModelConverterV2": {"convert/load/lower.py"},
    }


def edit(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a SavedModel with another protocol buffer."""
    shutil.copytree(source, target)
    model = saved_model_pb2.SavedModel.FromString((source / "saved_model.pb").read_bytes())
    change(model)
    (target / "saved_model.pb").write_bytes(model.SerializeToString())
    return target


@pytest.fixture(scope="module")
def two_faces(files: Canary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound signature beside one that writes a file, and a table that can be saved."""
    own = encoder(lambda: None)
    evil = encoder(lambda: raw.WriteFile(filename=files / "new", contents="x"))
    own.evil, own.table = evil.embed, tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.0)
    path = tmp_path_factory.mktemp("faces") / "model"
    tf.saved_model.save(own, str(path), {"serving_default": own.embed, "evil": own.evil})
    return path


def function_of(model: Any, signature: str) -> tuple[Any, int]:
    """The object graph's signatures, and the object that is one of them."""
    graph = model.meta_graphs[0].object_graph_def
    place = next(child.node_id for child in graph.nodes[0].children if child.local_name == "signatures")
    signatures = graph.nodes[place]
    return graph, next(child.node_id for child in signatures.children if child.local_name == signature)


def another_function_under_the_signatures_name(model: Any, new: str) -> None:
    graph, evil = function_of(model, "evil")
    place = next(child.node_id for child in graph.nodes[0].children if child.local_name == "signatures")
    next(c for c in graph.nodes[place].children if c.local_name == "serving_default").node_id = evil


def a_function_that_tells_tensors(model: Any, new: str) -> None:
    graph, evil = function_of(model, "evil")
    next(node for node in graph.nodes if node.saveable_objects).saveable_objects["table"].save_function = evil


def a_function_that_restores_under_a_private_name(model: Any, new: str) -> None:
    graph, evil = function_of(model, "evil")
    table = next(node for node in graph.nodes if node.saveable_objects)
    table.children.add(local_name="_restore_from_tensors", node_id=evil)


def a_second_graph_with_the_same_tag(model: Any, new: str) -> None:
    second = model.meta_graphs.add()
    second.CopyFrom(model.meta_graphs[0])
    second.ClearField("object_graph_def")
    del second.signature_def["__saved_model_init_op"]
    # TensorFlow takes the graph whose tags are these and no others, and runs what initializes it.
    model.meta_graphs[0].meta_info_def.tags.append("gpu")
    nodes = second.graph_def.node
    for name, text in {"path": new, "text": "x"}.items():
        constant = nodes.add(name=name, op="Const")
        constant.attr["dtype"].type = tf.string.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(text))
    nodes.add(name="planted", op="WriteFile", input=["path", "text"])
    del second.collection_def["saved_model_main_op"]
    second.collection_def["saved_model_main_op"].node_list.value.append("planted")


EDITS: dict[Callable[[Any, str], None], str | None] = {
    another_function_under_the_signatures_name: "operator WriteFile",
    a_function_that_tells_tensors: "operator WriteFile",
    a_function_that_restores_under_a_private_name: None,
    a_second_graph_with_the_same_tag: None,
}


@pytest.mark.parametrize("change", EDITS)
def test_what_is_judged_is_what_is_loaded(
    change: Callable[[Any, str], None], two_faces: Path, canary: Canary, tmp_path: Path
) -> None:
    path = edit(two_faces, tmp_path / "model", lambda model: change(model, canary / "new"))
    message = EDITS[change]
    if message is None:
        load_original(path).call(tf.zeros((1, 8, 8, 3)))
    else:
        with pytest.raises(ModelLoadError, match=message):
            load_original(path)
    assert not canary.touched()
