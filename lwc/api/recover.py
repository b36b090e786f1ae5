"""`lwc.recover`: the uncut model teaches the cut one."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from lwc.api.models import (
    Kind,
    ModelLike,
    RecoveryResult,
    TokenizerLike,
    exact,
    kind_of,
    length_of,
    model_of,
    tokenizer_of,
    unwrapped,
)
from lwc.api.settings import checked, told
from lwc.api.state import own_state
from lwc.api.texts import Given, Labels, Texts, read, rows_of, targets_of
from lwc.core.arrays import Array
from lwc.core.errors import DataError, ModelError, RecipeError
from lwc.core.progress import Say
from lwc.models.batches import Batch
from lwc.models.families import block_list, family_of
from lwc.models.losses import label_loss
from lwc.models.origin import kept_blocks
from lwc.models.placement import device_of
from lwc.models.types import Model, Output, Tokenizer
from lwc.recipe import TASKS, Recovery
from lwc.tasks.task import VALIDATION_BATCH, Checkpoint, Rows
from lwc.tasks.text import TextTask, augmented, spread
from lwc.training.distillation import Corpus, Lessons, Recoverer, taught_by_teacher

_HELD_OUT, _MOST_HELD_OUT = 10, 2000
_LANGUAGE_BATCH = 8


def recover(
    model: ModelLike,
    teacher: ModelLike,
    tokenizer: TokenizerLike | None = None,
    texts: Texts = (),
    labels: Labels | None = None,
    *,
    validation: Texts | None = None,
    kept: Sequence[int] | None = None,
    epochs: float = 3.0,
    learning_rate: float = 2e-4,
    batch_size: int | None = None,
    max_length: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 17,
    scratch: str | PathLike[str] | None = None,
    progress: Say | None = None,
) -> RecoveryResult:
    """Train a model that lacks blocks to answer like the model it was cut from (recovery distillation).

    The loss is the distance between the logits of both models (Hinton et al. 2015) and between their hidden states at
    matching blocks (Sun et al. 2019). Labels are not needed: the uncut model labels the texts. More texts from where
    the model is used help more than more epochs. Neither model that is passed changes. It runs on the GPU if there is
    one, in this process.

    Args:
        model: the cut model, for example from `lwc.remove_blocks`, also saved and loaded again.
        teacher: the model that it was cut from.
        tokenizer: the fast tokenizer of both; None to take the one in the teacher's folder.
        texts: what to train on, a list or table as for `lwc.score`; thousands rather than hundreds.
        labels: as for `lwc.score`; they add accuracy to the history, and are trained on with
            ``settings={"label_weight": …}``.
        validation: texts that decide which step's weights are kept. By default every tenth of ``texts``, up to 2,000,
            is held out.
        kept: for each block of ``model``, the number of that block in ``teacher``. By default it is found by comparing
            weights.
        epochs: passes over the texts.
        learning_rate: peak; it rises over the first tenth of the steps and then falls to 0.
        batch_size: texts a step, 32 by default; slices of a language model, 8.
        max_length: tokens that a text is cut at, as for `lwc.score`.
        settings: further keys of the recipe's section ``recover``, such as ``hidden_weight`` or ``augment``.
        seed: of the order of the texts and all draws.
        scratch: folder for resumable checkpoints: the same call goes on from the last. By default a temporary one.
        progress: called with one line a step; by default the logger ``lwc`` at level INFO.

    Returns:
        The recovered model and what its training did.

    Raises:
        LwcError: the models do not belong together, there are too few texts, or the loss became infinite; ``hint`` says
            what to do.
    """
    student, whole = model_of(model), model_of(teacher)
    kind = _common_kind(student, whole)
    reader = tokenizer_of(tokenizer, teacher, whole, max_length)
    length_of(student, reader, reader.model_max_length)
    asked = _settings(kind, settings or {}, epochs, learning_rate, batch_size)
    given, held_out = _split(read(texts, labels), None if validation is None else read(validation))
    targets = targets_of(given, whole, kind)
    if asked.label_weight and targets is None and kind != "causal_lm":
        raise DataError("label_weight without labels", "pass labels, or set label_weight to 0")
    origin = _checked_kept(kept, student, whole) if kept is not None else kept_blocks(student, whole)
    own = next(student.parameters())
    with own_state(), exact(whole) as taught, tempfile.TemporaryDirectory(prefix="lwc-recover-") as temporary:
        pupil: Any = unwrapped(copy.deepcopy(student)).float().eval()
        pupil.set_attn_implementation("eager")  # as a checkpoint's: training switches to the fused kernel by itself
        place = device_of(taught)
        work = Path(temporary if scratch is None else scratch)
        work.mkdir(parents=True, exist_ok=True)
        task: Any = TASKS[kind].load()
        rows = augmented(
            Checkpoint(taught, reader), rows_of(given.texts, targets, reader, kind), given.texts, asked, seed
        )
        corpus = _corpus(task, kind, reader, rows, (held_out, targets_of(held_out, whole, kind)), asked)
        lessons = Lessons(task, reader, _label_loss)
        try:
            result = Recoverer(lessons, corpus, taught, asked, seed).run(pupil, origin, asked, work, told(progress))
        finally:
            taught.to(place)
    pupil.to(own.device, own.dtype).set_attn_implementation(student.config._attn_implementation)
    return RecoveryResult(
        pupil, result.history, origin, result.steps, result.best_step, result.seconds, held_out.texts, cast(Any, reader)
    )


def _label_loss(model: Model, output: Output, batch: Batch) -> Tensor:
    return label_loss(output.logits, batch.labels)


def _common_kind(student: Any, teacher: Any) -> Kind:
    """What both models do; raises `ModelError` where one cannot teach the other."""
    kind = kind_of(teacher)
    if kind_of(student) != kind:
        raise ModelError(f"the teacher does {kind}, the student {kind_of(student)}", "both must do the same")
    for field in ("model_type", "hidden_size", "vocab_size", "num_labels"):
        mine, theirs = (getattr(one.config, field, None) for one in (student, teacher))
        if mine != theirs and not (field == "num_labels" and kind == "causal_lm"):
            raise ModelError(
                f"{field} of the student is {mine}, of the teacher {theirs}",
                "the teacher must be the model that the student was cut from",
            )
    return kind


def _settings(
    kind: Kind, further: Mapping[str, Any], epochs: float, learning_rate: float, batch_size: int | None
) -> Recovery:
    plain = {"epochs": epochs, "learning_rate": learning_rate}
    plain["batch_size"] = batch_size or (_LANGUAGE_BATCH if kind == "causal_lm" else Recovery().batch_size)
    twice = sorted({*plain, "unlabelled"}.intersection(further))
    if twice:
        hint = "pass more texts" if twice == ["unlabelled"] else "pass it as an argument of its own"
        raise RecipeError(f"settings has {twice[0]!r}", hint)
    found = checked(Recovery, {**plain, **further}, "recover")
    if kind == "causal_lm" and (found.augment or found.cache_teacher == "always"):
        raise RecipeError("a language model has no augment, and its teacher's answers are not kept", "leave them out")
    return found


def _split(given: Given, validation: Given | None) -> tuple[Given, Given]:
    """What is trained on, and what is held out to judge by."""
    if validation is not None:
        return given, validation
    count = len(given.texts)
    if count < 2:
        raise DataError(f"{count} text to train on and to judge by", "pass more texts, thousands if there are so many")
    chosen = {int(row) for row in spread(count, min(_MOST_HELD_OUT, max(1, count // _HELD_OUT)))}
    rows = [[row for row in range(count) if (row in chosen) == held] for held in (False, True)]
    train, held_out = (
        Given(
            [given.texts[row] for row in side],
            None if given.labels is None else [given.labels[row] for row in side],
            given.names,
        )
        for side in rows
    )
    return train, held_out


def _corpus(
    task: TextTask, kind: Kind, reader: Tokenizer, train: Rows, held_out: tuple[Given, Array | None], settings: Recovery
) -> Corpus:
    given, targets = held_out
    rows = rows_of(given.texts, targets, reader, kind)
    groups = rows.in_batches(settings.batch_size if kind == "causal_lm" else VALIDATION_BATCH)
    if targets is None and kind != "causal_lm" and not taught_by_teacher(settings):
        raise DataError("the teacher is not asked, and the held-out texts have no labels", "pass labels")
    return Corpus(train, groups, partial(task.judged, groups, targets))


def _checked_kept(kept: Sequence[int], student: Any, teacher: Any) -> list[int]:
    blocks, count = (len(block_list(one, family_of(one))) for one in (student, teacher))
    found = [int(block) for block in kept]
    if len(found) != blocks or found != sorted(set(found)) or not all(0 <= block < count for block in found):
        raise ModelError(
            f"kept is {found}; the student has {blocks} blocks, the teacher {count}",
            "give each block of the student its number in the teacher, in rising order",
        )
    return found
