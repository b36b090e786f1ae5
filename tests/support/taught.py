"""Teachers and the recovery loss of a text classifier, for tests that have a model and no recipe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from lwc.models.batches import Batch
from lwc.recipe import Recipe, Recovery
from lwc.tasks.classification import TASK
from lwc.training.distillation import Lessons
from lwc.training.teacher import BlockOutputs, LiveTeacher, Teacher

RECIPE = Recipe.model_validate(
    {"schema_version": 1, "name": "taught", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"}}
)
LESSONS = Lessons(TASK, None, partial(TASK.loss, RECIPE, None))


def live_teacher(model: Any, blocks: Sequence[int], attention: bool = False) -> LiveTeacher:
    return LiveTeacher(model, blocks, LESSONS.answers, attention)


def recovery_loss(student: Any, teacher: Teacher, settings: Recovery, capture: BlockOutputs, batch: Batch) -> Tensor:
    return LESSONS.loss(student, batch, teacher, settings, capture)
