"""Which items a user takes next."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwc.core import distributed
from lwc.core.errors import ModelError
from lwc.models.batches import Batch, batches
from lwc.models.forward.predict import predict
from lwc.models.types import Model, Output
from lwc.recipe import FromConfig, NextItem, Recipe
from lwc.tasks.endpoint import Endpoint
from lwc.tasks.next_item import ranking
from lwc.tasks.next_item.endpoint import ItemEndpoint
from lwc.tasks.next_item.graph import top_items_graph
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.item_text import cold_vectors, read_texts, text_vectors
from lwc.tasks.next_item.losses import full_softmax, sampled_softmax
from lwc.tasks.next_item.model import PAD, NextItemView, build, encoded, load
from lwc.tasks.next_item.prepare import prepare
from lwc.tasks.next_item.quality import ask
from lwc.tasks.next_item.rows import calibration_rows, train_rows, validation_questions
from lwc.tasks.next_item.splits import load_questions, load_train
from lwc.tasks.task import VALIDATION_BATCH, Checkpoint, Evaluation, Graph, Judge, Measure, Rows, Say

# Real test histories on which the lists of both runtimes are compared.
_PARITY_USERS = 200


def _settings(recipe: Recipe) -> NextItem:
    assert isinstance(recipe.task, NextItem)
    return recipe.task


def _view(model: Model) -> NextItemView:
    """The model itself, which is wrapped where several processes train it."""
    view: object = getattr(model, "module", model)
    assert isinstance(view, NextItemView)
    return view


class NextItemTask:
    """A history of n items asks n − 1 questions: which item comes next. The reader is the `Catalogue`."""

    endpoint: Endpoint = ItemEndpoint()

    def prepare(self, recipe: Recipe, out: Path, scratch: Path, say: Say) -> dict[str, Any]:
        """Histories, questions and catalogue."""
        found = prepare(recipe, _settings(recipe), out, say)
        splits = found["splits"]
        sizes = ", ".join(f"{splits[name]['users']:,} {name}" for name in ("train", "validation", "test"))
        say(f"{sizes} users, {found['items']:,} items")
        return found

    def check(self, recipe: Recipe, data_dir: Path, stages: Collection[str]) -> None:
        """Parity is checked on histories of test users."""
        if "export" in stages:
            _histories(data_dir)

    def start(self, recipe: Recipe, data_dir: Path, warn: Say) -> Checkpoint[Catalogue]:
        """With ``task.text`` item vectors start from their text."""
        assert isinstance(recipe.model, FromConfig)  # the recipe allows no other
        catalogue = Catalogue.read(data_dir / "catalogue.json")
        view = build(recipe.model, len(catalogue), recipe.seed)
        if _settings(recipe).text is not None:
            text = text_vectors(read_texts(data_dir / "texts.parquet"), recipe.model.hidden, recipe.seed)
            with torch.no_grad():
                view.get_input_embeddings().weight[PAD + 1 :] = torch.from_numpy(text)
        return Checkpoint(view, catalogue)

    def trained(self, recipe: Recipe, base: Checkpoint[Catalogue], rows: Rows, data_dir: Path) -> dict[str, Any]:
        """The vectors of cold items are read off their text and the vectors of the trained ones."""
        task, trained, items = _settings(recipe), base.reader.trained, len(base.reader)
        if task.text is not None and trained < items:
            table = base.model.get_input_embeddings().weight
            learnt = table[PAD + 1 : PAD + 1 + trained].detach().cpu().numpy()
            text = text_vectors(read_texts(data_dir / "texts.parquet"), learnt.shape[1], recipe.seed)
            with torch.no_grad():
                table[PAD + 1 + trained :] = torch.from_numpy(cold_vectors(text, learnt)).to(table.device)
        return {"softmax": task.softmax, "items": items, "items_trained": trained}

    def load(self, folder: Path) -> Checkpoint[Catalogue]:
        return Checkpoint(load(folder), Catalogue.read(folder / "catalogue.json"))

    def save(self, checkpoint: Checkpoint[Catalogue], folder: Path) -> None:
        checkpoint.model.save_pretrained(folder, safe_serialization=True)
        checkpoint.reader.write(folder / "catalogue.json")

    def rows(self, recipe: Recipe, reader: Catalogue, data_dir: Path, split: str) -> Rows:
        """Train rows ask at every position, the others after their last item."""
        if split == "train":
            return Rows(train_rows(load_train(data_dir).items, recipe.model.max_length), None)
        if split == "calibration":
            return calibration_rows(recipe, data_dir)
        seen, targets = validation_questions(data_dir, reader.trained)
        return Rows(encoded(seen, recipe.model.max_length), targets)

    def recovery_rows(self, recipe: Recipe, teacher: Checkpoint[Catalogue], data_dir: Path, say: Say) -> Rows:
        return self.rows(recipe, teacher.reader, data_dir, "train")

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Each row without its last item, and where a real item comes next."""
        mask = batch.mask[:, 1:]
        return {"input_ids": batch.inputs["input_ids"][:, :-1], "attention_mask": mask, "positions": mask.bool()}

    def logits(self, model: Model, output: Output, reader: Catalogue) -> Tensor:
        """Over the trained items: cold ones come next in no history, and would only be pushed away."""
        return _view(model).item_logits(output.last_hidden_state)[:, : reader.trained]

    def loss(self, recipe: Recipe, reader: Catalogue, model: Model, output: Output, batch: Batch) -> Tensor:
        """Cross-entropy in nats, mean over all questions of the batch."""
        task, next_items = _settings(recipe), batch.inputs["input_ids"][:, 1:] - PAD - 1
        targets = next_items[batch.mask[:, 1:].bool()]
        view, hidden = _view(model), output.last_hidden_state
        if task.softmax == "full":
            each = full_softmax(view, hidden, targets, reader.trained)
        else:
            each = sampled_softmax(view, hidden, targets, task.negatives, reader.trained)
        count = torch.tensor(float(len(targets)), device=targets.device)
        return each * (count / distributed.by_rows(count, len(batch)))

    def judge(self, recipe: Recipe, reader: Catalogue, data_dir: Path, teacher: Model | None = None) -> Judge:
        """By NDCG@10 among the trained items, as the loss is; with a teacher too."""
        seen, targets = validation_questions(data_dir, reader.trained)
        rows = encoded(seen, recipe.model.max_length)
        asked = batches(rows, targets, VALIDATION_BATCH, length_bucketed=True, seed=None)

        def judge(model: Model) -> dict[str, float]:
            logits = predict(model, asked)
            logits[:, reader.trained :] = -np.inf
            values = ranking.per_question(ranking.ranks(ranking.without_seen(logits, seen), targets))
            found = {name: float(each.mean()) for name, each in values.items()}
            return {**found, "score": found["ndcg_at_10"]}

        return judge

    def ask(self, evaluation: Evaluation) -> Measure:
        return ask(evaluation, _settings(evaluation.recipe))

    def graph(self, recipe: Recipe, checkpoint: Checkpoint[Catalogue], data_dir: Path) -> Graph:
        """Raises `ModelError` where no test user has a history that train knows."""
        histories = _histories(data_dir)
        k = min(_settings(recipe).top_k, len(checkpoint.reader))
        return top_items_graph(_view(checkpoint.model), k, histories, recipe.model.max_length)


def _histories(data_dir: Path) -> list[list[int]]:
    histories = [seen for seen in load_questions(data_dir, "test").seen if seen][:_PARITY_USERS]
    if not histories:
        raise ModelError("no test user has a history that train knows: parity cannot be checked", "use more data")
    return histories


TASK = NextItemTask()
