"""Recovery distillation: the uncut model teaches the cut one."""

from __future__ import annotations

import gc
import hashlib
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from lwc.core import distributed
from lwc.core.errors import Diverged
from lwc.core.machine import precision_here
from lwc.core.store import read_json, write_json
from lwc.models.attention import fused_attention
from lwc.models.batches import Batch, pad, row_groups
from lwc.models.families import block_list, family_of
from lwc.models.forward.first_token import first_token_alone
from lwc.models.forward.kept import answers_folder
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.losses import answer_distance, attention_loss, hidden_loss
from lwc.models.placement import device_of, placed
from lwc.models.surgery import remove_blocks
from lwc.models.types import M, Model, Output
from lwc.recipe import Recovery
from lwc.tasks.task import Judge, Reader, Rows, Say, Task
from lwc.training.linear_start import start_linearly
from lwc.training.loop import Objective, TrainingResult, fit
from lwc.training.teacher import (
    BlockOutputs,
    LiveTeacher,
    RememberedTeacher,
    Teacher,
    attention_maps,
    store_answers,
    stored_bytes,
)

# Teacher answers are kept on disk by themselves up to this size: more would fill a laptop's disk unasked.
_MOST_STORED = 8 << 30
# Share of the free disk that answers for several cuts may take: they go when the last of these is made.
_MOST_REMEMBERED = 0.25
# Train rows that the linear start reads: 80,000 tokens of the first run, where its largest fit has 1,537 unknowns.
_START_ROWS = 1024


def matched_blocks(kept: Sequence[int], count: int) -> list[int]:
    """For each kept block, the teacher block whose output it should give.

    The student's i-th block stands in for itself and for the removed blocks after it: it is matched with the
    teacher block just before the next kept one, the last with the teacher's last.
    """
    return [following - 1 for following in [*kept[1:], count]]


def taught_by_teacher(settings: Recovery) -> bool:
    """Whether the loss uses the teacher's answers."""
    return settings.logits_weight + settings.hidden_weight + settings.attention_weight > 0


@dataclass(frozen=True)
class Lessons:
    """How every cut of one base is taught: by the task, with its reader.

    ``label_loss``: model, its output and the batch → the mean loss on the labels, a scalar.

    Logits as in Hinton et al. 2015; hidden states as in Sun et al. 2019 (patient distillation), matched by
    `matched_blocks` and measured in units of the teacher's own size.
    """

    task: Task
    reader: Reader
    label_loss: Callable[[Model, Output, Batch], Tensor]

    def output(self, model: Model, inputs: Mapping[str, Tensor], attention: bool) -> Output:
        """One pass forward in training."""
        return model(**inputs, **({"output_attentions": True} if attention else {}))

    def logits(self, model: Model, output: Output) -> Tensor:
        """What recovery compares of a pass forward, in float32."""
        return self.task.logits(model, output, self.reader).float()

    def answers(self, model: Model, batch: Batch, attention: bool = False) -> tuple[Tensor, Output]:
        """Logits of a batch that recovery compares, and the model's whole output."""
        output = self.output(model, self.task.inputs(batch), attention)
        return self.logits(model, output), output

    def loss(self, student: Model, batch: Batch, teacher: Teacher, settings: Recovery, capture: BlockOutputs) -> Tensor:
        """Weighted sum of logit distillation, hidden-state and attention distance (means over kept blocks), label loss.

        The teacher is not asked where nothing of it is wanted.
        """
        capture.take()
        attention = settings.attention_weight > 0
        inputs = self.task.inputs(batch)
        output = self.output(student, inputs, attention)
        outputs, mask = capture.take(), inputs["attention_mask"]
        loss = torch.zeros((), device=mask.device)
        whole = partial(distributed.by_rows, rows=len(batch))
        if taught_by_teacher(settings):
            taught = teacher(batch)
            apart = answer_distance(self.logits(student, output), taught.logits, mask, settings.temperature, whole)
            loss = loss + settings.logits_weight * apart
            if settings.hidden_weight:
                pairs = zip(outputs, taught.hidden, strict=True)
                # The last block may have computed the first token alone.
                distances = [
                    hidden_loss(mine.float(), theirs, mask[:, : mine.shape[1]], whole) for mine, theirs in pairs
                ]
                loss = loss + settings.hidden_weight * torch.stack(distances).mean()
            if attention:
                plain = getattr(student, "module", student)  # wrapped where several processes train it
                maps = attention_maps(output, range(len(taught.attention)), plain.config.model_type)
                pairs = zip(maps, taught.attention, strict=True)
                distances = [attention_loss(*pair, mask, whole) for pair in pairs]
                loss = loss + settings.attention_weight * torch.stack(distances).mean()
        if settings.label_weight:
            loss = loss + settings.label_weight * self.label_loss(student, output, batch)
        return loss


@dataclass(frozen=True)
class Corpus:
    """What cut models learn from and are judged on.

    Args:
        train: rows that the teacher answers.
        validation: batches on which a loss is measured.
        judge: the teacher, or None where the loss does not use it → how a model in training is judged.
    """

    train: Rows
    validation: Sequence[Batch]
    judge: Callable[[Model | None], Judge]


class Recoverer:
    """Recovery distillation from one uncut model on one corpus, of as many cut models as are asked for.

    The weights kept are those that the corpus's judge scores highest.
    """

    def __init__(
        self,
        lessons: Lessons,
        corpus: Corpus,
        teacher: Model,
        settings: Recovery,
        seed: int,
        answers: Path | None = None,
    ) -> None:
        self._lessons, self._teacher, self._settings, self._seed = lessons, teacher, settings, seed
        # A GPU answers sooner than a disk, and each of several processes reads batches of its own.
        live = distributed.on_gpu() or distributed.count() > 1 or settings.cache_teacher == "never"
        self._answers = None if answers is None or live else answers_folder(answers, teacher)
        self.train, self.validation = corpus.train, corpus.validation
        self.started: list[dict[str, float]] = []
        with fused_attention(placed(teacher)):  # whole attention maps of long texts would not fit
            self._judge = corpus.judge(teacher if taught_by_teacher(settings) else None)

    def _teacher_for(self, kept: Sequence[int], settings: Recovery, scratch: Path, progress: Say) -> Teacher:
        blocks = matched_blocks(kept, len(block_list(self._teacher, family_of(self._teacher))))
        if settings.hidden_weight == 0 and settings.attention_weight == 0:
            blocks = []
        ask = LiveTeacher(self._teacher, blocks, self._lessons.answers, attention=settings.attention_weight > 0)
        # Logits of every token over a vocabulary fill any disk.
        keepable = settings.attention_weight == 0 and self.train.labels is not None
        narrow = settings.last_block == "read"
        plain = keepable and settings.augment == 0 and taught_by_teacher(settings) and not narrow
        size = stored_bytes(self.train.encoded, len(blocks), int(self._teacher.config.hidden_size))
        # Asking as it goes is shared by the processes, storing is not.
        repeated = settings.epochs >= 2 * distributed.count() and not distributed.on_gpu()
        cheaper = repeated and size <= _MOST_STORED
        if plain and (settings.cache_teacher == "always" or (settings.cache_teacher == "auto" and cheaper)):
            return store_answers(ask, self.train.encoded, scratch / "teacher", progress)
        if self._answers is not None and keepable:
            self._answers.mkdir(parents=True, exist_ok=True)
            most = int(_MOST_REMEMBERED * shutil.disk_usage(self._answers).free)
            return RememberedTeacher(ask, self._answers / "first" if narrow else self._answers, most)
        return ask

    def run(
        self, student: Model, kept: Sequence[int], settings: Recovery, scratch: Path, progress: Say
    ) -> TrainingResult:
        """Recover ``student``, which has the teacher's blocks ``kept``, in place."""
        self.started = self._start(student, kept, settings, progress)
        teacher = self._teacher_for(kept, settings, scratch, progress)
        if settings.embedding_rate == 0:
            student.get_input_embeddings().requires_grad_(False)
        maps = settings.attention_weight > 0
        narrow = [student, self._teacher] if settings.last_block == "read" else []
        with (
            BlockOutputs(student, range(len(kept))) as capture,
            fused_attention(*([] if maps else [self._teacher])),
            first_token_alone(*narrow),
        ):
            objective = Objective(
                self.train,
                lambda model, batch: self._lessons.loss(model, batch, teacher, settings, capture),
                self._judge,
                settings.average,
                settings.embedding_rate,
                fused=not maps,
            )
            result = fit(student, objective, settings, self._seed, scratch / "checkpoints", progress)
        student.requires_grad_(True)
        return result

    def _start(self, student: Model, kept: Sequence[int], settings: Recovery, say: Say) -> list[dict[str, float]]:
        """Make ``student`` what recovery starts from; returns what `start_linearly` measured, if that is asked for."""
        if settings.start == "cut":
            return []
        matched = matched_blocks(kept, len(block_list(self._teacher, family_of(self._teacher))))
        rows, mixed = self.train.of_epoch(0), precision_here(settings.precision) == "bf16"
        device = device_of(placed(student))

        def call(model: Model, batch: Batch) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                self._lessons.output(model, self._lessons.task.inputs(batch), attention=False)

        order = row_groups(rows.encoded, settings.batch_size, length_bucketed=True, seed=self._seed)
        chosen = order[: math.ceil(_START_ROWS / settings.batch_size)]
        groups = [pad(rows.encoded, group, rows.labels).to(device) for group in chosen]
        with fused_attention(student, self._teacher):
            return start_linearly(
                student.eval(), self._teacher, list(zip(kept, matched, strict=True)), groups, call, say
            )

    def in_steps(self, steps: int) -> Recovery:
        """The recovery that was asked for, shortened to so many steps."""
        settings = self._settings
        per_epoch = math.ceil(len(self.train) / settings.batch_size)
        return settings.model_copy(update={"epochs": steps / per_epoch})

    def after(self, removed: Collection[int], steps: int, scratch: Path, progress: Say) -> dict[str, float]:
        """What the teacher without the blocks ``removed`` reaches after ``steps`` steps of recovery.

        ``loss`` on the validation split in nats, and ``distance``, the negative of the score that recovery keeps
        weights by (for a classifier KL to the teacher). Both are better when lower. Measured once: the figures are kept
        in a folder of ``scratch``, so that a killed stage does not recover the same model again.

        Raises:
            Diverged: training diverged, or the loss is not finite.
        """
        work = scratch / f"without-{blocks_name(removed)}-{steps}"
        done = work / "healed.json"
        if done.is_file():
            return dict(read_json(done))
        family = family_of(self._teacher)
        kept = [block for block in range(len(block_list(self._teacher, family))) if block not in removed]
        student = remove_blocks(self._teacher, family, removed)
        result = self.run(student, kept, self.in_steps(steps), work, progress)
        with fused_attention(student):
            loss = loss_and_accuracy(student, self.validation)[0]
        if not math.isfinite(loss):
            raise Diverged(f"the loss of the recovered model is {loss}", "lower recover.learning_rate")
        figures = {"loss": loss, "distance": -result.validation["score"]}
        if distributed.is_main():
            shutil.rmtree(work, ignore_errors=True)  # stored answers, of which a race would fill the disk
            work.mkdir(parents=True, exist_ok=True)
            write_json(done, figures)
        del student
        gc.collect()  # model and optimizer refer to each other, and a GPU has room for few of them
        return figures


def blocks_name(blocks: Collection[int]) -> str:
    """Block numbers as part of a folder's name; a digest where they would be too long for one."""
    name = "-".join(map(str, sorted(blocks)))
    return name if len(name) <= 100 else hashlib.sha256(name.encode()).hexdigest()[:32]


def random_weights(model: M, seed: int) -> M:
    """A model of the same shape that has learnt nothing: the baseline of training a small model from scratch."""
    set_seed(seed)
    kind: type[PreTrainedModel] = type(model)
    fresh: M = kind._from_config(model.config, attn_implementation="eager").float()
    return fresh.eval()
