"""What a base tells of later stages before it is trained: by its config alone, then with its weights and the data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from lwc.core.errors import DataError, LwcError
from lwc.data.splits import load_split
from lwc.importance.learned import check_count
from lwc.importance.score import check_calibration
from lwc.importance.shap import check_players
from lwc.importance.subsets import random_subsets
from lwc.models.batches import Batch
from lwc.models.causal import locate_causal
from lwc.models.checkpoint import check_checkpoint
from lwc.models.families import CAUSAL_LM, CLASSIFICATION, block_list, check_padding, family_of
from lwc.models.forward.first_token import after_attention
from lwc.models.load import load_tokenizer
from lwc.models.loaded import reading
from lwc.models.positions import check_shapes
from lwc.models.source import checkpoint_folder
from lwc.models.types import Model
from lwc.models.vocabulary import trim_vocabulary, used_tokens
from lwc.pipeline.keys import searched_for_latency
from lwc.pipeline.preflight import Check, Subject, run_checks
from lwc.pipeline.stage import StageContext
from lwc.recipe import Pretrained, Recipe, Shap, Trust
from lwc.recipe.variants import variants
from lwc.selection.select import check_target, plan_cut
from lwc.tasks.task import Checkpoint, task_of, tokenizer_of
from lwc.tasks.text import cut_at
from lwc.training.linear_start import ending_of
from lwc.training.teacher import attention_maps

_BYTES = 4  # of a parameter on disk
_CLASSIFIER = (AutoModelForSequenceClassification, CLASSIFICATION)


def outline(recipe: Recipe) -> Checkpoint | None:
    """The recipe's checkpoint without its weights (on the meta device); None of remote code, which is not run for this.

    Raises:
        ModelError: its config or tokenizer cannot be used, or its family has no row.
        MissingDependency: a package or hub id is not there.
    """
    source = recipe.model
    assert isinstance(source, Pretrained)
    if source.trust_remote_code:
        return None
    how: dict[str, Any] = {}
    if recipe.task.any_weights:
        found = locate_causal(source.source)
        place, kind, task = found.place, AutoModelForCausalLM, CAUSAL_LM
        how = {"gguf_file": found.gguf_file} if found.gguf_file else {}
    else:
        place, kind, task = str(checkpoint_folder(source.source, source.revision)), *_CLASSIFIER
    if not how and Path(place).is_dir():
        check_checkpoint(Path(place), task=task)
    with reading(source.source):
        config = AutoConfig.from_pretrained(place, **how)
        family_of(cast(Model, SimpleNamespace(config=config)))
        if not recipe.task.any_weights:
            config.num_labels = 1  # the fewest: no target that can be reached is refused
        with torch.device("meta"):
            model: Model = kind.from_config(config, attn_implementation="eager").eval()
    if recipe.task.any_weights:
        return Checkpoint(model, cast(Any, None))  # its tokenizer is mended where it lacks padding
    tokenizer = load_tokenizer(Path(place))
    cut_at(tokenizer, model, source)
    check_padding(model, family_of(model), tokenizer.pad_token_id)
    return Checkpoint(model, tokenizer)


def _base(subject: Subject) -> Checkpoint:
    assert subject.base is not None
    return subject.base


def _cut(subject: Subject) -> None:
    for recipe in (subject.recipe, *(variants(subject.recipe) if "sweep" in subject.stages else ())):
        check_target(recipe, _base(subject).model)


def _shapes(subject: Subject) -> None:
    check_shapes(_base(subject).model, subject.recipe.export.latency_shapes)


def _players(subject: Subject) -> None:
    model = _base(subject).model
    for method in subject.recipe.score.methods:
        if isinstance(method, Shap):
            check_players(method, len(block_list(model, family_of(model))))


def _learns(subject: Subject) -> None:
    model, trust = _base(subject).model, subject.recipe.score.trust or Trust()
    family = family_of(model)
    subsets = random_subsets(len(block_list(model, family)), trust.subsets, subject.recipe.seed, family.protected)
    try:
        check_count(len(subsets))
    except ValueError as error:
        raise DataError(f"the blocks cannot be ranked: {error}", "use fusion: mean_rank") from error


def _calibration(subject: Subject) -> list[Batch]:
    recipe, base = subject.recipe, _base(subject)
    assert subject.data is not None
    rows = task_of(recipe).rows(recipe, base.reader, subject.data, "calibration")
    return rows.in_batches(recipe.score.batch_size)


def _ranks(subject: Subject) -> None:
    check_calibration(_calibration(subject), subject.recipe.score)


@torch.inference_mode()
def _attends(subject: Subject) -> None:
    recipe, model = subject.recipe, _base(subject).model
    inputs = task_of(recipe).inputs(_calibration(subject)[0])
    output = model(**{name: value[:1] for name, value in inputs.items()}, output_attentions=True)
    attention_maps(output, range(len(block_list(model, family_of(model)))), model.config.model_type)


def _reads_first(subject: Subject) -> None:
    after_attention(_base(subject).model)


@torch.inference_mode()
def _ends_linearly(subject: Subject) -> None:
    recipe, model = subject.recipe, _base(subject).model
    inputs = task_of(recipe).inputs(_calibration(subject)[0])
    blocks = block_list(model, family_of(model))
    ending_of(blocks[-1], lambda: model(**{name: value[:1] for name, value in inputs.items()}), model.config.model_type)


def _trims(subject: Subject) -> None:
    recipe, base = subject.recipe, _base(subject)
    assert subject.data is not None
    tokenizer, texts = tokenizer_of(base), load_split(subject.data, "train").texts
    keep = used_tokens(tokenizer, texts, recipe.model.max_length, recipe.vocabulary.min_count)
    smaller, _ = trim_vocabulary(base.model, tokenizer, keep)
    taken = (base.model.get_input_embeddings().weight.numel()) - smaller.get_input_embeddings().weight.numel()
    if not searched_for_latency(recipe):
        plan_cut(base.model, family_of(base.model), recipe.target, recipe.select, taken)


def _room(subject: Subject) -> None:
    """At least the base and its ONNX file are written."""
    assert subject.place is not None
    model = _base(subject).model
    size = sum(parameter.numel() for parameter in model.parameters()) * _BYTES
    needed = size * len({"train", "export"}.intersection(subject.stages))
    free = shutil.disk_usage(subject.place).free
    if free < needed:
        raise LwcError(
            f"{subject.place}: {free / 1e6:.1f} MB free, this run writes at least {needed / 1e6:.1f} MB",
            "free some space there, or name another --runs folder",
        )


def check_base(context: StageContext, base: Checkpoint) -> None:
    """Raise what a later stage of the run would raise for this base and these data."""
    subject = Subject(context.recipe, context.ahead, place=context.out, data=context.inputs["data"], base=base)
    run_checks(BASE, subject)


def _method(kind: type) -> Callable[[Recipe], bool]:
    return lambda recipe: any(isinstance(method, kind) for method in recipe.score.methods)


SHAPE = (
    Check("the target, and the blocks that must stay", ("select", "sweep"), _cut),
    Check("lengths of export.latency_shapes", ("export",), _shapes),
    Check("recover.last_block", ("recover",), _reads_first, lambda recipe: recipe.recover.last_block == "read"),
    Check("a learned fusion", ("score",), _learns, lambda recipe: recipe.score.fusion == "learned"),
    Check("exact Shapley values", ("score",), _players, _method(Shap)),
)
"""For these the model needs no weights."""

BASE = (
    *SHAPE,
    Check("free disk space", ("train", "export"), _room),
    Check("the calibration rows", ("score",), _ranks, lambda recipe: bool(recipe.score.methods)),
    Check("attention maps", ("recover",), _attends, lambda recipe: recipe.recover.attention_weight > 0),
    Check("the linear start", ("recover",), _ends_linearly, lambda recipe: recipe.recover.start == "linear"),
    Check("trimming the vocabulary", ("select", "recover"), _trims, lambda recipe: recipe.vocabulary.trim),
)
"""Before the base is trained, and before its blocks are scored: it may come from an earlier run."""
