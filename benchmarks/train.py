"""Speed of the training loop: tokens a second, and the share of the measured peak of matrix products.

    python benchmarks/train.py [--workers N] [--cpu] [--quick] [--blocks 12] [--hidden 768] [--batch 64] [--longest 256]

It needs an NVIDIA GPU and exits with a message without one; ``--cpu`` measures the processor instead. The model is a
random BERT and the texts are random tokens of ragged lengths, because times do not depend on either. It runs
`lwc.training.loop.fit`, in several processes with ``--workers`` (or torchrun). The peak is a square matrix product in
the training precision, measured in the same run. Only real tokens count as work, so padding lowers the share.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from lwc.core import distributed
from lwc.core.launcher import launch
from lwc.models.batches import Batch, Encoded
from lwc.models.families import block_list, family_of
from lwc.models.losses import label_loss
from lwc.recipe import Optimization
from lwc.tasks.task import Rows
from lwc.training.loop import Objective, fit

VOCAB = 30522
WARM = 3


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    blocks: int
    hidden: int
    batch: int
    shortest: int
    longest: int
    steps: int
    precision: str
    matrix: int


def build(setting: Setting) -> Any:
    """A random BERT whose heads are 64 wide."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", num_hidden_layers=setting.blocks, hidden_size=setting.hidden, intermediate_size=4 * setting.hidden,
        num_attention_heads=max(1, setting.hidden // 64), vocab_size=VOCAB,
        max_position_embeddings=max(512, setting.longest),
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")


def texts(setting: Setting, rows: int) -> tuple[Encoded, Any]:
    """Random texts of ragged lengths, and labels."""
    random = np.random.default_rng(0)
    lengths = random.integers(setting.shortest, setting.longest + 1, size=rows)
    ids = [random.integers(5, VOCAB, size=length).tolist() for length in lengths]
    return Encoded(ids, None, 0, setting.longest, 0), np.arange(rows) % 2


def step_flops(model: Any, mask: torch.Tensor) -> float:
    """Floating-point operations of a training step on the real tokens of a batch, mask (B, T).

    Six a weight of the blocks' linear layers and token (two forward, four back), and 12 · length · width a block and
    token for attention. Embeddings, norms and the head are left out, as is usual.
    """
    blocks = block_list(model, family_of(model))
    linear = [module for block in blocks for module in block.modules() if isinstance(module, torch.nn.Linear)]
    weights = sum(module.weight.numel() for module in linear)
    lengths = mask.sum(dim=1).double()
    attention = 12 * len(blocks) * int(model.config.hidden_size) * float((lengths**2).sum())
    return 6 * weights * float(lengths.sum()) + attention


def matrix_peak(size: int, precision: str, device: torch.device) -> float:
    """Operations a second of a product of two square matrices: the fastest of ten."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        _wait(device)
        started = time.perf_counter()
        torch.mm(one, other)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(setting: Setting) -> dict[str, Any]:
    """Train for some steps and count; a step is timed from its start to the next one's."""
    distributed.join()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(setting)
    rows, labels = texts(setting, setting.batch * setting.steps)
    settings = Optimization.model_validate(
        {"epochs": 1, "batch_size": setting.batch, "checkpoint_every": 10**9, "precision": setting.precision}
    )
    starts: list[float] = []
    work: list[tuple[int, int, float]] = []  # real tokens, tokens with padding, operations

    def loss(wrapped: Any, batch: Batch) -> torch.Tensor:
        _wait(device)
        starts.append(time.perf_counter())
        work.append((int(batch.mask.sum()), batch.mask.numel(), step_flops(model, batch.mask)))
        return label_loss(wrapped(**batch.inputs).logits, batch.labels)

    with tempfile.TemporaryDirectory() as folder:
        # Judged once, at the end, by nothing: only steps are timed.
        objective = Objective(Rows(rows, labels), loss, lambda _: {"score": 0.0})
        fit(model, objective, settings, 0, Path(folder), lambda line: None)
    times = [after - before for before, after in itertools.pairwise(starts)][WARM:]
    tokens, padded, flops = (sum(column) for column in zip(*work[WARM:-1], strict=True))
    tokens, padded, flops = (distributed.total(float(value)) for value in (tokens, padded, flops))
    peak = distributed.total(matrix_peak(setting.matrix, setting.precision, device))
    seconds = sum(times)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "processes": distributed.count(),
        **asdict(setting),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "measured_steps": len(times),
        "median_step_seconds": statistics.median(times),
        "tokens_per_second": tokens / seconds,
        "padding_share": 1 - tokens / padded,
        "tflops": flops / seconds / 1e12,
        "matrix_peak_tflops": peak / 1e12,
        "share_of_peak": flops / seconds / peak,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="measure the processor")
    parser.add_argument("--quick", action="store_true", help="a small model and few steps: does it run at all")
    parser.add_argument("--workers", type=int, default=1, help="processes of this machine that share each batch")
    parser.add_argument("--blocks", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--shortest", type=int, default=16)
    parser.add_argument("--longest", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="default: bf16 on GPUs, fp32 on processors")
    given = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not given.cpu:
        print(f"skipped: torch {torch.__version__} sees no NVIDIA GPU here; --cpu measures the processor")
        return
    if gpu and given.cpu:
        parser.error("there is a GPU: hide it with CUDA_VISIBLE_DEVICES= to measure the processor")
    if given.workers > 1 and distributed.count() == 1:
        sys.exit(launch([sys.executable, *sys.argv], given.workers))
    small = given.quick
    setting = Setting(
        given.blocks or (2 if small else 12), given.hidden or (64 if small else 768),
        given.batch or (8 if small else 64), given.shortest, given.longest or (32 if small else 256),
        WARM + 2 + (given.steps or (3 if small else 50)),
        given.precision or ("bf16" if gpu else "fp32"), 256 if small else (8192 if gpu else 2048),
    )  # fmt: skip
    found = measure(setting)
    if distributed.is_main():
        print(json.dumps(found, indent=2))
    distributed.leave()  # together: who ends first may abort the other


if __name__ == "__main__":
    main()
