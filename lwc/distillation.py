"""The recover stage: the uncut model teaches the cut one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lwc.arrays import Array
from lwc.artifacts import write_json
from lwc.data.splits import load_split
from lwc.importance.ablation import loss_and_accuracy
from lwc.losses import distillation_loss, hidden_loss, label_loss
from lwc.models.augment import Windows
from lwc.models.batches import Batch, batches, encode
from lwc.models.families import block_list, family_of, hidden_states
from lwc.models.load import load_classifier, load_tokenizer, save_checkpoint
from lwc.models.surgery import remove_blocks
from lwc.recipe import Recipe, Recovery
from lwc.training import TrainingResult, fit, predict


def matched_blocks(kept: Sequence[int], count: int) -> list[int]:
    """For each kept block, the teacher block whose output it should give.

    The student's i-th block stands in for itself and for the removed blocks after it: it is matched with the
    teacher block just before the next kept one, the last with the teacher's last.
    """
    return [following - 1 for following in [*kept[1:], count]]


class BlockOutputs:
    """Keeps the outputs (B, T, D) of chosen blocks of a model while it is entered."""

    def __init__(self, model: Any, blocks: Sequence[int]) -> None:
        modules = block_list(model, family_of(model))
        self._modules = [modules[index] for index in blocks]
        self._stack = ExitStack()
        # One slot a block, overwritten by every pass: hooks also see evaluation, which nobody takes from.
        self._outputs: dict[int, Tensor] = {}

    def __enter__(self) -> BlockOutputs:
        for slot, module in enumerate(self._modules):
            handle = module.register_forward_hook(partial(self._keep, slot))
            self._stack.callback(handle.remove)
        return self

    def _keep(self, slot: int, _module: nn.Module, _inputs: Any, output: Any) -> None:
        self._outputs[slot] = hidden_states(output)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self) -> list[Tensor]:
        """The outputs of the last forward pass, in the order of the blocks."""
        taken, self._outputs = self._outputs, {}
        return [taken[slot] for slot in sorted(taken)]


@dataclass(frozen=True)
class Taught:
    """What the teacher says of a batch: logits (B, C) and the matched blocks' hidden states (B, T, D)."""

    logits: Tensor
    hidden: list[Tensor]


class Teacher:
    """The uncut model, asked as it goes: the rows differ in every epoch where they are augmented."""

    def __init__(self, model: Any, blocks: Sequence[int]) -> None:
        self._model, self._capture = model.eval(), BlockOutputs(model, blocks)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Taught:
        with self._capture:
            logits = self._model(**batch.inputs).logits.float()
            return Taught(logits, [output.float() for output in self._capture.take()])


def recovery_loss(student: Any, teacher: Teacher, settings: Recovery, capture: BlockOutputs, batch: Batch) -> Tensor:
    """Weighted sum of logit distillation, hidden-state distance (mean over kept blocks) and label loss."""
    taught = teacher(batch)
    capture.take()
    logits = student(**batch.inputs).logits.float()
    outputs = capture.take()
    loss = settings.logits_weight * distillation_loss(logits, taught.logits, settings.temperature)
    if settings.hidden_weight:
        pairs = zip(outputs, taught.hidden, strict=True)
        distances = [hidden_loss(mine.float(), theirs, batch.mask) for mine, theirs in pairs]
        loss = loss + settings.hidden_weight * torch.stack(distances).mean()
    if settings.label_weight:
        loss = loss + settings.label_weight * label_loss(logits, batch.labels)
    return loss


class Recoverer:
    """Recovery distillation from one uncut model on one corpus, of as many cut models as are asked for.

    Logits as in Hinton et al. 2015; hidden states as in Sun et al. 2019 (patient distillation), matched by
    `matched_blocks` and measured in units of the teacher's own size. The weights kept are those closest to the
    teacher on the validation split (KL of the answers): with a few hundred rows that tells more than their macro-F1.
    """

    def __init__(self, recipe: Recipe, data_dir: Path, teacher: Any, tokenizer: Any) -> None:
        self._recipe, self._teacher = recipe, teacher
        train, validation = load_split(data_dir, "train"), load_split(data_dir, "validation")
        length = recipe.model.max_length
        self.train, self._train_labels = encode(tokenizer, train.texts, length), train.labels
        self._windows = Windows(tokenizer, train.texts, self.train, recipe.recover.augment, recipe.seed)
        self._held_out, self._labels = encode(tokenizer, validation.texts, length), validation.labels
        self.validation = batches(self._held_out, self._labels, 64, length_bucketed=True, seed=None)
        if torch.cuda.is_available():
            teacher.to("cuda")
        self._target = torch.from_numpy(predict(teacher, self.validation))

    def _closeness(self, logits: Array) -> float:
        return -float(distillation_loss(torch.from_numpy(logits), self._target, 1.0))

    def run(
        self, student: Any, kept: Sequence[int], settings: Recovery, scratch: Path, progress: Callable[[str], None]
    ) -> TrainingResult:
        """Recover ``student``, which holds the teacher's blocks ``kept``, in place."""
        teacher = Teacher(self._teacher, matched_blocks(kept, len(block_list(self._teacher, family_of(self._teacher)))))
        if settings.freeze_embeddings:
            student.get_input_embeddings().requires_grad_(False)
        with BlockOutputs(student, range(len(kept))) as capture:
            result = fit(
                student,
                self._windows.epoch if settings.augment else self.train,
                self._train_labels,
                self._held_out,
                self._labels,
                settings,
                lambda model, batch: recovery_loss(model, teacher, settings, capture, batch),
                self._recipe.seed,
                scratch,
                progress,
                self._closeness,
                settings.average,
            )
        student.requires_grad_(True)
        return result

    def loss_after(self, removed: Collection[int], steps: int, scratch: Path, progress: Callable[[str], None]) -> float:
        """Validation cross-entropy (nats) of the model cut by ``removed`` after ``steps`` steps of recovery."""
        settings = self._recipe.recover
        per_epoch = math.ceil(len(self.train) / settings.batch_size)
        short = settings.model_copy(update={"epochs": steps / per_epoch, "checkpoint_every": steps + 1})
        family = family_of(self._teacher)
        kept = [block for block in range(len(block_list(self._teacher, family))) if block not in removed]
        student = remove_blocks(self._teacher, family, removed)
        self.run(student, kept, short, scratch, progress)
        return loss_and_accuracy(student.to("cpu"), self.validation)[0]


def recover(
    recipe: Recipe,
    data_dir: Path,
    teacher_dir: Path,
    student_dir: Path,
    selection: Mapping[str, Any],
    out: Path,
    scratch: Path,
    progress: Callable[[str], None],
) -> None:
    """Recovery of the cut model on the train split; writes ``model/`` and ``metrics.json``."""
    teacher, student = load_classifier(teacher_dir / "model"), load_classifier(student_dir / "model")
    tokenizer = load_tokenizer(student_dir / "model")
    recoverer = Recoverer(recipe, data_dir, teacher, tokenizer)
    kept = [int(block) for block in selection["kept"]]
    result = recoverer.run(student, kept, recipe.recover, scratch / "checkpoints", progress)
    save_checkpoint(student, tokenizer, out / "model")
    matched = matched_blocks(kept, int(selection["blocks_before"]))
    write_json(
        out / "metrics.json", {**asdict(result), "n_train": len(recoverer.train), "matched_teacher_blocks": matched}
    )
