"""The uncut model teaches the cut one, at every position of every train history."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lwc.core.store import write_json
from lwc.models.batches import Batch, batches
from lwc.models.families import block_list, family_of
from lwc.models.losses import distillation_loss, hidden_loss
from lwc.models.placement import placed
from lwc.recipe import NextItem, Recipe, Recovery
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.model import NextItemView, encoded, load, save
from lwc.tasks.next_item.splits import load_questions, load_train
from lwc.tasks.next_item.training import Say, answerable, run_fit, shifted, train_rows, training_loss
from lwc.training.distillation import healed, matched_blocks, shortened, taught_by_teacher
from lwc.training.loop import LossFunction, TrainingResult
from lwc.training.teacher import BlockOutputs


def recovery_loss(
    teacher: NextItemView,
    student_blocks: BlockOutputs,
    teacher_blocks: BlockOutputs,
    settings: Recovery,
    task: NextItem,
    trained: int,
) -> LossFunction:
    """Weighted sum of logit distillation and hidden-state distance over all real positions, and the training loss.

    Logits as in Hinton et al. 2015, hidden states as in Sun et al. 2019, both from `lwc.models.losses`. The teacher
    always answers over all ``trained`` items: it is asked for whole distributions.
    """
    own_loss = training_loss(task, trained)

    def loss(view: Any, batch: Batch) -> Tensor:
        inputs, _, real = shifted(batch)
        total = torch.zeros((), device=batch.labels.device)
        if taught_by_teacher(settings):
            student_blocks.take()
            mine = view.hidden(**inputs)
            states = student_blocks.take()
            with torch.no_grad():
                theirs = teacher.hidden(**inputs)
                wanted = teacher_blocks.take()
                answers = teacher.item_logits(theirs[real])[:, :trained].float()
            given = view.item_logits(mine[real])[:, :trained].float()
            total = total + settings.logits_weight * distillation_loss(given, answers, settings.temperature)
            if settings.hidden_weight:
                pairs = zip(states, wanted, strict=True)
                mask = inputs["attention_mask"]
                apart = [hidden_loss(one.float(), other.float(), mask) for one, other in pairs]
                total = total + settings.hidden_weight * torch.stack(apart).mean()
        if settings.label_weight:
            total = total + settings.label_weight * own_loss(view, batch)
        return total

    return loss


class NextItemRecoverer:
    """Recovery distillation from one uncut model, of as many cut models as are asked for."""

    def __init__(self, recipe: Recipe, task: NextItem, data_dir: Path, teacher: NextItemView) -> None:
        self._recipe, self._task, self._teacher = recipe, task, teacher.eval()
        placed(teacher)
        self.train = train_rows(load_train(data_dir).items, recipe.model.max_length)
        self._questions = load_questions(data_dir, "validation")
        self._trained = Catalogue.read(data_dir / "catalogue.json").trained

    def run(
        self, student: NextItemView, kept: Sequence[int], settings: Recovery, scratch: Path, progress: Say
    ) -> TrainingResult:
        """Recover ``student``, which holds the teacher's blocks ``kept``, in place."""
        matched = matched_blocks(kept, len(block_list(self._teacher, family_of(self._teacher))))
        if settings.embedding_rate == 0:
            student.get_input_embeddings().requires_grad_(False)
        with (
            BlockOutputs(student, range(len(kept))) as student_blocks,
            BlockOutputs(self._teacher, matched) as teacher_blocks,
        ):
            result = run_fit(
                student,
                self.train,
                self._questions,
                self._trained,
                settings,
                recovery_loss(self._teacher, student_blocks, teacher_blocks, settings, self._task, self._trained),
                self._recipe.seed,
                scratch,
                progress,
                settings.average,
                settings.embedding_rate,
            )
        student.requires_grad_(True)
        return result

    def after(self, removed: Collection[int], steps: int, scratch: Path, progress: Say) -> dict[str, float]:
        """What the model cut by ``removed`` comes to after ``steps`` steps of recovery, see `healed`."""
        rows = answerable(self._questions, self._trained)
        seen, length = [self._questions.seen[row] for row in rows], self._recipe.model.max_length
        asked = batches(encoded(seen, length), self._questions.targets[rows], 64, length_bucketed=True, seed=None)
        short = shortened(self._recipe.recover, len(self.train), steps)

        def heal(student: Any, kept: list[int], work: Path) -> TrainingResult:
            return self.run(student, kept, short, work, progress)

        return healed(self._teacher, removed, steps, asked, scratch, heal)


def recover(
    recipe: Recipe,
    task: NextItem,
    data_dir: Path,
    teacher_dir: Path,
    student_dir: Path,
    kept: Sequence[int],
    out: Path,
    scratch: Path,
    progress: Say,
) -> None:
    """Recovery of the model cut to blocks ``kept``; writes ``model/``, its catalogue inside, and ``metrics.json``."""
    teacher, student = load(teacher_dir / "model"), load(student_dir / "model")
    recoverer = NextItemRecoverer(recipe, task, data_dir, teacher)
    result = recoverer.run(student, kept, recipe.recover, scratch, progress)
    save(student.to("cpu"), out / "model")
    Catalogue.read(student_dir / "model" / "catalogue.json").write(out / "model" / "catalogue.json")
    matched = matched_blocks(kept, len(block_list(teacher, family_of(teacher))))
    write_json(
        out / "metrics.json", {**asdict(result), "n_train": len(recoverer.train), "matched_teacher_blocks": matched}
    )
