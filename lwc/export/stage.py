"""The export stage: base and compressed model to ONNX the same way, parity, size and latency side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.artifacts import write_json
from lwc.data.splits import load_split
from lwc.environment import cpu_limit
from lwc.export.latency import compare_latency
from lwc.export.onnx import export_onnx
from lwc.export.parity import check_parity
from lwc.models.load import load_classifier, load_tokenizer
from lwc.recipe import Export

# Label agreement is checked on this many test texts; logits parity does not depend on the texts' content.
PARITY_TEXTS = 200


def export_pair(
    data_dir: Path,
    base_dir: Path,
    compressed_dir: Path,
    settings: Export,
    max_length: int,
    out: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Export both models and write ``export.json``: files, parity of each, ratios of size and latency.

    ``ratios.latency`` is the geometric mean over the recipe's shapes of base ÷ compressed median.
    """
    texts = load_split(data_dir, "test").texts[:PARITY_TEXTS]
    files: dict[str, Any] = {}
    parity: dict[str, Any] = {}
    for name, folder in (("base", base_dir / "model"), ("compressed", compressed_dir / "model")):
        progress(f"exporting {name}")
        model, tokenizer = load_classifier(folder), load_tokenizer(folder)
        path = out / name / "model.onnx"
        path.parent.mkdir()
        export_onnx(model, tokenizer, path)
        progress(f"parity of {name}")
        parity[name] = check_parity(model, tokenizer, path, texts, settings.parity_tolerance, max_length=max_length)
        files[name] = {"path": f"{name}/model.onnx", "bytes": path.stat().st_size}
    progress("latency of both")
    latency = compare_latency(
        out / "base" / "model.onnx",
        out / "compressed" / "model.onnx",
        settings.latency_shapes,
        settings.latency_repeats,
        cpu_limit(),
    )
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
        "ratios": {
            "size": files["base"]["bytes"] / files["compressed"]["bytes"],
            "latency": latency["ratio"],
        },
    }
    write_json(out / "export.json", result)
    return result
