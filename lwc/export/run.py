"""The export stage: base and compressed model to ONNX the same way, parity, size and latency side by side.

With ``export.int8`` or ``export.fp16`` the compressed model is also written in that precision. CPUs serve the int8
graph unless it is refused (`lwc.export.int8`); ``served`` says which graph it is and what it gains.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lwc.core.machine import cpu_limit
from lwc.core.store import write_json
from lwc.export.half import to_fp16
from lwc.export.inputs import padded_inputs
from lwc.export.int8 import Candidate, Texts, judge_int8, make_int8, too_slow
from lwc.export.latency import (
    Times,
    compare_runtimes,
    geometric_mean,
    in_full,
    in_onnxruntime,
    in_pytorch,
    in_turns,
)
from lwc.export.onnx import export_graph
from lwc.export.onnx_files import remove_graph, size_of
from lwc.export.parity import check_parity
from lwc.export.session import logits
from lwc.models.positions import check_shapes
from lwc.models.types import Model
from lwc.recipe import Export, Recipe
from lwc.tasks.task import Graph, Say, task_of

# Largest |Δ logit| of the fp16 graph: half precision keeps 11 bits, and logits are of the order of 10.
HALF_TOLERANCE = 0.1
BASE = "base/model.onnx"
WHOLE = "compressed/model.onnx"
# The reduced graphs, where there are any: this one is served on CPUs, that one on GPUs.
INT8 = "compressed/model.int8.onnx"
INT8_ANSWERS = "int8_predictions.parquet"
FP16 = "compressed/model.fp16.onnx"
_CALIBRATION = 128


def export_pair(recipe: Recipe, stages: Mapping[str, Path], out: Path, progress: Say) -> dict[str, Any]:
    """Export both models and write ``export.json``: files, parity, latency, ratios, the reduced graphs, what is served.

    ``stages`` are the folders of ``data``, ``train``, ``recover`` and, for an int8 graph, ``evaluate``.
    ``ratios.latency`` is the geometric mean over the recipe's shapes of base ÷ compressed median, both in fp32.
    ``served`` has the precision of the graph for CPUs, ``why`` it is not int8 where the recipe asks for that, and what
    it gains over the uncut model in fp32, in ONNX Runtime and in PyTorch. All are timed in one run, in turns.
    """
    task, settings = task_of(recipe), recipe.export
    files: dict[str, Any] = {}
    parity: dict[str, Any] = {}
    uncut: tuple[Graph, Model] | None = None
    for name, stage in (("base", "train"), ("compressed", "recover")):
        progress(f"exporting {name}")
        checkpoint, path = task.load(stages[stage] / "model"), out / name / "model.onnx"
        check_shapes(checkpoint.model, settings.latency_shapes)
        graph = task.graph(recipe, checkpoint, stages["data"])
        uncut = uncut or (graph, checkpoint.model)
        path.parent.mkdir()
        export_graph(graph, path)
        progress(f"parity of {name}")
        parity[name] = check_parity(graph, path, settings.parity_tolerance)
        params = sum(parameter.numel() for parameter in checkpoint.model.parameters())
        files[name] = {"path": f"{name}/model.onnx", "bytes": size_of(path), "params": params}
    assert uncut is not None
    candidate = _int8(recipe, stages, out, progress)
    progress("latency of the uncut and the compressed model")
    times = _times(out, uncut, candidate, settings)
    if candidate is not None and not candidate.refused:
        candidate = Candidate(candidate.path, candidate.figures, too_slow(times))
    latency = in_full(times, "base", "compressed", cpu_limit())
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
        **graph.notes,
        **_chosen(recipe, stages, out, files, times, candidate, progress),
    }
    result |= _further(recipe, stages, out, progress)
    write_json(out / "export.json", result)
    return result


def _texts(recipe: Recipe, stages: Mapping[str, Path]) -> Texts:
    return Texts(stages["data"], stages["recover"] / "model", recipe.model.max_length)


def _int8(recipe: Recipe, stages: Mapping[str, Path], out: Path, progress: Say) -> Candidate | None:
    """The int8 graph, compared with fp32 on rows that are not in the test split; None where none is asked for."""
    settings, texts, whole = recipe.export.int8, _texts(recipe, stages), out / WHOLE
    if settings is None:
        return None
    progress(f"int8, {settings.mode}")
    calibration, _, _ = texts.inputs("calibration", settings.calibration)
    candidate = make_int8(whole, out / INT8, settings, texts, calibration, logits(whole, calibration))
    if candidate.figures["fallback"]:
        progress(f"int8: kept in fp32: {', '.join(candidate.figures['fallback'])}")
    return candidate


def _times(out: Path, uncut: tuple[Graph, Model], candidate: Candidate | None, settings: Export) -> Times:
    """The uncut model in PyTorch (``eager``) and ONNX Runtime (``base``), and what may be served in its place."""
    threads = cpu_limit()
    files = {"base": out / BASE, "compressed": out / WHOLE}
    if candidate is not None and not candidate.refused:
        files["int8"] = candidate.path
    with in_pytorch(*uncut, threads) as eager:
        calls = {"eager": eager, **{name: in_onnxruntime(file, threads) for name, file in files.items()}}
        return in_turns(calls, list(uncut[0].sample), settings.latency_shapes, settings.latency_repeats)


def _chosen(
    recipe: Recipe,
    stages: Mapping[str, Path],
    out: Path,
    files: Mapping[str, Any],
    times: Times,
    candidate: Candidate | None,
    progress: Say,
) -> dict[str, Any]:
    """``served`` of ``export.json``, and ``int8`` where that is the graph; one that was refused is removed."""
    whole = out / WHOLE
    if candidate is None or candidate.refused:
        why = candidate.refused if candidate is not None else ""
        if why:
            progress(f"fp32 is served: {why}")
            remove_graph(out / INT8)
        return {"served": {"precision": "fp32", "why": why, "path": WHOLE, **_gains(whole, files, times, "compressed")}}
    progress("int8 on the test split")
    judged = judge_int8(whole, candidate.path, _texts(recipe, stages), stages["evaluate"], out / INT8_ANSWERS)
    quality = judged.pop("quality")
    latency = in_full(times, "compressed", "int8", cpu_limit())
    ratios = {"size": size_of(whole) / size_of(candidate.path), "latency": latency["ratio"]}
    figures = {**candidate.figures, **judged, "path": INT8, "answers": INT8_ANSWERS}
    served = {"precision": "int8", "why": "", "path": INT8, **_gains(candidate.path, files, times, "int8")}
    return {
        "served": {**served, "quality": quality, "retention": judged["retention"]},
        "int8": {**figures, "latency": latency, "ratios": ratios},
    }


def _gains(path: Path, files: Mapping[str, Any], times: Times, call: str) -> dict[str, Any]:
    """What the graph at ``path``, timed as ``call``, gains over the uncut model in fp32."""
    rows = times.rows(eager="eager", base="base", served=call)
    for row in rows:
        row["ratio"], row["ratio_eager"] = (row[f"{name}_ms"] / row["served_ms"] for name in ("base", "eager"))
    latency, eager = (geometric_mean([row[name] for row in rows]) for name in ("ratio", "ratio_eager"))
    params = {"base": files["base"]["params"], "served": files["compressed"]["params"]}
    size = {"base": files["base"]["bytes"], "served": size_of(path)}
    return {
        "params": params,
        "bytes": size,
        "ratios": {
            "params": params["base"] / params["served"],
            "size": size["base"] / size["served"],
            "latency": latency,
            "latency_eager": eager,
        },
        "latency": {
            "ratio": latency, "ratio_eager": eager, "shapes": rows, "waited": times.waited, "threads": cpu_limit(),
            "repeats": len(times.ms[0][call]),
        },
    }  # fmt: skip


def half_graph(whole: Path, target: Path, data_dir: Path, folder: Path, max_length: int, rows: int) -> dict[str, Any]:
    """Write the fp16 version ``target`` of the graph ``whole``, checked on ``rows`` calibration rows; see `to_fp16`."""
    calibration, _, _ = padded_inputs(data_dir, folder, "calibration", max_length, rows)
    return to_fp16(whole, target, calibration, logits(whole, calibration), HALF_TOLERANCE)


def _further(recipe: Recipe, stages: Mapping[str, Path], out: Path, progress: Say) -> dict[str, Any]:
    """``openvino`` and ``fp16`` of ``export.json``, where the recipe asks for them; on calibration rows."""
    settings = recipe.export
    if not settings.fp16 and not settings.openvino:
        return {}
    whole = out / WHOLE
    rows = settings.int8.calibration if settings.int8 else _CALIBRATION
    calibration, _, _ = _texts(recipe, stages).inputs("calibration", rows)
    result: dict[str, Any] = {}
    if settings.openvino:
        progress("latency in OpenVINO")
        graphs = {name: file for name, file in (("fp32", whole), ("int8", out / INT8)) if file.is_file()}
        shapes, repeats = settings.latency_shapes, settings.latency_repeats
        result["openvino"] = {
            name: compare_runtimes(path, calibration, shapes, repeats, cpu_limit()) for name, path in graphs.items()
        }
    if settings.fp16:
        progress("fp16")
        found = to_fp16(whole, out / FP16, calibration, logits(whole, calibration), HALF_TOLERANCE)
        result["fp16"] = {**found, "path": FP16}
    return result
