"""A checkpoint that brings its own head: the data take its classes, and their order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.core.errors import ModelError
from lwc.core.progress import Say
from lwc.data.ingest.stage import prepare_large
from lwc.data.labels import ClassesDiffer
from lwc.data.prepare import prepare
from lwc.models.head import Head, head_of
from lwc.recipe import SKIP, Labels, Pretrained, Recipe


def head_in(recipe: Recipe) -> Head | None:
    """The checkpoint's own head, if the recipe keeps it.

    Raises:
        ModelError: there is none, and ``train: skip`` trains no other.
    """
    if not recipe.task.has_head:
        return None
    head = head_of(recipe.model, stays=recipe.train.skip)
    if head is None and recipe.train.skip:
        assert isinstance(recipe.model, Pretrained)  # the recipe says so
        raise ModelError(
            f"{recipe.model.source}: it has no classification head, and train: {SKIP} trains none",
            "name a fine-tuned checkpoint, or give train its settings",
        )
    return head


def prepared(
    recipe: Recipe, labels: Callable[[Head, Labels], Labels], out: Path, scratch: Path, say: Say
) -> dict[str, Any]:
    """Write the data stage's files into ``out``; returns the content of ``quality.json``.

    ``labels`` gives the labels that a head asks for.

    Raises:
        ModelError: the data have other classes than the checkpoint's own head.
        DataError: the data cannot be used.
    """
    head, data = head_in(recipe), recipe.data
    if head is not None:
        data = data.model_copy(update={"labels": labels(head, data.labels)})
    outputs = None if head is None else head.outputs
    try:
        if data.ingest is not None:
            return prepare_large(data, recipe.seed, out, scratch, say, head=outputs)
        return prepare(data, recipe.seed, out, say, outputs)
    except ClassesDiffer as error:
        # Where the recipe gives the names, or a class has only too few rows, the mistake is another.
        by_head = head is not None and recipe.data.labels.known() is None and data.labels.names is not None
        if head is None or not by_head or set(error.found) == set(data.labels.names or ()):
            raise
        raise head.differs(error.found) from error
