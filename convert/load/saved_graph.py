"""What of a SavedModel can run, judged on its protocol buffer before TensorFlow loads anything of it.

What may run: the chosen signature, the calls that restore variables, initializers, and what makes the resources of
TensorFlow 2's objects. Everything they reach, through calls, branches and loops as well, has to be on the list of
:mod:`.saved_operators`. TensorFlow loads a copy with what was judged and nothing else: functions that are merely
there would have their shapes worked out, and for that TensorFlow runs operators too. Of a graph of TensorFlow 1 only
signature and restoring go into the copy: what initializers fill, tables of labels, is on no embedding's way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelLoadError
from .bounds.graph import MOST_NODES, called, check_nodes, check_whole, functions_of
from .bounds.loops import counter_of, node_name, steps_of
from .edit.graph_def import nodes_of, rename_functions
from .saved_operators import CALLS, COMPUTING, FILE_INPUT, INITIALIZING, LOOPS, RESTORING, SAVING

DEEPEST_CALLS = 64
"""Functions within functions."""

_INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_ASSET_COLLECTION = "saved_model_assets"

_RUN_AT_LOADING = ("_create_resource", "_initialize", "_destroy_resource", "initializer", "_initializer")
_RESOURCES = frozenset({"asset", "resource", "user_object"})

_Tensors = frozenset[str]


def check_folder(path: Path) -> None:
    """Refuse a folder with a member, linked ones too, that lies outside it or is not a file.

    Raises:
        ModelLoadError: it has one.
    """
    root = path.resolve()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            member = Path(folder, name)
            target = member.resolve()
            if not target.is_relative_to(root):
                raise ModelLoadError(
                    f"{path} was not loaded: its member {str(member.relative_to(path))!r} is a link to "
                    f"{str(target)!r}, outside the folder. Copy the file itself there."
                )
            if not (target.is_file() or target.is_dir()):
                raise ModelLoadError(
                    f"{path} was not loaded: its member {str(member.relative_to(path))!r} is neither a file nor a "
                    "folder. Remove it."
                )


def needed(path: Path, meta_graph: Any, key: str, output_tensor: str) -> tuple[Any, tuple[str, ...]]:
    """A meta graph with only what one signature, restoring and initializing need.

    Args:
        path: the folder, for messages and for its assets.
        meta_graph: a ``MetaGraphDef``; it stays as it is.
        key: the signature's name.
        output_tensor: the tensor that is the embedding.

    Returns:
        The smaller meta graph, with TensorFlow 2's objects where it has them, and what was left out, as a sentence.

    Raises:
        ModelLoadError: something that would run is not on the list, names files of its own, or may not end.
        ModelLimitError: it asks for tensors, operators or steps of a number that no encoder has.
    """
    judge = _Judge(path, meta_graph)
    judge.check_assets()
    judge.walk("its initializer", _initializers(meta_graph), INITIALIZING, keep=False)
    judge.objects(meta_graph.object_graph_def, key)
    judge.walk(f"the signature {key!r}", [output_tensor], COMPUTING)
    # What the user feeds need not lead to the output, and has to be there to be told so.
    judge.keep(tensor.name for tensor in meta_graph.signature_def[key].inputs.values())
    if meta_graph.HasField("saver_def"):
        judge.walk("the call that restores its variables", [meta_graph.saver_def.restore_op_name], RESTORING)
        judge.keep([meta_graph.saver_def.filename_tensor_name])
    small = judge.pruned_objects() if meta_graph.object_graph_def.nodes else judge.pruned(key)
    check_whole(str(path), small.graph_def)
    return small, judge.left_out(key)


def _initializers(meta_graph: Any) -> list[str]:
    names = (
        [tensor.name for tensor in meta_graph.signature_def[_INIT_SIGNATURE].outputs.values()]
        if (_INIT_SIGNATURE in meta_graph.signature_def)
        else []
    )
    for collection in _INIT_COLLECTIONS:
        if collection in meta_graph.collection_def:
            names += meta_graph.collection_def[collection].node_list.value
    return names


class _Judge:
    """Walks what is reachable, and remembers it."""

    def __init__(self, path: Path, meta_graph: Any) -> None:
        self.path = path
        self.meta_graph = meta_graph
        graph = meta_graph.graph_def
        count = len(graph.node) + sum(len(function.node_def) for function in graph.library.function)
        if count > MOST_NODES:
            raise ModelLoadError(
                f"{path} was not loaded: its graph has {count:,} operators, and at most {MOST_NODES:,} are read here. "
                "Export the encoder alone."
            )
        self.nodes = {node.name: node for node in graph.node}
        self.functions = {function.signature.name: function for function in graph.library.function}
        self.kept: set[str] = set()
        self.used: set[str] = set()
        self._walked: set[tuple[str, _Tensors, frozenset[str], bool]] = set()
        self.checkpoint = frozenset({node_name(meta_graph.saver_def.filename_tensor_name)} - {""})
        self._keep = True

    def check_assets(self) -> None:
        """Refuse assets outside the folder."""
        from tensorflow.core.protobuf import meta_graph_pb2

        entries = list(self.meta_graph.asset_file_def)
        if _ASSET_COLLECTION in self.meta_graph.collection_def:
            for value in self.meta_graph.collection_def[_ASSET_COLLECTION].any_list.value:
                entry = meta_graph_pb2.AssetFileDef()
                value.Unpack(entry)
                entries.append(entry)
        root = (self.path / "assets").resolve()
        for entry in entries:
            if not (self.path / "assets" / entry.filename).resolve().is_relative_to(root):
                raise ModelLoadError(
                    f"{self.path} was not loaded: its asset {entry.filename!r} lies outside the folder's own assets. "
                    "No tool that saves models writes such names; do not trust the folder."
                )

    def keep(self, tensors: Iterable[str]) -> None:
        self.kept.update(name for name in map(node_name, tensors) if name in self.nodes)

    def walk(self, door: str, roots: Iterable[str], allowed: frozenset[str], *, keep: bool = True) -> None:
        """Judge what leads to some operators; ``keep``: it belongs to the copy."""
        self._keep = keep
        reached: dict[str, Any] = {}
        open_ends = [node_name(root) for root in roots]
        while open_ends:
            name = open_ends.pop()
            if name in reached:
                continue
            node = self.nodes.get(name)
            if node is None:
                raise ModelLoadError(
                    f"{self.path} is damaged: {door} needs the operator {name!r}, which its graph lacks. Copy it again."
                )
            reached[name] = node
            open_ends += [node_name(tensor) for tensor in node.input]
        self._check(door, reached, self.checkpoint, allowed, ())
        if keep:
            self.kept.update(reached)

    def objects(self, graph: Any, key: str) -> None:
        """Judge what TensorFlow 2 runs of its objects: while it loads them, and as the signature found there."""
        self._keep = True
        for node in graph.nodes:
            for child in node.children:
                if child.local_name in _RUN_AT_LOADING:
                    self._object(f"{child.local_name!r} of an object", graph, child.node_id, INITIALIZING, _RESOURCES)
            for saved in node.saveable_objects.values():
                self._object("what restores an object", graph, saved.restore_function, RESTORING, None)
                # It runs when variables are restored, too: it tells how many tensors there are.
                self._object("what saves an object", graph, saved.save_function, SAVING, _RESOURCES)
        for child in graph.nodes[0].children if graph.nodes else ():
            if child.local_name == "signatures" and 0 <= child.node_id < len(graph.nodes):
                for signature in graph.nodes[child.node_id].children:
                    if signature.local_name == key:
                        self._object(f"the signature {key!r}", graph, signature.node_id, COMPUTING, _RESOURCES)

    def _object(
        self, door: str, graph: Any, number: int, allowed: frozenset[str], fed_kinds: frozenset[str] | None
    ) -> None:
        """Judge an object that is a function; ``fed_kinds``: what it may capture that holds no path of its choice."""
        if not 0 <= number < len(graph.nodes):
            raise ModelLoadError(f"{self.path} is damaged: {door} is not there. Copy the folder again.")
        node = graph.nodes[number]
        names = [*node.function.concrete_functions, node.bare_concrete_function.concrete_function_name]
        for name in filter(None, names):
            if name not in self.functions:
                raise ModelLoadError(
                    f"{self.path} is damaged: {door} is the function {name!r}, which it lacks. Copy it again."
                )
            arguments = [argument.name for argument in self.functions[name].signature.input_arg]
            bound = graph.concrete_functions[name].bound_inputs if name in graph.concrete_functions else []
            if fed_kinds is None:
                # The loader passes the checkpoint's path first, and what is captured comes last.
                fed = frozenset(arguments[:1] if len(arguments) > len(bound) else [])
            else:
                kinds = {graph.nodes[i].WhichOneof("kind") for i in bound if 0 <= i < len(graph.nodes)}
                fed = frozenset(arguments if kinds <= fed_kinds else [])
            self._check_function(door, name, fed, allowed, ())

    def _check(
        self,
        door: str,
        nodes: dict[str, Any],
        checkpoint: _Tensors,
        allowed: frozenset[str],
        callers: tuple[str, ...],
    ) -> None:
        """Refuse what may not run. ``checkpoint`` names what holds the path that the loader feeds."""

        def is_fed(tensor: str) -> bool:
            name = node_name(tensor)
            for _ in range(len(nodes) + 1):
                if name in checkpoint:
                    return True
                node = nodes.get(name)
                if node is None or node.op != "Identity":
                    return False
                name = node_name(node.input[0])
            return False

        check_nodes(self.path, door, nodes)
        for node in nodes.values():
            if node.op not in allowed and node.op not in self.functions:
                raise self._refusal(door, node, allowed)
            if self._keep and node.op in FILE_INPUT and not is_fed([*node.input, "", ""][FILE_INPUT[node.op]]):
                raise ModelLoadError(
                    f"{self.path} was not loaded: its operator {node.op} ({node.name!r}, in {door}) reads another file "
                    "than the folder's own variables and assets. Save the encoder without it."
                )
            if node.op in LOOPS:
                self._check_loop(door, node, nodes)
            for name in self._called(node):
                direct = node.op in CALLS or node.op == name
                data = [tensor for tensor in node.input if not tensor.startswith("^")]
                given = [argument.name for argument in self.functions[name].signature.input_arg] if direct else []
                fed = frozenset(argument for argument, tensor in zip(given, data, strict=False) if is_fed(tensor))
                self._check_function(door, name, fed, allowed, callers)

    def _called(self, node: Any) -> Iterator[str]:
        """Names of the library's functions that a node calls."""
        for function in functions_of(node):
            if function.name and function.name not in self.functions:
                raise ModelLoadError(
                    f"{self.path} is damaged: {node.name!r} calls {function.name!r}, which it lacks. Copy it again."
                )
        yield from called(node, self.functions)

    def _check_function(
        self, door: str, name: str, checkpoint: _Tensors, allowed: frozenset[str], callers: tuple[str, ...]
    ) -> None:
        if self._keep:
            self.used.add(name)
        if name in callers or len(callers) >= DEEPEST_CALLS:
            raise ModelLoadError(
                f"{self.path} was not loaded: its function {name!r} "
                + ("calls itself" if name in callers else f"is called through more than {DEEPEST_CALLS} others")
                + ", so nothing says that it ends. Save the encoder without it."
            )
        visit = (name, checkpoint, allowed, self._keep)
        if visit in self._walked:
            return
        nodes = {node.name: node for node in self.functions[name].node_def}
        self._check(door, nodes, checkpoint, allowed, (*callers, name))
        self._walked.add(visit)

    def _check_loop(self, door: str, node: Any, nodes: dict[str, Any]) -> None:
        """A loop has to count: a condition ``counter < limit``, whose counter grows by a constant."""
        condition = self.functions.get(node.attr["cond"].func.name)
        body = self.functions.get(node.attr["body"].func.name)
        if condition is None or body is None or counter_of(condition, body, steps_of(node, nodes)) is None:
            raise ModelLoadError(
                f"{self.path} was not loaded: its loop {node.name!r} (in {door}) does not count up to a limit, so "
                "nothing says that it ends. Save the encoder without it, or with maximum_iterations."
            )

    def _refusal(self, door: str, node: Any, allowed: frozenset[str]) -> ModelLoadError:
        from tensorflow.python.framework import op_def_registry

        if op_def_registry.get(node.op) is None:
            return ModelLoadError(
                f"{self.path} uses {node.op}, which is not an operator of TensorFlow but a custom one. No TFLite "
                "interpreter has it either: rewrite that part with TensorFlow's own operators and save it again."
            )
        return ModelLoadError(
            f"{self.path} was not loaded: its operator {node.op} ({node.name!r}, in {door}) is not one of the "
            f"{len(allowed)} that only compute on what they are given and may run here. Save the encoder without it."
        )

    def pruned(self, key: str) -> Any:
        """The copy: what was kept, one signature, and how variables are restored."""
        from tensorflow.core.protobuf import meta_graph_pb2

        small, whole = meta_graph_pb2.MetaGraphDef(), self.meta_graph
        small.meta_info_def.tags.extend(whole.meta_info_def.tags)
        small.graph_def.versions.CopyFrom(whole.graph_def.versions)
        for node in whole.graph_def.node:
            # Freezing reads a variable through its own operator for that.
            reads = node.op == "ReadVariableOp" and node_name(node.input[0]) in self.kept and len(node.input) == 1
            if node.name in self.kept or reads:
                small.graph_def.node.add().CopyFrom(node)
        for name in sorted(self.used):
            small.graph_def.library.function.add().CopyFrom(self.functions[name])
        rename_functions(small.graph_def)
        for node in nodes_of(small.graph_def):
            # Gradients are looked up by name when a function is traced, and nothing here needs them.
            node.attr.pop("_gradient_op_type", None)
            node.device = ""
        if whole.HasField("saver_def"):
            small.saver_def.CopyFrom(whole.saver_def)
        small.signature_def[key].CopyFrom(whole.signature_def[key])
        return small

    def pruned_objects(self) -> Any:
        """The copy of TensorFlow 2's objects: all of them, but functions only if they were judged."""
        from tensorflow.core.protobuf import meta_graph_pb2

        small, whole = meta_graph_pb2.MetaGraphDef(), self.meta_graph
        small.graph_def.versions.CopyFrom(whole.graph_def.versions)
        # Of the graph itself objects take their constants alone.
        small.graph_def.node.extend(node for node in whole.graph_def.node if node.op == "Const")
        for name in sorted(self.used):
            small.graph_def.library.function.add().CopyFrom(self.functions[name])
        for node in (node for function in small.graph_def.library.function for node in function.node_def):
            # It names what gives gradients, which nothing here needs and which is not in the copy.
            node.attr.pop("_gradient_op_type", None)
        small.asset_file_def.extend(whole.asset_file_def)
        small.object_graph_def.CopyFrom(whole.object_graph_def)
        graph = small.object_graph_def
        for name in set(graph.concrete_functions) - self.used:
            del graph.concrete_functions[name]
        for node in graph.nodes:
            kind = node.WhichOneof("kind")
            kept = (
                [name for name in node.function.concrete_functions if name in self.used] if kind == "function" else []
            )
            if kind == "function":
                node.function.concrete_functions[:] = kept
            elif kind == "bare_concrete_function":
                kept = [node.bare_concrete_function.concrete_function_name]
            elif kind == "captured_tensor":
                kept = [node.captured_tensor.concrete_function]
            else:
                continue
            if not self.used.intersection(kept):
                node.user_object.SetInParent()  # an object without anything, in the function's place
        return small

    def left_out(self, key: str) -> tuple[str, ...]:
        others = sorted(name for name in self.meta_graph.signature_def if name not in (key, _INIT_SIGNATURE))
        dropped = {node.op for node in self.meta_graph.graph_def.node if node.name not in self.kept}
        for name, function in self.functions.items():
            if name not in self.used:
                dropped |= {node.op for node in function.node_def}
        outside = sorted(dropped - COMPUTING - set(self.functions))
        parts = [f"the signature{'s' if len(others) > 1 else ''} {', '.join(others)}"] if others else []
        if outside:
            shown = ", ".join(outside[:6]) + (f" and {len(outside) - 6} more" if len(outside) > 6 else "")
            parts.append(f"operators that it does not need and that may not run here ({shown})")
        return (
            (f"of the SavedModel only what the signature {key!r} needs was loaded, not {' and '.join(parts)}.",)
            if (parts)
            else ()
        )
