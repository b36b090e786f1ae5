"""What one process and several do alike: `python shared_work.py JOB FOLDER`; the main process writes FOLDER/JOB.json."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from tiny_models import learnable, tiny

from lwc import distributed
from lwc.losses import label_loss
from lwc.models.batches import Batch
from lwc.recipe import Optimization
from lwc.training import fit

STEPS = 50
# 21 rows in batches of 8: the last batch of an epoch has 5. An evaluation, and with it a loss, after every step.
SETTINGS = Optimization(
    epochs=STEPS / 3, batch_size=8, learning_rate=1e-3, checkpoint_every=10, patience=999, evaluations_per_epoch=3,
    precision="fp32",
)  # fmt: skip


def classify(model: Any, batch: Batch) -> torch.Tensor:
    return label_loss(model(**batch.inputs).logits, batch.labels)


def trained(folder: Path, rows: int = 21, loss: Any = classify, dropout: float = 0.0, **changes: Any) -> dict[str, Any]:
    """The loss of every step, what validation says, and the weights at the end."""
    model = tiny("bert", blocks=2, num_labels=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    data, labels = learnable(rows, 0)
    held, held_labels = learnable(11, 1)
    settings = SETTINGS.model_copy(update=changes)
    result = fit(model, data, labels, held, held_labels, settings, loss, 3, folder / "state", lambda line: None)
    assert result.steps == STEPS
    weights = {name: value.flatten().tolist() for name, value in model.state_dict().items()}
    return {"history": result.history, "resumed_from": result.resumed_from, "weights": weights}


def train(folder: Path) -> dict[str, Any]:
    return trained(folder)


def train_few(folder: Path) -> dict[str, Any]:
    """A last batch of one row: fewer than there are processes."""
    return trained(folder, rows=17)


def train_with_dropout(folder: Path) -> dict[str, Any]:
    return trained(folder, dropout=0.2)


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


JOBS = {job.__name__: job for job in (train, train_few, train_with_dropout, killed)}


def run(job: str, folder: Path) -> None:
    found = JOBS[job](folder)
    if distributed.is_main():
        (folder / f"{job}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        run(sys.argv[1], Path(sys.argv[2]))
    except distributed.PeerLost as lost:
        sys.exit(lost.exit_code)
