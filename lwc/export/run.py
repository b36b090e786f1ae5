"""The export stage: base and compressed model to ONNX the same way, parity, size and latency side by side.

With ``export.int8`` or ``export.fp16`` the compressed model is also written in that precision, with what it costs in
answers and what it gives in time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.machine import cpu_limit
from lwc.core.store import read_json, write_json
from lwc.data.splits import load_split
from lwc.export.half import to_fp16
from lwc.export.latency import compare_latency, compare_runtimes
from lwc.export.onnx import export_graph
from lwc.export.onnx_files import size_of
from lwc.export.parity import check_parity
from lwc.export.quantize import quantize
from lwc.export.session import logits
from lwc.metrics.classification import macro_f1, retention
from lwc.models.batches import batches, encode
from lwc.models.load import load_tokenizer
from lwc.models.positions import check_shapes
from lwc.recipe import Export, Recipe
from lwc.tasks.task import Say, task_of
from lwc.tasks.text import spread

# Largest |Δ logit| of the fp16 graph: half precision keeps 11 bits, and logits are of the order of 10.
HALF_TOLERANCE = 0.1
WHOLE = "compressed/model.onnx"
# The reduced graphs, where there are any: this one is served on CPUs, that one on GPUs.
INT8 = "compressed/model.int8.onnx"
INT8_ANSWERS = "int8_predictions.parquet"
FP16 = "compressed/model.fp16.onnx"
_CALIBRATION = 128


def export_pair(recipe: Recipe, stages: Mapping[str, Path], out: Path, progress: Say) -> dict[str, Any]:
    """Export both models and write ``export.json``: files, parity, latency, ratios, and the reduced graphs.

    ``stages`` are the folders of ``data``, ``train``, ``recover`` and, for an int8 graph, ``evaluate``.
    ``ratios.latency`` is the geometric mean over the recipe's shapes of base ÷ compressed median.
    """
    task, settings = task_of(recipe), recipe.export
    files: dict[str, Any] = {}
    parity: dict[str, Any] = {}
    notes: dict[str, Any] = {}
    for name, stage in (("base", "train"), ("compressed", "recover")):
        progress(f"exporting {name}")
        checkpoint, path = task.load(stages[stage] / "model"), out / name / "model.onnx"
        check_shapes(checkpoint.model, settings.latency_shapes)
        graph = task.graph(recipe, checkpoint, stages["data"])
        path.parent.mkdir()
        export_graph(graph, path)
        notes.update(graph.notes)
        progress(f"parity of {name}")
        parity[name] = check_parity(graph, path, settings.parity_tolerance)
        files[name] = {"path": f"{name}/model.onnx", "bytes": size_of(path)}
    progress("latency of both")
    latency = _latency(out / files["base"]["path"], out / WHOLE, settings)
    result = {
        "files": files,
        "parity": {
            "max_abs_diff": max(case["max_abs_diff"] for case in parity.values()),
            "label_agreement": min(case["label_agreement"] for case in parity.values()),
            "tolerance": settings.parity_tolerance,
            "passed": all(case["passed"] for case in parity.values()),
            **parity,
        },
        "latency": latency,
        "ratios": {"size": files["base"]["bytes"] / files["compressed"]["bytes"], "latency": latency["ratio"]},
        **notes,
        **_reduced(recipe, stages, out, progress),
    }
    write_json(out / "export.json", result)
    return result


def _latency(base: Path, compressed: Path, settings: Export) -> dict[str, Any]:
    return compare_latency(base, compressed, settings.latency_shapes, settings.latency_repeats, cpu_limit())


def padded_inputs(
    data_dir: Path, folder: Path, split: str, max_length: int, rows: int | None, batch_size: int = 16
) -> tuple[list[dict[str, Array]], Array, Array]:
    """``rows`` texts all over a split (None: all) as batches of inputs (B, T) by name; ids and labels (N,)."""
    examples = load_split(data_dir, split)
    chosen = spread(len(examples.texts), rows)
    encoded = encode(load_tokenizer(folder), [examples.texts[row] for row in chosen], max_length)
    groups = batches(encoded, examples.labels[chosen], batch_size, length_bucketed=True, seed=None)
    inputs = [{name: value.numpy() for name, value in one.inputs.items()} for one in groups]
    order = chosen[np.concatenate([one.rows.numpy() for one in groups])]
    return inputs, examples.ids[order], examples.labels[order]


def half_graph(whole: Path, target: Path, data_dir: Path, folder: Path, max_length: int, rows: int) -> dict[str, Any]:
    """Write the fp16 version ``target`` of the graph ``whole``, checked on ``rows`` calibration rows; see `to_fp16`."""
    calibration, _, _ = padded_inputs(data_dir, folder, "calibration", max_length, rows)
    return to_fp16(whole, target, calibration, logits(whole, calibration), HALF_TOLERANCE)


def _reduced(recipe: Recipe, stages: Mapping[str, Path], out: Path, progress: Say) -> dict[str, Any]:
    """``int8``, ``fp16`` and ``openvino`` of ``export.json``, where the recipe asks for them.

    Ranges and fallbacks come from calibration rows. ``test`` is the quality of the int8 and the fp32 graph on the test
    split, read once, after everything is decided; ``retention`` what it keeps of the uncut model's.
    """
    settings, max_length = recipe.export, recipe.model.max_length
    data_dir, folder = stages["data"], stages["recover"] / "model"
    if settings.int8 is None and not settings.fp16 and not settings.openvino:
        return {}
    whole = out / WHOLE
    rows = settings.int8.calibration if settings.int8 else _CALIBRATION
    calibration, _, _ = padded_inputs(data_dir, folder, "calibration", max_length, rows)
    reference = logits(whole, calibration)
    result: dict[str, Any] = {}
    if settings.int8 is not None:
        progress(f"int8, {settings.int8.mode}")
        path = out / INT8
        figures = quantize(whole, path, settings.int8, calibration, reference)
        if figures["fallback"]:
            progress(f"int8: kept in fp32: {', '.join(figures['fallback'])}")
        latency = _latency(whole, path, settings)
        test, ids, labels = padded_inputs(data_dir, folder, "test", max_length, None)
        answers = {name: logits(file, test).argmax(axis=1) for name, file in (("fp32", whole), ("int8", path))}
        figures["test"] = {
            "agreement": float((answers["fp32"] == answers["int8"]).mean()),
            **{f"accuracy_{name}": float((given == labels).mean()) for name, given in answers.items()},
            **{f"macro_f1_{name}": macro_f1(labels, given) for name, given in answers.items()},
        }
        # What is served is this graph: its answers are the offline ones that served answers must equal.
        pq.write_table(pa.table({"id": ids, "compressed": answers["int8"]}), out / INT8_ANSWERS)
        figures["retention"] = _int8_retention(stages["evaluate"], ids, answers["int8"])
        ratios = {"size": size_of(whole) / size_of(path), "latency": latency["ratio"]}
        result["int8"] = {**figures, "path": INT8, "answers": INT8_ANSWERS, "latency": latency, "ratios": ratios}
    if settings.openvino:
        progress("latency in OpenVINO")
        graphs = {"fp32": whole, **({"int8": out / INT8} if settings.int8 else {})}
        shapes, repeats = settings.latency_shapes, settings.latency_repeats
        result["openvino"] = {
            name: compare_runtimes(path, calibration, shapes, repeats, cpu_limit()) for name, path in graphs.items()
        }
    if settings.fp16:
        progress("fp16")
        result["fp16"] = {**to_fp16(whole, out / FP16, calibration, reference, HALF_TOLERANCE), "path": FP16}
    return result


def _int8_retention(evaluate_dir: Path, ids: Array, answers: Array) -> dict[str, Any]:
    """What the int8 graph's answers (N,) keep of the uncut model's quality, on the resamples of the evaluate stage."""
    table = pq.read_table(evaluate_dir / "predictions.parquet", columns=["id", "label", "base"]).sort_by("id")
    labels, base = (table[name].to_numpy() for name in ("label", "base"))
    drawn = read_json(evaluate_dir / "evaluation.json")["bootstrap"]
    return retention(labels, base, answers[np.argsort(ids)], drawn["resamples"], drawn["seed"])
