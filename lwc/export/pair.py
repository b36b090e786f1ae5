"""Base and compressed model to ONNX, whatever their task: files, parity, ratios of size and latency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.core.machine import cpu_limit
from lwc.export.latency import compare_latency
from lwc.recipe import Export


def export_both(
    base_dir: Path,
    compressed_dir: Path,
    settings: Export,
    out: Path,
    export_one: Callable[[str, Path, Path], dict[str, Any]],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """``files``, ``parity``, ``latency`` and ``ratios`` of ``export.json``.

    ``export_one(name, checkpoint, path)`` writes the ONNX file ``path`` and returns how far it agrees with the
    checkpoint. ``ratios.latency`` is the geometric mean over the recipe's shapes of base ÷ compressed median.
    """
    files: dict[str, Any] = {}
    parity: dict[str, Any] = {}
    base, compressed = (out / name / "model.onnx" for name in ("base", "compressed"))
    for name, stage, path in (("base", base_dir, base), ("compressed", compressed_dir, compressed)):
        path.parent.mkdir()
        parity[name] = export_one(name, stage / "model", path)
        files[name] = {"path": f"{name}/model.onnx", "bytes": path.stat().st_size}
    progress("latency of both")
    latency = compare_latency(base, compressed, settings.latency_shapes, settings.latency_repeats, cpu_limit())
    return {
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
    }
