"""The recover stage: recovery distillation on the splits of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lwc.core.store import write_json
from lwc.data.splits import load_split
from lwc.models.families import block_list, family_of
from lwc.models.vocabulary import coverage, trim_vocabulary, used_tokens
from lwc.recipe import Recipe
from lwc.tasks.task import Checkpoint, Say, task_of, tokenizer_of, validation_batches
from lwc.training.distillation import Corpus, Lessons, Recoverer, matched_blocks


def recoverer_of(
    recipe: Recipe, data_dir: Path, teacher: Checkpoint, progress: Say, answers: Path | None = None
) -> Recoverer:
    """Recovery as a recipe says, on its train split, judged on its validation split (`Task.judge`)."""
    task, reader = task_of(recipe), teacher.reader
    train = task.recovery_rows(recipe, teacher, data_dir, progress)
    validation = validation_batches(recipe, task.rows(recipe, reader, data_dir, "validation"))
    corpus = Corpus(train, validation, partial(task.judge, recipe, reader, data_dir))
    lessons = Lessons(task, reader, partial(task.loss, recipe, reader))
    return Recoverer(lessons, corpus, teacher.model, recipe.recover, recipe.seed, answers)


def recover(
    recipe: Recipe,
    kept: Sequence[int],
    stages: Mapping[str, Path],
    out: Path,
    scratch: Path,
    progress: Say,
    answers: Path | None = None,
) -> None:
    """Recovery on the train split of the model cut to blocks ``kept``; writes ``model/`` and ``metrics.json``.

    ``stages`` are the folders of ``data``, ``train`` (the teacher) and ``remove`` (the student). ``answers`` keeps what
    the uncut model says for other cuts (`lwc.training.teacher.RememberedTeacher`).
    """
    task = task_of(recipe)
    teacher, student = (task.load(stages[name] / "model") for name in ("train", "remove"))
    recoverer = recoverer_of(recipe, stages["data"], teacher, progress, answers)
    result = recoverer.run(student.model, kept, recipe.recover, scratch, progress)
    vocabulary = None
    if recipe.vocabulary.trim:
        student, vocabulary = _trimmed(recipe, student, stages["data"])
    task.save(Checkpoint(student.model.to("cpu"), student.reader), out / "model")
    matched = matched_blocks(kept, len(block_list(teacher.model, family_of(teacher.model))))
    added = {"n_train": len(recoverer.train), "matched_teacher_blocks": matched, "vocabulary": vocabulary}
    if recoverer.started:
        added["start"] = recoverer.started
    write_json(out / "metrics.json", {**asdict(result), **added})


def _trimmed(recipe: Recipe, student: Checkpoint, data_dir: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """Trimmed after recovery, while teacher and student still read the same ids: the logits do not change."""
    train, validation = load_split(data_dir, "train"), load_split(data_dir, "validation")
    tokenizer = tokenizer_of(student)
    keep = used_tokens(tokenizer, train.texts, recipe.model.max_length, recipe.vocabulary.min_count)
    smaller, trimmed = trim_vocabulary(student.model.to("cpu"), tokenizer, keep)
    figures = {
        "before": len(tokenizer),
        "after": len(trimmed),
        "coverage_of_validation": coverage(tokenizer, trimmed, validation.texts),
    }
    return Checkpoint(smaller, trimmed), figures
