"""Whether the int8 graph may be served in place of the fp32 graph; decided without the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lwc.core.arrays import Array
from lwc.core.store import read_json
from lwc.export.inputs import padded_inputs
from lwc.export.latency import Times
from lwc.export.quantize import quantize
from lwc.export.session import logits
from lwc.metrics.classification import accuracy, classification_quality, macro_f1, retention
from lwc.recipe import Int8


@dataclass(frozen=True)
class Texts:
    """Where the texts of the splits are, and how the compressed model reads them."""

    data: Path
    model: Path
    max_length: int

    def inputs(self, split: str, rows: int | None = None) -> tuple[list[dict[str, Array]], Array, Array]:
        """See `padded_inputs`."""
        return padded_inputs(self.data, self.model, split, self.max_length, rows)


@dataclass(frozen=True)
class Candidate:
    """An int8 graph. ``refused`` is why fp32 is served instead; empty as long as nothing speaks against int8."""

    path: Path
    figures: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


def quantized(
    whole: Path, path: Path, settings: Int8, calibration: Sequence[dict[str, Array]], reference: Array
) -> Candidate:
    """`quantize`, refused where no operator is left in int8."""
    figures = quantize(whole, path, settings, calibration, reference)
    if figures["quantized"]:
        return Candidate(path, figures)
    kept = f"{settings.min_agreement:.1%} of {len(reference)} calibration labels"
    return Candidate(path, figures, f"every operator had to return to fp32 to keep {kept}")


def make_int8(
    whole: Path,
    path: Path,
    settings: Int8,
    texts: Texts,
    calibration: Sequence[dict[str, Array]],
    reference: Array,
) -> Candidate:
    """Quantize the fp32 graph ``whole`` and compare both on the validation split.

    ``calibration`` and ``reference`` are those of `quantize`. The figures are what `quantize` returns, and the accuracy
    of both graphs on ``validation``. Int8 is refused if it has no operator left, or if it loses more than
    ``settings.max_accuracy_drop``.
    """
    candidate = quantized(whole, path, settings, calibration, reference)
    if candidate.refused:
        return candidate
    figures = candidate.figures
    held_out, _, labels = texts.inputs("validation")
    found = {
        f"accuracy_{name}": accuracy(labels, logits(file, held_out).argmax(axis=1))
        for name, file in (("fp32", whole), ("int8", path))
    }
    figures["validation"] = {"rows": len(labels), **found}
    lost, most = found["accuracy_fp32"] - found["accuracy_int8"], settings.max_accuracy_drop
    # Shares of so many rows: equal decimals differ in the last bit.
    refused = (
        f"int8 lowers the accuracy on {len(labels):,} validation texts from {found['accuracy_fp32']:.3f} to"
        f" {found['accuracy_int8']:.3f}, and export.int8.max_accuracy_drop is {most:g}"
        if lost > most + 1e-9
        else ""
    )
    return Candidate(path, figures, refused)


def too_slow(times: Times) -> str:
    """Why int8 is refused for its latency, by the calls ``compressed`` and ``int8``; empty if it is not."""
    ratio = times.pair("compressed", "int8")["ratio"]
    shapes = ", ".join(f"{shape.batch}×{shape.length}" for shape in times.shapes)
    return f"int8 takes {1 / ratio:.2f} times as long as fp32 on this machine ({shapes})" if ratio < 1 else ""


def judge_int8(whole: Path, path: Path, texts: Texts, evaluate_dir: Path, answers: Path) -> dict[str, Any]:
    """Quality of the int8 graph on the test split, which is read once, after int8 was chosen.

    Returns ``test`` (fp32 and int8 graph side by side) and, on the resamples of the evaluate stage, ``quality`` and
    ``retention`` of the uncut model's. Writes the served model's offline answers (id, compressed) to ``answers``.
    """
    test, ids, labels = texts.inputs("test")
    outputs = {name: logits(file, test) for name, file in (("fp32", whole), ("int8", path))}
    given = {name: found.argmax(axis=1) for name, found in outputs.items()}
    figures = {
        "agreement": float((given["fp32"] == given["int8"]).mean()),
        **{f"accuracy_{name}": accuracy(labels, found) for name, found in given.items()},
        **{f"macro_f1_{name}": macro_f1(labels, found) for name, found in given.items()},
    }
    pq.write_table(pa.table({"id": ids, "compressed": given["int8"]}), answers)
    drawn = read_json(evaluate_dir / "evaluation.json")["bootstrap"]
    resamples, seed = drawn["resamples"], drawn["seed"]
    order = np.argsort(ids)
    table = pq.read_table(evaluate_dir / "predictions.parquet", columns=["id", "label", "base"]).sort_by("id")
    true, base = (table[name].to_numpy() for name in ("label", "base"))
    return {
        "test": figures,
        "quality": classification_quality(true, outputs["int8"][order], resamples, seed),
        "retention": retention(true, base, given["int8"][order], resamples, seed),
    }
