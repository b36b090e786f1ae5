"""CPU latency of an uncut encoder and its cuts, in PyTorch eager, ONNX Runtime and, if installed, OpenVINO.

    python benchmarks/latency.py [--quick] [--model PATH] [--int8 static] [--rounds 5] [--window 1.0]

All variants run in turn, one window each, for several rounds of each batch × length, so a disturbance of the machine
affects all of them. A ratio is the median over rounds of the ratio within a round. The ONNX files, int8 included,
come from lwc's export, with the session options of serving; PyTorch uses the attention that transformers chooses
(SDPA). Without ``--model`` the encoder is a random 12-block BERT of width 384, because times do not depend on the
weights. Batches have no padding. Prints Markdown, writes ``latency.json``, and exits with 3 if an aim is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import BertConfig, BertForSequenceClassification

from lwc.core.arrays import Array
from lwc.core.errors import GATE_FAILED, OK, LwcError, ModelError
from lwc.core.machine import cpu_limit, cpu_model, describe
from lwc.export.latency import Call, in_onnxruntime, in_openvino
from lwc.export.onnx import export_onnx
from lwc.export.quantize import quantize
from lwc.export.session import cpu_session, run
from lwc.models.families import family_of
from lwc.models.load import load_classifier, load_tokenizer
from lwc.models.source import checkpoint_folder
from lwc.models.surgery import parameter_counts, remove_blocks
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Int8, Target
from lwc.selection.target import blocks_to_keep

RATIOS = (1.33, 2.0, 3.0)
CUT_SHARE, INT8_GAIN, TOGETHER = 0.93, 1.6, 8.0
TORCH, ORT, OPENVINO = "PyTorch eager", "ONNX Runtime", "OpenVINO"
WARM_UP, LEAST_CALLS = 2, 3
SAME = 1e-3  # largest |Δ logit| between runtimes on one fp32 model

Inputs = dict[str, Array]


@dataclass(frozen=True)
class Variant:
    """A model of so many blocks, in one precision, in one runtime."""

    runtime: str
    precision: str
    blocks: int


Windows = Mapping[str, Mapping[Variant, Sequence[float]]]
"""For each batch × length (``8×64``) and variant: the median ms of a call in each round's window."""


@dataclass(frozen=True)
class Row:
    """A speed-up at each batch × length, the median over rounds, and whether every one of them reaches the aim."""

    what: str
    values: dict[str, float]
    spread: dict[str, tuple[float, float]]
    aim: float
    met: bool


def speed_up(windows: Windows, slow: Variant, fast: Variant, what: str, aim: float) -> Row:
    """How many times faster ``fast`` is than ``slow``; rounds are compared with themselves."""
    rounds = {
        shape: [one / other for one, other in zip(found[slow], found[fast], strict=True)]
        for shape, found in windows.items()
    }
    values = {shape: statistics.median(each) for shape, each in rounds.items()}
    spread = {shape: (min(each), max(each)) for shape, each in rounds.items()}
    return Row(what, values, spread, aim, all(value >= aim for value in values.values()))


def verdicts(windows: Windows) -> list[Row]:
    """The aims: what each cut gains, what int8 gains on top of it, and both against the uncut model in PyTorch."""
    depths = sorted({variant.blocks for found in windows.values() for variant in found}, reverse=True)
    whole, cuts = depths[0], depths[1:]
    rows = []
    for blocks in cuts:
        ratio, cut, int8 = whole / blocks, Variant(ORT, "fp32", blocks), Variant(ORT, "int8", blocks)
        uncut = Variant(ORT, "fp32", whole)
        rows += [
            speed_up(windows, uncut, cut, f"{ratio:.2f}× blocks, both {ORT} fp32", CUT_SHARE * ratio),
            speed_up(windows, cut, int8, f"int8 on top of {ratio:.2f}×, both {ORT}", INT8_GAIN),
        ]
    what = f"{whole / cuts[-1]:.2f}× and int8 in {ORT} against the uncut model in {TORCH}"
    return [*rows, speed_up(windows, Variant(TORCH, "fp32", whole), Variant(ORT, "int8", cuts[-1]), what, TOGETHER)]


def fastest(windows: Windows, blocks: int, precisions: Sequence[str]) -> dict[str, tuple[Variant, float]]:
    """The variant of so many blocks with the lowest median at each batch × length, and that median in ms."""
    found = {}
    for shape, times in windows.items():
        medians = {
            variant: statistics.median(each)
            for variant, each in times.items()
            if variant.blocks == blocks and variant.precision in precisions
        }
        found[shape] = min(medians.items(), key=lambda one: one[1])
    return found


def table(windows: Windows, rows: Sequence[Row]) -> str:
    """Markdown: milliseconds, speed-ups against the aims, and the fastest of the uncut and of the smallest model."""
    shapes = list(windows)
    heads, rule = " | ".join(shapes), "---|" * len(shapes)
    lines = [f"| ms a call, median (lowest–highest round) | {heads} |", f"|---|{rule}"]
    variants = list(windows[shapes[0]])
    for one in variants:
        cells = (
            f"{statistics.median(each):.1f} ({min(each):.1f}–{max(each):.1f})"
            for each in (windows[shape][one] for shape in shapes)
        )
        lines.append(f"| {one.runtime} {one.precision}, {one.blocks} blocks | {' | '.join(cells)} |")
    lines += ["", f"| speed-up, median (lowest–highest round) | {heads} | aim | |", f"|---|{rule}---|---|"]
    for row in rows:
        cells = (f"{row.values[s]:.2f} ({row.spread[s][0]:.2f}–{row.spread[s][1]:.2f})" for s in shapes)
        lines.append(f"| {row.what} | {' | '.join(cells)} | ≥ {row.aim:.2f} | {'met' if row.met else 'MISSED'} |")
    depths = sorted({variant.blocks for variant in variants})
    for blocks, precisions in ((depths[-1], ("fp32",)), (depths[0], ("fp32", "int8"))):
        best = fastest(windows, blocks, precisions)
        told = ", ".join(f"{shape} {v.runtime} {v.precision} {ms:.1f} ms" for shape, (v, ms) in best.items())
        lines += ["", f"Fastest of {blocks} blocks in {' or '.join(precisions)}: {told}."]
    return "\n".join(lines)


def build(options: argparse.Namespace) -> tuple[Any, Any]:
    """(the uncut classifier, its tokenizer)."""
    if options.model is not None:
        folder = checkpoint_folder(options.model)
        return load_classifier(folder, ["no", "yes"]), load_tokenizer(folder)
    torch.manual_seed(0)
    width, blocks, vocabulary = (32, 6, 500) if options.quick else (384, 12, 30_522)
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=blocks, num_attention_heads=width // 32,
        intermediate_size=4 * width, max_position_embeddings=512, num_labels=2, attn_implementation="eager",
    )  # fmt: skip
    tokenizer = train_wordpiece(["some words", "to have a tokenizer"], 40, 512)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return BertForSequenceClassification(config).eval(), tokenizer


def tokens(names: Sequence[str], vocabulary: int, shape: tuple[int, int]) -> Inputs:
    """Random token ids in full rows (B, T), one segment."""
    ids = np.random.default_rng(0).integers(0, vocabulary, shape)
    fixed = {"attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return {name: fixed.get(name, ids) for name in names}


def with_torch(model: Any) -> Call:
    """The model as transformers runs it when it is not told otherwise."""
    if getattr(model, "_supports_sdpa", False):
        model.set_attn_implementation("sdpa")

    @torch.inference_mode()
    def call(inputs: Inputs) -> Array:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        return np.asarray(model(**tensors).logits.numpy())

    return call


def prepare(options: argparse.Namespace, folder: Path) -> tuple[dict[Variant, Call], Any]:
    """What is timed, in order, and what makes the inputs of a batch × length. Tells what int8 left in fp32.

    Raises:
        ModelError: two runtimes do not agree on an fp32 model.
    """
    model, tokenizer = build(options)
    family, counts = family_of(model), parameter_counts(model, family_of(model))
    whole = len(counts.per_block)
    depths = [whole, *(blocks_to_keep(Target(ratio=ratio, of="blocks"), counts) for ratio in RATIOS)]
    calls, others = dict[Variant, Call](), dict[Variant, Call]()
    for blocks in depths:
        path = folder / f"{blocks}.onnx"
        smaller = remove_blocks(model, family, range(blocks, whole))
        names = [one.name for one in export_onnx(smaller, tokenizer, path).inputs]
        files = {"fp32": path}
        given = tokens(names, model.config.vocab_size, (8, 32))
        if blocks < whole:
            files["int8"] = folder / f"{blocks}.int8.onnx"
            settings = Int8(mode=options.int8, min_agreement=0.5)
            reference = run(cpu_session(path, options.threads), given)
            for group in quantize(path, files["int8"], settings, [given], reference)["fallback"]:
                print(f"int8 of {blocks} blocks leaves {group} in fp32")
        for precision, file in files.items():
            calls[Variant(ORT, precision, blocks)] = in_onnxruntime(file, options.threads)
            if find_spec("openvino") is not None:
                others[Variant(OPENVINO, precision, blocks)] = in_openvino(file, options.threads)
    calls = {Variant(TORCH, "fp32", whole): with_torch(model), **calls, **others}
    for variant, call in calls.items():
        apart = float(np.abs(call(given) - calls[Variant(ORT, "fp32", variant.blocks)](given)).max())
        if variant.precision == "fp32" and not apart <= SAME:
            raise ModelError(f"{variant}: logits {apart:.1e} from those of {ORT}", "do not compare their times")
    return calls, lambda shape: tokens(names, model.config.vocab_size, shape)


def window(call: Call, inputs: Inputs, seconds: float) -> float:
    """Median ms of a call over a window, after warm-up."""
    for _ in range(WARM_UP):
        call(inputs)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < LEAST_CALLS or time.perf_counter() - began < seconds:
        started = time.perf_counter()
        call(inputs)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def measure(options: argparse.Namespace) -> Windows:
    """All variants at all shapes, in turns."""
    shapes = {f"{batch}×{length}": (batch, length) for batch in options.batches for length in options.lengths}
    with tempfile.TemporaryDirectory(prefix="lwc-bench-") as folder:
        calls, inputs_of = prepare(options, Path(folder))
        found: dict[str, dict[Variant, list[float]]] = {}
        for shape, size in shapes.items():
            inputs = inputs_of(size)
            found[shape] = {variant: [] for variant in calls}
            for _ in range(options.rounds):
                for variant, call in calls.items():
                    found[shape][variant].append(window(call, inputs, options.window))
            print(f"{shape} measured", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure, print, and tell by the exit code whether every aim was met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and short windows: does it run at all")
    parser.add_argument("--model", help="an encoder: local path, package:<module> or hub id")
    parser.add_argument("--int8", choices=("dynamic", "static"), default="dynamic")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128], help="tokens")
    parser.add_argument("--rounds", type=int, help="5, or 2 with --quick")
    parser.add_argument("--window", type=float, help="seconds of a window: 1, or 0.02 with --quick")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/latency-benchmark"))
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.window = options.window or (0.02 if options.quick else 1.0)
    torch.set_num_threads(options.threads)
    try:
        windows = measure(options)
    except LwcError as problem:
        print(f"error: {problem}\n  do: {problem.hint}", file=sys.stderr)
        sys.exit(problem.exit_code)
    rows = verdicts(windows)
    content = {
        "machine": describe(), "threads": options.threads, "int8": options.int8,
        "speed_ups": [asdict(row) for row in rows],
        "windows": [{**asdict(v), "shape": at, "ms": ms} for at, each in windows.items() for v, ms in each.items()],
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "latency.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    print(table(windows, rows))
    load = ", ".join(f"{one:.1f}" for one in psutil.getloadavg())
    print(
        f"\n{cpu_model()}, {options.threads} of {cpu_limit()} cores, int8 {options.int8}, {options.rounds} rounds of"
        f" {options.window:g} s, {datetime.now(UTC):%Y-%m-%d}; load average {load}."
        f"{'' if find_spec('openvino') else ' OpenVINO is left out: it is not installed.'}"
    )
    sys.exit(OK if all(row.met for row in rows) else GATE_FAILED)


if __name__ == "__main__":
    main()
