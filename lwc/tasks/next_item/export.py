"""Base and compressed recommender to ONNX with the seen-filter and top-k inside the graph, parity, size and latency."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from lwc.core.arrays import Array
from lwc.core.errors import ModelError
from lwc.core.machine import cpu_limit
from lwc.core.store import write_json
from lwc.export.onnx import OPSET
from lwc.export.pair import export_both
from lwc.export.session import cpu_session
from lwc.recipe import NextItem, Recipe
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.model import PAD, NextItemView, load
from lwc.tasks.next_item.splits import load_questions
from lwc.tasks.next_item.training import Say

INPUTS = ("input_ids", "attention_mask", "seen")
OUTPUTS = ("scores", "items")
# Real test histories on which the lists of both runtimes are compared.
PARITY_USERS = 200
_LISTED = 10


class TopItems(nn.Module):
    """Token ids, mask (B, T) and seen tokens (B, S) in; scores and item numbers (B, K) out, best first.

    ``seen`` holds token ids, padded with 0, and may be longer than what the model reads. Its items get the lowest
    float32 and so stand behind all others; equal scores stand in the order of the item numbers.
    """

    def __init__(self, view: NextItemView, k: int) -> None:
        super().__init__()
        self.view, self.k = view, k

    def forward(self, input_ids: Tensor, attention_mask: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        logits = self.view(input_ids, attention_mask).logits
        lowest = torch.finfo(torch.float32).min
        # A column for the padding, which ``seen`` is full of.
        padded = torch.cat([torch.full_like(logits[:, :1], lowest), logits], dim=1)
        left = padded.scatter(1, seen, lowest)[:, PAD + 1 :]
        scores, items = torch.topk(left, self.k, dim=1, sorted=True)
        return scores, items


def export_top_items(view: NextItemView, k: int, path: Path) -> None:
    """Write the graph of `TopItems` with dynamic batch, length and number of seen items.

    Raises:
        ModelError: the exporter or the checker refuses it.
    """
    sample = (
        torch.tensor([[1, 2, 1], [2, 0, 0]]),
        torch.tensor([[1, 1, 1], [1, 0, 0]]),
        torch.tensor([[1, 2, 0, 0], [2, 0, 0, 0]]),
    )
    dynamic = {name: {0: "batch", 1: "seen" if name == "seen" else "length"} for name in INPUTS}
    try:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracer warnings; the parity check over many shapes is the judge
            torch.onnx.export(
                TopItems(view, k).eval(),
                sample,
                str(path),
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                dynamic_axes=dynamic | {name: {0: "batch"} for name in OUTPUTS},
                opset_version=OPSET,
                do_constant_folding=True,
                dynamo=False,
            )
        onnx.checker.check_model(str(path), full_check=True)
    except (RuntimeError, torch.onnx.errors.OnnxExporterError, onnx.checker.ValidationError) as error:
        raise ModelError(f"the recommender cannot be exported: {error}", "report it with the recipe") from error


def padded(rows: list[list[int]], width: int) -> Array:
    """Rows of item numbers as token ids (B, width), padding on the right."""
    ids: Array = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = np.asarray(row, dtype=np.int64) + PAD + 1
    return ids


def graph_inputs(histories: list[list[int]], max_length: int) -> dict[str, Array]:
    """What the graph reads for these known histories, as the served front makes it."""
    last = [history[-max_length:] for history in histories]
    mask: Array = np.zeros((len(last), max(len(row) for row in last)), dtype=np.int64)
    for place, row in enumerate(last):
        mask[place, : len(row)] = 1
    return {
        "input_ids": padded(last, mask.shape[1]),
        "attention_mask": mask,
        "seen": padded(histories, max(len(row) for row in histories)),
    }


@torch.inference_mode()
def _torch(model: TopItems, inputs: dict[str, Array]) -> tuple[Array, Array]:
    scores, items = model(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    return scores.numpy(), items.numpy()


def check_parity(
    view: NextItemView, k: int, path: Path, histories: list[list[int]], tolerance: float, max_length: int
) -> dict[str, Any]:
    """max |Δ score| of the best k over batches and lengths, and the share of real histories with the same ten items.

    Seen items have the lowest float32 on both sides and are compared as that.
    """
    session, model = cpu_session(path, cpu_limit()), TopItems(view, k).eval()
    random = np.random.default_rng(0)
    items = view.config.vocab_size - 1
    cases = []
    for batch in (1, 3, 8):
        for length in sorted({1, 2, min(17, max_length), max_length, max_length + 5}):
            lengths = [length, *random.integers(1, length + 1, batch - 1)]
            rows = [[int(item) for item in random.integers(0, items, size)] for size in lengths]
            inputs = graph_inputs(rows, max_length)
            apart = np.abs(_torch(model, inputs)[0] - session.run(["scores"], inputs)[0]).max()
            # JSON has no infinity; the largest float fails every gate.
            worst = float(apart) if np.isfinite(apart) else float(np.finfo(np.float32).max)
            cases.append({"batch": batch, "length": length, "padding": "right", "max_abs_diff": worst})
    again = [session.run(["scores"], inputs)[0] for _ in range(2)]
    same = 0
    for history in histories:
        inputs = graph_inputs([history], max_length)
        mine, theirs = _torch(model, inputs)[1], session.run(["items"], inputs)[0]
        same += int(np.array_equal(mine[:, :_LISTED], theirs[:, :_LISTED]))
    most = max(float(case["max_abs_diff"]) for case in cases)
    repeatable = bool(np.array_equal(*again))
    agreement = same / len(histories)
    return {
        "max_abs_diff": most,
        "label_agreement": agreement,
        "texts": len(histories),
        "repeatable": repeatable,
        "tolerance": tolerance,
        "passed": most <= tolerance and agreement == 1.0 and repeatable,
        "cases": cases,
    }


def export_pair(
    recipe: Recipe, task: NextItem, data_dir: Path, base_dir: Path, compressed_dir: Path, out: Path, progress: Say
) -> dict[str, Any]:
    """Export both models and write ``export.json``: files, parity of each, ratios of size and latency."""
    settings, max_length = recipe.export, recipe.model.max_length
    histories = [seen for seen in load_questions(data_dir, "test").seen if seen][:PARITY_USERS]
    if not histories:
        raise ModelError("no test user has a history that train knows: parity cannot be checked", "use more data")
    k = min(task.top_k, len(Catalogue.read(data_dir / "catalogue.json")))

    def export_one(name: str, folder: Path, path: Path) -> dict[str, Any]:
        progress(f"exporting {name}")
        view = load(folder)
        export_top_items(view, k, path)
        progress(f"parity of {name}")
        return check_parity(view, k, path, histories, settings.parity_tolerance, max_length)

    result = {**export_both(base_dir, compressed_dir, settings, out, export_one, progress), "top_k": k}
    write_json(out / "export.json", result)
    return result
