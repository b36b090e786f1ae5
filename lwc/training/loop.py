"""The one training loop, shared by train and recover."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from transformers import set_seed

from lwc.core import distributed
from lwc.core.errors import Diverged, LwcError
from lwc.core.machine import precision_here
from lwc.core.progress import Step
from lwc.core.store import canonical
from lwc.models.attention import fused_attention
from lwc.models.batches import Batch, pad, row_groups
from lwc.models.families import block_list, family_of
from lwc.models.types import Model
from lwc.recipe import Optimization
from lwc.tasks.task import Judge, Rows, Say
from lwc.training import checkpoints
from lwc.training.checkpoints import Progress, copied
from lwc.training.muon import Muon

SECONDS_BETWEEN_CHECKPOINTS = 60.0
"""Without ``checkpoint_every``: a GPU takes thousands of steps in a minute, two cores fifty."""

LossFunction = Callable[[Model, Batch], Tensor]
"""``(model, batch) → scalar loss``, mean over the batch's rows. A ratio of sums needs `distributed.by_rows`."""


@dataclass(frozen=True)
class Objective:
    """What a model is trained on, what it minimises, and how it is judged.

    Args:
        rows: the train rows.
        loss: see `LossFunction`.
        judge: scores the model on the validation split.
        average: decay of the moving average of the weights that is judged and kept; 0 keeps the weights themselves.
        embedding_rate: learning rate of the input embeddings, as a share of the others'.
        fused: whether fused attention is used, which gives no attention maps.
    """

    rows: Rows
    loss: LossFunction
    judge: Judge
    average: float = 0.0
    embedding_rate: float = 1.0
    fused: bool = True


@dataclass(frozen=True)
class TrainingResult:
    """What training did: steps taken, the evaluations, that of the kept step, and the seconds of this process."""

    steps: int
    validation: dict[str, float]
    best_step: int
    history: list[dict[str, float]]
    seconds: float
    resumed_from: int


def learning_rate(step: int, total: int, settings: Optimization) -> float:
    """Linear warm-up to the peak, then linear decay to 0, at ``step`` (0-based) of ``total``."""
    warmup = math.ceil(settings.warmup * total)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    return settings.learning_rate * max(0.0, (total - step) / max(1, total - warmup))


def parameter_groups(
    model: Model, weight_decay: float, embedding_rate: float = 1.0, orthogonal: bool = False
) -> list[dict[str, Any]]:
    """Weight decay on matrices only: norms and biases are scales, not directions. ``scale`` multiplies the rate.

    With ``orthogonal``, the matrices of the blocks are a group of their own, for `Muon`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    embeddings: set[Tensor] = set(model.get_input_embeddings().parameters()) if embedding_rate != 1.0 else set()
    blocks = block_list(model, family_of(model)).parameters() if orthogonal else ()
    matrices: set[Tensor] = {p for p in blocks if p.ndim == 2}
    others = [p for p in trained if p not in embeddings and p not in matrices]
    groups = [
        {
            "params": [p for p in trained if p in matrices],
            "weight_decay": weight_decay,
            "scale": 1.0,
            "orthogonal": True,
        },
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay, "scale": 1.0},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0, "scale": 1.0},
        {"params": [p for p in trained if p in embeddings], "weight_decay": weight_decay, "scale": embedding_rate},
    ]
    return [group for group in groups if group["params"]]


def _identity(rows: Rows, settings: Optimization, seed: int) -> str:
    """Digest of what a run trains on and how: weights restored under other token ids would be noise, unnoticed."""
    digest = hashlib.sha256(canonical([settings.model_dump(mode="json", exclude={"checkpoint_every"}), seed]).encode())
    digest.update(b"" if rows.labels is None else rows.labels.tobytes())
    for ids in rows.encoded.ids:
        digest.update(np.asarray([len(ids), *ids], dtype=np.int64).tobytes())
    return digest.hexdigest()


def fit(
    model: Model, objective: Objective, settings: Optimization, seed: int, checkpoint_dir: Path, progress: Say
) -> TrainingResult:
    """Train ``model`` in place and leave it with the weights that the objective's judge scores highest, in eval mode.

    With ``objective.average`` > 0 the exponential moving average of the weights is judged and kept
    (Polyak & Juditsky 1992; decay min(average, (1 + t) / (10 + t)), so that the start is forgotten).

    AdamW or `Muon`, linear warm-up and decay, clipped gradients, length-bucketed batches. State is written to
    ``checkpoint_dir`` every ``settings.checkpoint_every`` steps, or minute; where there is a whole checkpoint,
    training resumes from it, mid-epoch, to the same result as without the interruption.

    Several processes share each batch's rows: the steps are those of one process up to rounding, dropout's draws aside.
    The main one writes the checkpoints, all read them.

    Raises:
        Diverged: the loss or the validation score is not finite.
        LwcError: the processes do not see the same rows or checkpoints.
    """
    started = time.monotonic()
    set_seed(seed + distributed.rank())  # dropout draws of their own
    accelerator = _accelerator()
    mixed = precision_here(settings.precision) == "bf16"
    orthogonal = settings.optimizer == "muon"
    groups = parameter_groups(model, settings.weight_decay, objective.embedding_rate, orthogonal)
    optimizer = (Muon if orthogonal else torch.optim.AdamW)(groups, lr=settings.learning_rate, fused=True)
    model, optimizer = accelerator.prepare(model, optimizer)
    plain = accelerator.unwrap_model(model)

    state = Progress(step=0, history=[], best=-math.inf, stale=0)
    best: dict[str, Tensor] | None = None
    rows = objective.rows.of_epoch(0)
    per_epoch = math.ceil(len(rows) / settings.batch_size)
    total = settings.steps(len(rows))
    every = max(1, per_epoch // settings.evaluations_per_epoch)
    identity = _identity(rows, settings, seed)
    restored = checkpoints.restore(checkpoint_dir, plain, optimizer.optimizer, identity)
    averaged: dict[str, Tensor] | None = None
    if restored is not None:
        state, best, averaged = restored
        if averaged is not None:
            place = {name: value.device for name, value in plain.state_dict().items()}
            averaged = {name: value.to(place[name]) for name, value in averaged.items()}
        progress(f"resuming at step {state.step}/{total}")
    resumed_from = state.step
    if len(set(distributed.gather((identity, resumed_from)))) > 1:
        raise LwcError(
            "the processes of this run do not see the same data or the same checkpoints",
            "all hosts need the same --runs folder on a shared file system",
        )

    epoch, order = -1, []
    saved = time.monotonic()
    with fused_attention(*([plain] if objective.fused else [])):
        while state.step < total and not state.stopped:
            if state.step // per_epoch != epoch:
                epoch = state.step // per_epoch
                rows = objective.rows.of_epoch(epoch)
                drawn = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
                order = row_groups(rows.encoded, settings.batch_size, length_bucketed=True, seed=drawn)
            mine, weight = distributed.share(order[state.step % per_epoch])
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(state.step, total, settings) * group["scale"]
            model.train(settings.dropout)  # transformers do nothing else in train mode
            batch = pad(rows.encoded, mine, rows.labels).to(accelerator.device)
            # A wrapped model exchanges its buffers in the pass forward.
            with distributed.noticing_loss(), torch.autocast(accelerator.device.type, torch.bfloat16, enabled=mixed):
                loss = objective.loss(model, batch)
            value = _step(accelerator, model, optimizer, loss, weight, settings.max_grad_norm)
            state.step += 1
            if objective.average:
                decay = min(objective.average, (1 + state.step) / (10 + state.step))
                averaged = _averaged(averaged, plain, decay)
            shown = f" · {_headline(state.history[-1])}" if state.history else ""
            progress(Step(state.step, total, f"loss {value:.3f}{shown}"))
            if state.step % every == 0 or state.step == total:
                with _weights(plain, averaged):
                    best = _evaluate(plain, state, best, value, settings.patience, objective.judge)
            if state.step < total and _checkpoint_due(settings, state.step, saved):
                checkpoints.save(checkpoint_dir, plain, optimizer.optimizer, state, best, averaged, identity)
                saved = time.monotonic()
    if best is not None:
        plain.load_state_dict(best)
    plain.eval()
    chosen = max(state.history, key=lambda entry: entry["score"])
    progress(f"{state.step} steps, kept the weights of step {int(chosen['step'])}: validation {_headline(chosen)}")
    return TrainingResult(
        steps=state.step,
        validation={name: value for name, value in chosen.items() if name not in ("step", "train_loss")},
        best_step=int(chosen["step"]),
        history=state.history,
        seconds=time.monotonic() - started,
        resumed_from=resumed_from,
    )


def _checkpoint_due(settings: Optimization, step: int, saved: float) -> bool:
    """Whether ``step`` ends in a checkpoint. By the clock, the main process's decides for all."""
    if settings.checkpoint_every is None:
        return distributed.broadcast(time.monotonic() - saved >= SECONDS_BETWEEN_CHECKPOINTS)
    return step % settings.checkpoint_every == 0


def _headline(entry: dict[str, float]) -> str:
    """The judge's first figure."""
    name = next(name for name in entry if name not in ("step", "train_loss"))
    return f"{name.replace('macro_f1', 'macro-F1').replace('_', ' ')} {entry[name]:.3f}"


def _accelerator() -> Accelerator:
    distributed.join()
    together = distributed.count() > 1
    # The graph is the same in every step, and the weights that no loss reaches are left out of it without a search.
    ddp = DistributedDataParallelKwargs(static_graph=True)
    # Accelerate has one precision a process, and train and recover may differ: autocast is our own.
    return Accelerator(mixed_precision="no", cpu=not distributed.on_gpu(), kwargs_handlers=[ddp] if together else [])


def _averaged(average: dict[str, Tensor] | None, model: Model, decay: float) -> dict[str, Tensor]:
    if average is None:
        return copied(model)
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    for name, value in model.state_dict().items():
        if value.is_floating_point() and name not in frozen:
            average[name].lerp_(value.detach(), 1 - decay)
    return average


@contextmanager
def _weights(model: Model, weights: dict[str, Tensor] | None) -> Iterator[None]:
    """Put other weights in for a while; None leaves the model as it is."""
    if weights is None:
        yield
        return
    own = copied(model)
    model.load_state_dict(weights)
    try:
        yield
    finally:
        model.load_state_dict(own)


def _step(
    accelerator: Accelerator, model: Model, optimizer: AcceleratedOptimizer, loss: Tensor, weight: float, most: float
) -> float:
    """One step down the gradient, its norm at most ``most``; returns the loss of all processes.

    ``loss`` is this process's, and ``weight`` its share.
    """
    processes = distributed.count()
    value = distributed.total(float(loss.detach()) * weight)
    if not math.isfinite(value):
        raise Diverged(f"the training loss became {value}", "lower the learning rate, or use precision: fp32")
    optimizer.zero_grad()
    with distributed.noticing_loss():
        # The gradients of the processes are averaged, where their sum is wanted.
        accelerator.backward(loss if processes == 1 else loss * (weight * processes))
    accelerator.clip_grad_norm_(model.parameters(), most)
    optimizer.step()
    return value


def _evaluate(
    model: Model, state: Progress, best: dict[str, Tensor] | None, loss: float, patience: int, judge: Judge
) -> dict[str, Tensor] | None:
    figures = distributed.broadcast(judge(model))  # one figure decides for all
    score = figures["score"]
    if not math.isfinite(score):
        raise Diverged(f"the validation score became {score}", "lower the learning rate, or use precision: fp32")
    state.history.append({"step": state.step, **figures, "train_loss": loss})
    if score > state.best:
        state.best, state.stale = score, 0
        return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    state.stale += 1
    state.stopped = state.stale >= patience
    return best
