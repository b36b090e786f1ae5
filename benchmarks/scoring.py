"""Cost of scoring compared with plain implementations, on the same model and data in one run.

    python benchmarks/scoring.py [--quick] [--model PATH] [--examples 512] [--hidden 256] [--shortest 8] [--longest 64]

Times are medians of rounds in which the two alternate. Without ``--model`` the model is a random 12-block BERT, because
times do not depend on the weights. Texts are random tokens of ragged lengths. Linux only (peak memory).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from lwc.core.children import end_with_parent
from lwc.importance.ablation import ablation
from lwc.importance.fisher import fisher
from lwc.importance.per_example import ExampleGradients, collect, slow_gradients
from lwc.importance.shap import antithetic, growing, sampled, shap
from lwc.importance.taylor import taylor
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.families import block_list, family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.surgery import bypass
from lwc.recipe import METHODS, Ablation, EmpiricalFisher, Shap, Taylor

REMOTE = {"llama_profile", "llm_expert"}


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    model: str | None
    examples: int
    hidden: int
    shortest: int
    longest: int
    batch_size: int
    rounds: int
    steps: int
    permutations: int
    dear: int  # examples of the comparisons whose plain side takes minutes


def build(setting: Setting) -> Any:
    """The model that is scored."""
    torch.manual_seed(0)
    if setting.model is not None:
        return AutoModelForSequenceClassification.from_pretrained(setting.model).eval()
    config = AutoConfig.for_model(
        "bert", vocab_size=4000, hidden_size=setting.hidden, num_attention_heads=max(2, setting.hidden // 64),
        intermediate_size=4 * setting.hidden, num_hidden_layers=12, max_position_embeddings=512, pad_token_id=0,
        num_labels=2,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()


def texts(model: Any, setting: Setting, examples: int) -> list[Batch]:
    """Random token ids of ragged lengths, batched as the score stage does."""
    random = np.random.default_rng(0)
    lengths = random.integers(setting.shortest, setting.longest + 1, size=examples)
    ids = [random.integers(5, model.config.vocab_size, size=length).tolist() for length in lengths]
    encoded = Encoded(ids, None, int(model.config.pad_token_id or 0), setting.longest, 0)
    return batches(encoded, np.arange(examples) % 2, setting.batch_size, length_bucketed=True, seed=None)


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """(wall seconds, result)."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def compare(name: str, ours: Callable[[], Any], plain: Callable[[], Any], rounds: int, want: float | None) -> Any:
    """Print the ratio of medians; give both results. ``want`` is the ratio asked for."""
    times: tuple[list[float], list[float]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(rounds):
        for side, function in enumerate((ours, plain)):
            taken, results[side] = seconds(function)
            times[side].append(taken)
    fast, slow = statistics.median(times[0]), statistics.median(times[1])
    verdict = "" if want is None else f"  wanted {want:g}x: {'met' if slow / fast >= want else 'MISSED'}"
    print(f"{name:<58} {fast:9.3f} s  {slow:9.3f} s  {slow / fast:6.2f}x{verdict}", flush=True)
    return results


def difference(one: Any, other: Any) -> float:
    """The largest difference in parts of the largest value."""
    first, second = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    return float(np.abs(first - second).max() / np.abs(second).max())


def squares_loop(model: Any, data: Sequence[Batch]) -> list[float]:
    """Mean squared gradients of each block, one example after the other without padding: the least such a loop does."""
    blocks = [list(block.parameters()) for block in block_list(model, family_of(model))]
    total = torch.zeros(len(blocks), dtype=torch.float64)
    for batch in data:
        for row in range(len(batch)):
            length = int(batch.mask[row].sum())
            inputs = {name: value[row : row + 1, :length] for name, value in batch.inputs.items()}
            loss = functional.cross_entropy(model(**inputs).logits, batch.labels[row : row + 1])
            gradients = iter(torch.autograd.grad(loss, [each for block in blocks for each in block]))
            total += torch.stack([sum(next(gradients).square().sum() for _ in block) for block in blocks]).double()
    return (total / sum(len(batch) for batch in data)).tolist()  # type: ignore[no-any-return]


def fisher_ratios(model: Any, data: Sequence[Batch], setting: Setting) -> None:
    """Per-example gradients of all rows at once against loops over single examples."""
    family = family_of(model)

    def loop() -> ExampleGradients:
        return ExampleGradients.joined([slow_gradients(model, family, batch) for batch in data])

    ours, plain = compare(
        "Fisher and Taylor vs batch-1 loop giving the same", lambda: collect(model, family, data), loop,
        setting.rounds, 5.0,
    )  # fmt: skip
    print(f"  largest relative difference of the trace {difference(ours.squared.mean(0), plain.squared.mean(0)):.1e}")
    ours, plain = compare(
        "Fisher vs batch-1 loop of g² alone, float32", lambda: collect(model, family, data),
        lambda: squares_loop(model, data), setting.rounds, None,
    )  # fmt: skip
    print(f"  largest relative difference of the trace {difference(ours.squared.mean(0), plain):.1e}")

    def bound() -> None:
        for batch in data:
            embedded = model.get_input_embeddings()(batch.inputs["input_ids"]).detach().requires_grad_()
            logits = model(inputs_embeds=embedded, attention_mask=batch.mask).logits
            torch.autograd.grad(functional.cross_entropy(logits, batch.labels), embedded)

    compare("  the most that is possible: one pass there and back", bound, loop, setting.rounds, None)


def ablation_ratio(model: Any, data: Sequence[Batch], setting: Setting) -> None:
    """Prefixes computed once against a full forward for each block."""
    family = family_of(model)

    def plain() -> list[float]:
        whole = loss_and_accuracy(model, data)[0]
        scores = []
        for index in range(len(block_list(model, family))):
            with bypass(model, family, [index]):
                scores.append(loss_and_accuracy(model, data)[0] - whole)
        return scores

    settings = Ablation(method="ablation")
    ours, other = compare(
        "ablation vs a full forward for each block", lambda: ablation(model, family, data, settings).scores, plain,
        setting.rounds, 1.8,
    )  # fmt: skip
    print(f"  largest difference {np.abs(np.subtract(ours, other)).max():.1e} nats")


def shapley_ratio(model: Any, data: Sequence[Batch], setting: Setting) -> None:
    """Coalitions measured once, prefixes shared, against every step of every order in full."""
    family, blocks = family_of(model), len(block_list(model, family_of(model)))
    orders = antithetic(blocks, setting.permutations)
    config = Shap(method="shap", permutations=setting.permutations)

    def plain(once: bool) -> list[float]:
        value: dict[frozenset[int], float] = {}
        for order in orders:
            for kept in growing(order):
                if not (once and kept in value):
                    with bypass(model, family, frozenset(range(blocks)) - kept):
                        value[kept] = -loss_and_accuracy(model, data)[0]
        return sampled(value, orders)[0].tolist()  # type: ignore[no-any-return]

    for name, once, want in (("the naive loop", False, 1.7), ("a loop with each coalition once", True, None)):
        ours, other = compare(
            f"Shapley of {len(orders)} orders vs {name}", lambda: shap(model, family, data, config).scores,
            lambda once=once: plain(once), setting.rounds, want,
        )  # fmt: skip
        print(f"  identical: {list(ours) == other}; largest difference {np.abs(np.subtract(ours, other)).max():.1e}")


class OfEmbeddings(torch.nn.Module):
    """The model as a function of embeddings, which is what Captum can attribute."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> Any:
        return self.model(inputs_embeds=embeddings, attention_mask=mask).logits.log_softmax(dim=-1)


def conductance_ratio(model: Any, data: Sequence[Batch], setting: Setting) -> None:
    """All blocks in one path against Captum block by block, the same steps, block outputs (where both are defined)."""
    if find_spec("lwc.importance.conductance") is None or find_spec("captum") is None:
        print("conductance: left out, since captum or the method is not installed")
        return
    path_conductance = import_module("lwc.importance.conductance").path_conductance
    captum_conductance = import_module("captum.attr").LayerConductance
    family, function = family_of(model), OfEmbeddings(model)
    table = model.get_input_embeddings()

    def ours() -> list[Any]:
        return [path_conductance(model, family, batch, setting.steps, of="output").total for batch in data]

    def captum() -> list[Any]:
        results = []
        for batch in data:
            end = table(batch.inputs["input_ids"]).detach()
            pad = torch.full_like(batch.inputs["input_ids"], int(model.config.pad_token_id or 0))
            start, each = table(pad).detach(), []
            for block in block_list(model, family):
                found = captum_conductance(function, block).attribute(
                    end, start, target=batch.labels, additional_forward_args=(batch.mask,), n_steps=setting.steps,
                    method="riemann_trapezoid", internal_batch_size=len(batch) * 2,
                )  # fmt: skip
                each.append((found[0] if isinstance(found, tuple) else found).detach())
            results.append(each)
        return results

    mine, theirs = compare(
        f"conductance vs Captum for each block, {setting.steps} steps", ours, captum, setting.rounds, 8.0
    )
    pairs = [pair for one, other in zip(mine, theirs, strict=True) for pair in zip(one, other, strict=True)]
    print(f"  largest relative difference {max(difference(one, other) for one, other in pairs):.1e}")


def all_methods(model: Any, data: Sequence[Batch], setting: Setting) -> dict[str, float]:
    """Seconds of each local method, with Fisher and Taylor from one pass."""
    family = family_of(model)
    cheaper = {"shap": {"permutations": setting.permutations}}
    times: dict[str, float] = {}
    started = time.monotonic()
    gradients = collect(model, family, data)
    fisher.of(gradients, EmpiricalFisher(method="fisher"))
    taylor.of(gradients, Taylor(method="taylor"))
    times["fisher + taylor"] = time.monotonic() - started
    for name in METHODS.names():
        if name not in REMOTE | {"fisher", "taylor"}:
            settings = METHODS[name](method=name, **cheaper.get(name, {}))
            times[name] = seconds(lambda settings=settings: settings.load()(model, family, data, settings))[0]
    return times


def grown(setting: Setting, examples: int) -> tuple[dict[str, float], float]:
    """(seconds of each method, peak MiB of the process) of one calibration size; runs in a process of its own."""
    model = build(setting)
    times = all_methods(model, texts(model, setting, examples), setting)
    # Not getrusage: its peak is handed down by the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return times, int(status.split("VmHWM:")[1].split()[0]) / 1024


def growth(setting: Setting) -> None:
    """All methods on a quarter, half and all of the examples."""
    for examples in (setting.examples // 4, setting.examples // 2, setting.examples):
        with multiprocessing.get_context("spawn").Pool(1, initializer=end_with_parent) as pool:
            times, peak = pool.apply(grown, (setting, examples))
        total, dearest = sum(times.values()), max(times, key=lambda name: times[name])
        print(
            f"all local methods, {examples} examples: {total:.2f} s, {1000 * total / examples:.1f} ms an example, peak "
            f"{peak:.0f} MiB; {total / times[dearest]:.2f} times the dearest ({dearest}); wanted at most 2.5"
        )
        print("  " + ", ".join(f"{name} {taken:.2f}" for name, taken in times.items()), flush=True)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small model and few examples: does it run at all")
    parser.add_argument("--model", help="a local classifier; default is a random 12-block BERT")
    parser.add_argument("--examples", type=int)
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--shortest", type=int, default=8)
    parser.add_argument("--longest", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    quick = given.quick
    setting = Setting(
        given.model, given.examples or (32 if quick else 512), given.hidden or (64 if quick else 256), given.shortest,
        given.longest, 16, given.rounds, 4 if quick else 16, 2 if quick else 8, 16 if quick else 64,
    )  # fmt: skip
    model = build(setting)
    data, few = texts(model, setting, setting.examples), texts(model, setting, min(setting.dear, setting.examples))
    print(f"{setting}\n{torch.get_num_threads()} threads, torch {torch.__version__}\n{'':<58}        ours      plain")
    conductance_ratio(model, few, setting)
    fisher_ratios(model, data, setting)
    ablation_ratio(model, data, setting)
    shapley_ratio(model, few, setting)
    growth(setting)


if __name__ == "__main__":
    main()
