"""The train stage: a base model, fine-tuned from a checkpoint or trained from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lwc.core.errors import ModelError
from lwc.core.store import write_json
from lwc.data.splits import load_labels, load_split
from lwc.models.batches import Batch
from lwc.models.causal import load_causal, locate_causal
from lwc.models.families import check_padding, family_of
from lwc.models.load import build_from_config, check_weights, load_classifier, load_tokenizer, save_checkpoint
from lwc.models.losses import label_loss
from lwc.models.positions import positions
from lwc.models.source import resolve_source
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import FromConfig, Pretrained, Recipe
from lwc.tasks.text import judge_of, numbers_of, split_rows
from lwc.training.loop import fit

NUMBER = "number"
"""Name of a regressor's one output."""


def _start(recipe: Recipe, texts: list[str], label_names: list[str]) -> tuple[Any, Any]:
    source = recipe.model
    if recipe.task.kind == "causal_lm":
        assert isinstance(source, Pretrained)  # the recipe says so
        return _language_model(source)
    if isinstance(source, FromConfig):
        tokenizer = train_wordpiece(texts, source.vocab_size, source.max_length)
        return build_from_config(source, tokenizer, label_names, recipe.seed), tokenizer
    if source.sha256 is not None:
        check_weights(source.source, Path(resolve_source(source.source)), source.sha256)
    # The new head is random: seeded, so that the same recipe gives the same model.
    from transformers import set_seed

    set_seed(recipe.seed)
    outputs = label_names if recipe.task.kind == "classification" else [NUMBER]
    model = load_classifier(source.source, outputs, source.revision, source.trust_remote_code)
    tokenizer = load_tokenizer(source.source, source.revision, source.trust_remote_code)
    if recipe.task.kind == "regression":
        # Kept in config.json: what is served must know which numbers there are.
        model.config.numbers = numbers_of(label_names).tolist()
        model.config.problem_type = "regression"
    return model, _cut_at(tokenizer, model, source)


def _language_model(source: Pretrained) -> tuple[Any, Any]:
    found = locate_causal(source.source)
    if source.sha256 is not None:
        check_weights(source.source, Path(found.place), source.sha256)
    model, _, tokenizer = load_causal(found)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # the mask says what is padding
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, _cut_at(tokenizer, model, source)


def _cut_at(tokenizer: Any, model: Any, source: Pretrained) -> Any:
    limit = positions(model.config)
    if limit is not None and source.max_length > limit:
        raise ModelError(
            f"model.max_length is {source.max_length}, {source.source} reads at most {limit} tokens",
            f"set model.max_length to {limit} or less",
        )
    tokenizer.model_max_length = source.max_length
    return tokenizer


def _loss(model: Any, batch: Batch) -> Any:
    return label_loss(model(**batch.inputs).logits, batch.labels)


def train_base(
    recipe: Recipe,
    data_dir: Path,
    out: Path,
    scratch: Path,
    progress: Callable[[str], None],
    check: Callable[[Any], None] = lambda model: None,
) -> None:
    """Train the base model on the train split; write ``model/`` and ``metrics.json``.

    ``check`` sees the model before it is trained, and raises where the training would be for nothing.

    Raises:
        ModelError: the checkpoint cannot be used, or its family has no row.
    """
    model, tokenizer = _start(recipe, load_split(data_dir, "train").texts, load_labels(data_dir))
    check(model)
    check_padding(model, family_of(model), tokenizer.pad_token_id)  # before the hours of training, not after
    encoded, labels = split_rows(recipe, tokenizer, data_dir, "train")
    result = fit(
        model,
        encoded,
        labels,
        judge_of(recipe, split_rows(recipe, tokenizer, data_dir, "validation")),
        recipe.train,
        _loss,
        recipe.seed,
        scratch / "checkpoints",
        progress,
    )
    save_checkpoint(model, tokenizer, out / "model")
    write_json(out / "metrics.json", {**asdict(result), "n_train": len(encoded), "truncated": encoded.truncated})
