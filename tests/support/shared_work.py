"""What one process and several do alike: `python shared_work.py FOLDER JOB…`; the main one writes FOLDER/JOB.json."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import histories
import numpy as np
import torch
from judged import judged
from planted import SCORERS
from taught import live_teacher, recovery_loss
from tiny_models import learnable, tiny, tokens
from torch.nn.parallel import DistributedDataParallel

from lwc.core import distributed
from lwc.core.errors import Diverged
from lwc.importance.score import Trial, score_blocks
from lwc.models.batches import Batch, batches
from lwc.models.families import family_of
from lwc.models.losses import label_loss
from lwc.models.surgery import remove_blocks
from lwc.recipe import Optimization, Recovery, Score
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.model import build
from lwc.tasks.next_item.rows import train_rows
from lwc.tasks.next_item.task import TASK as NEXT_ITEM
from lwc.tasks.task import Rows
from lwc.training.distillation import matched_blocks
from lwc.training.loop import Objective, fit
from lwc.training.teacher import BlockOutputs

STEPS = 50
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# 21 rows in batches of 8: the last batch of an epoch has 5. An evaluation, and with it a loss, after every step.
SETTINGS = Optimization(
    epochs=STEPS / 3, batch_size=8, learning_rate=1e-3, checkpoint_every=10, patience=999, evaluations_per_epoch=3,
    precision="fp32",
)  # fmt: skip


def classify(model: Any, batch: Batch) -> torch.Tensor:
    return label_loss(model(**batch.inputs).logits, batch.labels)


def trained(folder: Path, rows: int = 21, loss: Any = classify, dropout: float = 0.0, **changes: Any) -> dict[str, Any]:
    """The loss of every step, what validation says, and the weights at the end."""
    still = dict.fromkeys(STILL, dropout)
    model = tiny("bert", blocks=2, num_labels=2, **still)
    data, labels = learnable(rows, 0)
    held, held_labels = learnable(11, 1)
    settings = SETTINGS.model_copy(update=changes)
    objective = Objective(Rows(data, labels), loss, judged(held, held_labels))
    result = fit(model, objective, settings, 3, folder / "state", lambda line: None)
    assert result.steps == STEPS
    weights = {name: value.flatten().tolist() for name, value in model.state_dict().items()}
    return {"history": result.history, "resumed_from": result.resumed_from, "weights": weights}


def train(folder: Path) -> dict[str, Any]:
    return trained(folder / "train")


def train_few(folder: Path) -> dict[str, Any]:
    """A last batch of one row: fewer than there are processes."""
    return trained(folder / "few", rows=17)


def train_with_dropout(folder: Path) -> dict[str, Any]:
    return trained(folder / "dropout", dropout=0.2)


def killed(folder: Path) -> dict[str, Any]:
    """As `train_with_dropout`, but the second process is killed in step 27 of the first turn."""
    steps = 0

    def loss(model: Any, batch: Batch) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == 27 and distributed.rank() == 1 and not (folder / "turn").exists():
            (folder / "turn").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return classify(model, batch)

    return trained(folder, loss=loss, dropout=0.2)


def recover(folder: Path) -> dict[str, Any]:
    """Recovery from the uncut model by every loss there is; three of them are ratios of sums over a batch."""
    teacher = tiny("bert", num_labels=2, **STILL)
    student = remove_blocks(teacher, family_of(teacher), {1, 2})
    ask = live_teacher(teacher, matched_blocks([0, 3], 4), attention=True)
    weights = {"logits_weight": 1.0, "hidden_weight": 1.0, "attention_weight": 0.5, "label_weight": 0.3}
    settings = Recovery(**{**SETTINGS.model_dump(), **weights, "epochs": 8.0})
    data, labels = learnable(21, 0)
    held, held_labels = learnable(11, 1)
    with BlockOutputs(student, range(2)) as capture:

        def loss(model: Any, batch: Batch) -> torch.Tensor:
            return recovery_loss(model, ask, settings, capture, batch)

        objective = Objective(Rows(data, labels), loss, judged(held, held_labels), average=0.9, fused=False)
        result = fit(student, objective, settings, 3, folder / "recovery", lambda line: None)
    return {"history": result.history}


def next_item(folder: Path) -> dict[str, Any]:
    """A recommender: a loss that is a ratio of sums over the real positions of a batch."""
    recipe = histories.recipe(Path("shop.csv"))
    items = Catalogue(tuple(map(histories.item, range(histories.ITEMS))), (1,) * histories.ITEMS)
    lengths = [2 + row % 6 for row in range(21)]
    chains = [[(row * 3 + step) % histories.ITEMS for step in range(length)] for row, length in enumerate(lengths)]
    model = build(recipe.model, len(items), seed=3)  # type: ignore[arg-type]

    def loss(model: Any, batch: Batch) -> torch.Tensor:
        return NEXT_ITEM.loss(recipe, items, model, model(**NEXT_ITEM.inputs(batch)), batch)

    objective = Objective(train_rows_of(chains), loss, lambda _: {"score": 0.0})
    settings = SETTINGS.model_copy(update={"learning_rate": 1e-2})
    result = fit(model, objective, settings, 3, folder / "items", lambda line: None)
    return {"history": result.history}


def train_rows_of(chains: list[list[int]]) -> Rows:
    return Rows(train_rows(chains, 8), None)


def score(folder: Path) -> dict[str, Any]:
    """Every method that measures the model itself, on three batches; a fusion learned from cut models, and trust."""
    model = tiny("bert")
    calibration = batches(tokens(11), np.arange(11) % 3, 4, length_bucketed=True, seed=None)
    cheaper: dict[str, dict[str, int]] = {"mutual_information": {"permutations": 2}, "conductance": {"steps": 4}}
    methods = [{"method": name, **cheaper.get(name, {})} for name in SCORERS if name != "llama_profile"]
    asked = {"methods": methods, "fusion": "learned"}
    config = Score.model_validate({**asked, "trust": {"subsets": 20, "resamples": 5, "seeds": 3}})
    return score_blocks(model, family_of(model), calibration, config, trial=Trial(calibration[:2]))


def gather(folder: Path) -> dict[str, Any]:
    """What the processes tell each other."""
    return {
        "spread": distributed.spread(range(5), lambda item: item * item),
        "broadcast": distributed.broadcast(distributed.rank()),
        "from_main": distributed.from_main(lambda: [distributed.rank(), distributed.count()]),
        "gather": distributed.gather(distributed.rank()),
        "total": distributed.total(0.5),
    }


def left(folder: Path) -> dict[str, Any]:
    """The wrapped models that outlive the common work, when it ends well and when it fails."""

    def wrapped() -> int:
        return sum(isinstance(one, DistributedDataParallel) for one in gc.get_objects())

    def fails(model: Any, batch: Batch) -> torch.Tensor:
        return classify(model, batch) * float("nan")

    gc.disable()
    try:
        with distributed.leaving_on_error():
            trained(folder, loss=fails)
    except Diverged:
        return {"left": wrapped(), "processes": distributed.count()}
    raise AssertionError("it must diverge")


JOBS = {
    job.__name__: job for job in (train, train_few, train_with_dropout, killed, recover, next_item, score, gather, left)
}


def run(job: str, folder: Path) -> None:
    main = distributed.is_main()  # each is by itself after a job that leaves
    found = JOBS[job](folder)
    if main:
        (folder / f"{job}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        for name in sys.argv[2:]:
            run(name, Path(sys.argv[1]))
        distributed.leave()
    except distributed.PeerLost as lost:
        sys.exit(lost.exit_code)
