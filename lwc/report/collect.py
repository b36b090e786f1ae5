"""Stage folders in, one report dictionary out. A stage that did not run leaves None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from lwc.core.store import read_json
from lwc.recipe import Recipe
from lwc.report.content_types import DataSection, Environment, Findings, Ratios, StageName, StageTime, Target
from lwc.report.export_contents import AsServed, Export
from lwc.report.stage_contents import Selection

SCHEMA_VERSION: Literal[1] = 1


def _read(stage_dirs: Mapping[str, Path], stage: str, name: str) -> Any:
    """A stage's JSON object, of the type that its writer gave it; None where the stage did not run."""
    folder = stage_dirs.get(stage)
    if folder is None or not (folder / name).is_file():
        return None
    content = read_json(folder / name)
    if not isinstance(content, dict):
        raise TypeError(f"{folder / name} must hold a JSON object")
    return content


def _weights_bytes(stage_dirs: Mapping[str, Path], stage: str) -> int | None:
    folder = stage_dirs.get(stage)
    files = list((folder / "model").glob("*.safetensors")) if folder is not None else []
    return sum(file.stat().st_size for file in files) or None


def _ratios(stage_dirs: Mapping[str, Path], selection: Selection | None, export: Export) -> Ratios:
    """All four ratios. Size and latency come from the exported pair; size falls back to the weight files."""
    planned = selection["ratios"] if selection and "ratios" in selection else None
    measured, latency = export.get("ratios", {}), export.get("latency", {})
    size = measured.get("size")
    if size is None:
        before, after = _weights_bytes(stage_dirs, "train"), _weights_bytes(stage_dirs, "recover")
        size = before / after if before and after else None
    return {
        "blocks": planned["blocks"] if planned else None,
        "params": planned["params"] if planned else None,
        "size": size,
        "latency": measured.get("latency", latency.get("ratio")),
    }


def _served(
    export: dict[str, Any] | None, ratios: Ratios, evaluation: dict[str, Any]
) -> tuple[AsServed | None, Export | None]:
    """What is served, with its quality, and the rest of ``export.json``.

    Quality and retention of an fp32 graph are those of its checkpoint: parity compares the two.
    """
    if export is None or "served" not in export:
        return None, cast(Export | None, export)
    served = export["served"]
    of_checkpoint = {
        "quality": (evaluation.get("quality") or {}).get("compressed"), "retention": evaluation.get("retention"),
    }  # fmt: skip
    gained = {"blocks": ratios["blocks"], **served["ratios"]}
    rest = {name: section for name, section in export.items() if name != "served"}
    return cast(AsServed, {**of_checkpoint, **served, "ratios": gained}), cast(Export, rest)


def _target(recipe: Recipe, ratios: Ratios) -> Target:
    reached = ratios[recipe.target.of]
    return {
        "ratio": recipe.target.ratio,
        "of": recipe.target.of,
        "reached": reached,
        "met": None if reached is None else reached >= recipe.target.ratio - 1e-9,
    }


def _data(recipe: Recipe, stage_dirs: Mapping[str, Path], evaluation: dict[str, Any]) -> DataSection:
    return {
        "source": _read(stage_dirs, "data", "source.json"),
        "quality": _read(stage_dirs, "data", "quality.json"),
        "text_fields": list(recipe.data.text_fields),
        "label_scheme": recipe.data.labels.scheme,
        "label_names": evaluation.get("label_names"),
        "truncated": evaluation.get("truncated"),
        "n_train": evaluation.get("n_train"),
        "n_test": evaluation.get("n"),
    }


def collect(
    recipe: Recipe, stage_dirs: Mapping[str, Path], environment: Environment, times: Mapping[str, StageTime]
) -> Findings:
    """Everything measured, as in ``report.json``, still without gates and verdict."""
    evaluation = _read(stage_dirs, "evaluate", "evaluation.json") or {}
    selection: Selection | None = _read(stage_dirs, "select", "selection.json")
    exported: dict[str, Any] | None = _read(stage_dirs, "export", "export.json")
    ratios = _ratios(stage_dirs, selection, cast(Export, exported or {}))
    served, export = _served(exported, ratios, evaluation)
    dumped = recipe.model_dump(mode="json")
    return {
        "schema_version": SCHEMA_VERSION,
        "recipe": {
            "name": recipe.name, "description": recipe.description, "seed": recipe.seed, "resolved": dumped,
        },
        "target": _target(recipe, ratios),
        "ratios": ratios,
        "task": recipe.task.name,
        "quality": evaluation.get("quality"),
        "retention": evaluation.get("retention"),
        "retention_unrecovered": evaluation.get("retention_unrecovered"),
        "served": served,
        "agreement": evaluation.get("agreement"),
        "bootstrap": evaluation.get("bootstrap"),
        "importance": _read(stage_dirs, "score", "importance.json"),
        "selection": selection,
        "training": {
            "train": _read(stage_dirs, "train", "metrics.json"),
            "recover": _read(stage_dirs, "recover", "metrics.json"),
        },
        "parity": (export or {}).get("parity"),
        "latency": (export or {}).get("latency"),
        "export": export,
        "serving": _read(stage_dirs, "verify", "serving.json"),
        "data": _data(recipe, stage_dirs, evaluation),
        "environment": environment,
        "stages": cast(dict[StageName, StageTime], dict(times)),
    }  # fmt: skip
