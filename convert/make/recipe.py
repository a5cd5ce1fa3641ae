"""``--recipe export.json``: the decisions of an export, so that the same files can be made again without any trial.

Everything that was found by trying is in there: how the graph was equalized, how ranges were taken, which corrections
each file kept, and which layers are not int8. What was only asked for (types, placement, preprocessing) must be asked
for again, and is compared: with the same model, images, settings and versions the files are the same byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.errors import RequestError, UnreadableDataError
from ...runtime.model.contract import InputContract
from ...runtime.options import deciding
from ..modes import CORRECTIONS, MODES, PRECISIONS, Precision, is_mixed
from ..quantize.choices import PlanChoices
from ..quantize.correct import Steps
from ..request import Request
from .wide_output import COPIES


@dataclass(frozen=True)
class FileRecipe:
    """What was decided for one file.

    Attributes:
        corrections: those that were kept, step by step.
        precision: of the layers that are not int8.
        copies: of the last layer, see :mod:`embedlite.convert.make.wide_output`.
        tuned: SHA-256 of the graph with fine-tuned weights, which no recipe holds; None where they were not changed.
    """

    corrections: Steps = ()
    precision: Precision = field(default_factory=dict)
    tuned: str | None = None
    copies: int = 1


@dataclass(frozen=True)
class Recipe:
    """What was decided for all files of an export.

    Attributes:
        graph: SHA-256 of the float graph that everything was made from.
        images: fingerprint of the calibration images; None without.
        golden: SHA-256 of the pixels of the golden vectors; None without.
        options: what was asked for and decides about the files' bytes.
        tools: versions of what made them.
        choices: equalization and ranges; None where no file needed any.
        files: by mode.
    """

    graph: str
    images: str | None
    golden: str | None
    options: Mapping[str, Any]
    tools: Mapping[str, str]
    choices: PlanChoices | None
    files: Mapping[str, FileRecipe]

    def to_json(self) -> dict[str, Any]:
        """The object in export.json."""
        return asdict(self)

    def check_options(self, options: Mapping[str, Any], path: str | Path) -> None:
        """Refuse other settings than those that the recipe was made with.

        Raises:
            RequestError: the first setting that differs.
        """
        for name, now in options.items():
            then = self.options.get(name)
            if then != now:
                raise RequestError(
                    f"the recipe {path} was made with {name} {json.dumps(then)}, and {json.dumps(now)} was asked for. "
                    "Give the same settings, or leave --recipe out to decide again."
                )

    def explain_tools(self, tools: Mapping[str, str]) -> list[str]:
        """A decision if other versions make the files than those that the recipe was made with."""
        others = [
            f"{name} {self.tools.get(name, 'unknown')} (here {version})"
            for name, version in tools.items()
            if self.tools.get(name) != version
        ]
        if not others:
            return []
        return [f"the recipe was made with {', '.join(others)}; with other versions the files' bytes may differ."]

    def check_graph(self, graph: str, path: str | Path) -> None:
        """Refuse another model.

        Raises:
            RequestError: the float graphs differ.
        """
        if self.graph != graph:
            raise RequestError(
                f"the recipe {path} was made for another model: its float graph is {self.graph[:12]}, this one's "
                f"{graph[:12]}. Name the model that it was made for, or leave --recipe out to decide again."
            )

    def check_images(self, images: str | None, path: str | Path) -> None:
        """Refuse other calibration images.

        Raises:
            RequestError: they are others, or missing.
        """
        if self.images != images:
            now = "there are none" if images is None else f"these are {images[:12]}"
            raise RequestError(
                f"the recipe {path} was made with calibration images {(self.images or 'none')[:12]}, and {now}. Pass "
                "the same --calibration-data, --test-data, --num-samples, --select and --seed."
            )

    def check_golden(self, golden: str, path: str | Path) -> None:
        """Refuse other images of the golden vectors, which every file holds that was run.

        Raises:
            RequestError: they are others.
        """
        if self.golden not in (None, golden):
            raise RequestError(
                f"the recipe {path} was made with golden vectors of other images: {self.golden[:12]}, and these are "
                f"{golden[:12]}. Pass the same --golden-from and --seed."
            )


def deciding_options(request: Request, contract: InputContract) -> dict[str, Any]:
    """What was asked for and decides about the files' bytes, as it stands in JSON."""
    options = {"input": asdict(contract), **deciding(request)}
    plain: dict[str, Any] = json.loads(json.dumps(options))
    return plain


def read_recipe(path: Path) -> Recipe:
    """The recipe in an ``export.json``.

    Raises:
        UnreadableDataError: it cannot be read, or is not such a file.
    """
    try:
        value = json.loads(path.read_bytes())["recipe"]
        choices = value["choices"]
        files = {str(mode): _file(mode, file) for mode, file in value["files"].items()}
        if not files:
            raise ValueError("it names no file")
        tuned = [mode for mode, file in files.items() if file.tuned is not None]
        if tuned:
            raise RequestError(
                f"the {tuned[0]} file of {path} was fine-tuned, and a recipe holds no weights. "
                "Keep that file, or export again with --fine-tune."
            )
        return Recipe(
            str(value["graph"]),
            value["images"],
            value["golden"],
            dict(value["options"]),
            dict(value["tools"]),
            None
            if choices is None
            else PlanChoices(**{**choices, **{key: tuple(choices[key]) for key in ("float_end", "islands")}}),
            files,
        )
    except OSError as error:
        raise UnreadableDataError(f"cannot read the recipe {path}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableDataError(
            f"{path} holds no recipe ({type(error).__name__}: {error}). Name the export.json that export-tflite wrote."
        ) from error


def _file(mode: str, value: Mapping[str, Any]) -> FileRecipe:
    steps = tuple(tuple(step) for step in value["corrections"])
    precision = dict(value["precision"])
    if mode not in MODES and not is_mixed(mode):
        raise ValueError(f"unknown mode {mode!r}")
    if not {name for step in steps for name in step} <= set(CORRECTIONS):
        raise ValueError(f"unknown corrections {steps}")
    if not set(precision.values()) <= set(PRECISIONS):
        raise ValueError(f"unknown precisions {sorted(set(precision.values()))}")
    copies = int(value.get("copies", 1))
    if copies not in (1, *COPIES):
        raise ValueError(f"unknown number of copies {copies}")
    return FileRecipe(steps, precision, value["tuned"], copies)
