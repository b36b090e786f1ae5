"""The losses of all positions, and the one call of the training loop that train and recover share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from lwc.core.arrays import Array
from lwc.core.errors import DataError
from lwc.core.store import write_json
from lwc.models.batches import Batch, Encoded, batches
from lwc.models.forward.predict import predict
from lwc.recipe import NextItem, Optimization, Recipe
from lwc.selection.select import check_target
from lwc.tasks.next_item import ranking
from lwc.tasks.next_item.histories import UNKNOWN, Catalogue
from lwc.tasks.next_item.item_text import cold_vectors, read_texts, text_vectors
from lwc.tasks.next_item.model import PAD, NextItemView, build, encoded, save
from lwc.tasks.next_item.splits import Questions, load_questions, load_train
from lwc.training.loop import LossFunction, TrainingResult, fit

Say = Callable[[str], None]


def shifted(batch: Batch) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Inputs without each row's last item, the next items (B, T − 1) as item numbers, and where they are real."""
    ids, mask = batch.inputs["input_ids"], batch.mask
    real = mask[:, 1:].bool()
    return {"input_ids": ids[:, :-1], "attention_mask": mask[:, 1:]}, ids[:, 1:] - PAD - 1, real


def full_softmax(view: NextItemView, hidden: Tensor, targets: Tensor, trained: int) -> Tensor:
    """Mean cross-entropy in nats of the next items (M,) among the ``trained`` items, from hidden states (M, D)."""
    return functional.cross_entropy(view.item_logits(hidden)[:, :trained].float(), targets)


def sampled_softmax(view: NextItemView, hidden: Tensor, targets: Tensor, negatives: int, trained: int) -> Tensor:
    """Cross-entropy against ``negatives`` items drawn uniformly, with replacement, the same for the whole batch.

    Each drawn item stands for V / negatives items, so that exp of the negatives' part is an unbiased estimate of the
    softmax's denominator; its logarithm is not: by Jensen's inequality the loss comes out too low, by
    O(1 / negatives). Uniform draws also show popular items as negatives no more often than others, where the full
    softmax pushes hardest against them (Bengio & Senécal 2008; Yi et al. 2019 correct draws by popularity).
    """
    table = view.get_input_embeddings().weight[PAD + 1 : PAD + 1 + trained]
    drawn = torch.randint(len(table), (negatives,), device=hidden.device)
    right = (hidden * table[targets]).sum(dim=-1, keepdim=True).float()
    wrong = (hidden @ table[drawn].T).float() + math.log((len(table) - 1) / negatives)
    wrong = wrong.masked_fill(drawn[None, :] == targets[:, None], -torch.inf)
    each: Tensor = torch.logsumexp(torch.cat([right, wrong], dim=-1), dim=-1) - right[:, 0]
    return each.mean()


def training_loss(task: NextItem, trained: int) -> LossFunction:
    """The loss over every position of every row: a history of n items asks n − 1 questions.

    The softmax is over the first ``trained`` items: cold ones come next in no history, and would only be pushed away.
    """

    def loss(view: Any, batch: Batch) -> Tensor:
        inputs, targets, real = shifted(batch)
        hidden = view.hidden(**inputs)[real]
        if task.softmax == "full":
            return full_softmax(view, hidden, targets[real], trained)
        return sampled_softmax(view, hidden, targets[real], task.negatives, trained)

    return loss


def answers(view: Any, histories: Sequence[Sequence[int]], items: int, max_length: int, batch_size: int = 64) -> Array:
    """Logits (N, V) after each history; where it is empty, zeros, which rank as the popularity list does."""
    scores: Array = np.zeros((len(histories), items), dtype=np.float32)
    known = [row for row, history in enumerate(histories) if history]
    if known:
        rows = encoded([histories[row] for row in known], max_length)
        scores[known] = predict(view, batches(rows, np.zeros(len(known)), batch_size, length_bucketed=True, seed=None))
    return scores


def answerable(questions: Questions, trained: int) -> list[int]:
    """Questions with a history and a target among the ``trained`` items: those that training can be judged on."""
    return [row for row, target in enumerate(questions.targets) if questions.seen[row] and UNKNOWN < target < trained]


def run_fit(
    view: NextItemView,
    train: Encoded,
    questions: Questions,
    trained: int,
    settings: Optimization,
    loss: LossFunction,
    seed: int,
    scratch: Path,
    progress: Say,
    average: float = 0.0,
    embedding_rate: float = 1.0,
) -> TrainingResult:
    """Train in place; the weights kept are those with the best NDCG@10 on the validation questions.

    Judged among the ``trained`` items, as the loss is.

    Raises:
        DataError: no validation question can be answered.
    """
    rows = answerable(questions, trained)
    if not rows:
        raise DataError(
            "no validation question has both a history and an answer that train knows",
            "use more data, or another split",
        )
    seen, targets = [questions.seen[row] for row in rows], questions.targets[rows]

    asked = batches(encoded(seen, train.max_length - 1), targets, 64, length_bucketed=True, seed=None)

    def judge(model: Any) -> dict[str, float]:
        logits = predict(model, asked)
        logits[:, trained:] = -np.inf
        values = ranking.per_question(ranking.ranks(ranking.without_seen(logits, seen), targets))
        found = {name: float(each.mean()) for name, each in values.items()}
        return {**found, "score": found["ndcg_at_10"]}

    return fit(
        view,
        train,
        np.zeros(len(train), dtype=np.int64),
        judge,
        settings,
        loss,
        seed,
        scratch / "checkpoints",
        progress,
        average,
        embedding_rate,
    )


def train_rows(histories: Sequence[Sequence[int]], max_length: int) -> Encoded:
    """Train histories as rows of up to ``max_length`` inputs and the item after them; longer ones in several rows.

    Rows do not overlap in what they ask: each position of a history is asked once.
    """
    rows = []
    for history in histories:
        end = len(history)
        while end >= 2:
            start = max(0, end - max_length - 1)
            rows.append(history[start:end])
            end = start + 1
    return encoded(rows, max_length + 1)


def train_base(recipe: Recipe, task: NextItem, data_dir: Path, out: Path, scratch: Path, progress: Say) -> None:
    """The base model on the train histories: ``model/``, ``model/catalogue.json`` and ``metrics.json``.

    With ``task.text`` item vectors start from their text, and those of cold items are read off their text in the end.
    """
    assert recipe.model.kind == "config"  # the recipe allows no other
    catalogue = Catalogue.read(data_dir / "catalogue.json")
    view = build(recipe.model, len(catalogue), recipe.seed)
    check_target(recipe, view)
    rows = train_rows(load_train(data_dir).items, recipe.model.max_length)
    questions = load_questions(data_dir, "validation")
    table, trained = view.get_input_embeddings().weight, catalogue.trained
    text = None
    if task.text is not None:
        text = text_vectors(read_texts(data_dir / "texts.parquet"), recipe.model.hidden, recipe.seed)
        with torch.no_grad():
            table[PAD + 1 :] = torch.from_numpy(text)
    loss = training_loss(task, trained)
    result = run_fit(view, rows, questions, trained, recipe.train, loss, recipe.seed, scratch, progress)
    if text is not None and trained < len(catalogue):
        learnt = table[PAD + 1 : PAD + 1 + trained].detach().cpu().numpy()
        with torch.no_grad():
            table[PAD + 1 + trained :] = torch.from_numpy(cold_vectors(text, learnt)).to(table.device)
    save(view, out / "model")
    catalogue.write(out / "model" / "catalogue.json")
    write_json(
        out / "metrics.json",
        {
            **asdict(result),
            "n_train": len(rows),
            "softmax": task.softmax,
            "items": len(catalogue),
            "items_trained": trained,
        },
    )
