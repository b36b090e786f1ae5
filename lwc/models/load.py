"""Load, build and save classifiers as ordinary Hugging Face checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
    set_seed,
)

from lwc.core.errors import ModelError
from lwc.core.store import file_digest
from lwc.models.causal import load_causal_model, locate_causal
from lwc.models.head_labels import match_labels
from lwc.models.loaded import check_loaded, reading
from lwc.models.saved import CLASSIFIER_SUFFIX
from lwc.models.source import is_language_model
from lwc.models.tokenizer_files import check_tokenizer
from lwc.models.types import Model, Tokenizer
from lwc.recipe import FromConfig

HEAD = frozenset({"classifier", "pooler", "pre_classifier", "score", "head"})
"""Parts of a parameter name that belong to the classification head: these may start at random."""


def _names(label_names: list[str]) -> dict[str, Any]:
    return {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }


def check_weights(source: str, folder: Path, sha256: str) -> None:
    """Compare the weights file (safetensors or GGUF) in ``folder``, where ``source`` lies, with a pinned SHA-256.

    Raises:
        ModelError: it is not local, there is no single weights file, or it is another one than was pinned.
    """
    if not folder.is_dir():
        raise ModelError(
            f"{source}: model.sha256 pins the weights file of a folder or a package", "pin a hub id by model.revision"
        )
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".gguf"))
    if len(files) != 1:
        raise ModelError(f"{source}: model.sha256 pins one weights file, found {len(files)}", "leave sha256 out")
    found = file_digest(files[0])
    if found != sha256:
        raise ModelError(
            f"{source}: {files[0].name} has SHA-256 {found}, the recipe pins {sha256}", "check the installed file"
        )


def load_classifier(
    folder: Path,
    label_names: list[str] | None = None,
    trust_remote_code: bool = False,
    order: list[int] | None = None,
    new_head: bool = False,
) -> Model:
    """A sequence classifier in float32 and eval mode, with eager attention (exact and exportable).

    With ``label_names``, a head that the checkpoint lacks, or has for another number of classes, is initialised.
    Anything else that is missing is an error, since scores computed on random weights look like any others. Where the
    checkpoint has the same classes in another order, its head is reordered: labels are mapped by name, never by
    position. What can be seen without loading is checked by `lwc.models.checkpoint`.

    Args:
        order: for each of ``label_names`` the output of the checkpoint's head, which must be whole; by default by name.
        new_head: initialise the output layer even if the checkpoint has one.

    Raises:
        ModelError: no usable checkpoint, weights were not found in it, or they are no numbers.
    """
    with reading(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        own = [str(config.id2label[index]) for index in range(config.num_labels)]
        if label_names is not None:
            # What the checkpoint was a model of before: transformers and the repository would believe it.
            config.problem_type = None
            if hasattr(config, "numbers"):
                del config.numbers
            for name, value in _names(label_names).items():
                setattr(config, name, value)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_loaded(folder, model, info, frozenset() if label_names is None or order is not None else HEAD)
    if new_head:
        _initialise(_output_layer(model, config.num_labels), config)
    elif order is None and label_names is not None:
        order = match_labels(own, label_names).order
    if order is not None and order != sorted(order):
        _reorder_classes(model, order)
    loaded: Model = model.eval()
    return loaded


def load_model(folder: Path) -> Model:
    """The model of a stage's checkpoint, of whatever task its config names, in float32 and eval mode.

    Raises:
        ModelError: weights are missing, or it is neither a sequence classifier nor a causal language model.
    """
    kind = (AutoConfig.from_pretrained(folder).architectures or ["no architecture"])[0]
    if is_language_model([kind]):
        return load_causal_model(locate_causal(str(folder)))[0]
    if kind.endswith(CLASSIFIER_SUFFIX):
        return load_classifier(folder)
    raise ModelError(f"{folder}: {kind} is no sequence classifier or causal language model", "name another one")


def _output_layer(model: Model, outputs: int) -> nn.Linear:
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == outputs and not HEAD.isdisjoint(name.split("."))
    ]
    if not layers:
        raise ModelError(
            f"{type(model).__name__}: the output layer of its head was not found",
            "list labels.names in the order of the checkpoint's id2label, or name a checkpoint without a head",
        )
    return layers[-1]


def _reorder_classes(model: Model, order: list[int]) -> None:
    """Make output i of the head what output ``order[i]`` was."""
    with torch.no_grad():
        for parameter in _output_layer(model, len(order)).parameters():
            parameter.copy_(parameter[order].clone())


def _initialise(layer: nn.Linear, config: Any) -> None:
    """As transformers initialises the output layer of a new head."""
    nn.init.normal_(layer.weight, std=getattr(config, "initializer_range", 0.02))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Tokenizer:
    """The fast tokenizer of a checkpoint.

    Raises:
        ModelError: there is none, or only a slow one (serving needs tokenizer.json).
        MissingDependency: its vocabulary cannot be converted here.
    """
    check_tokenizer(folder)
    try:
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # what the tokenizers library raises has no type of its own
        raise ModelError(
            f"{folder}: no usable tokenizer: {error}", "save it there again: tokenizer.save_pretrained(folder)"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: only a slow tokenizer", "convert it to tokenizer.json")
    # Without vocabulary files, transformers makes an empty tokenizer that turns every word into [UNK].
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(f"{folder}: its tokenizer has no vocabulary", "save the tokenizer beside the model")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{folder}: its tokenizer has no padding token", "set pad_token and save it again")
    tokenizer.padding_side = "right"
    return tokenizer


def build_from_config(settings: FromConfig, tokenizer: Tokenizer, label_names: list[str], seed: int) -> Model:
    """A new classifier with seeded random weights: pre-norm ModernBERT with mean pooling, or post-norm BERT."""
    set_seed(seed)
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": settings.hidden,
        "num_hidden_layers": settings.blocks,
        "num_attention_heads": settings.heads,
        "intermediate_size": settings.intermediate or 4 * settings.hidden,
        "max_position_embeddings": settings.max_length,
        "pad_token_id": tokenizer.pad_token_id,
        **_names(label_names),
    }
    if settings.norm == "post":
        post = BertConfig(
            **common,
            hidden_dropout_prob=settings.dropout,
            attention_probs_dropout_prob=settings.dropout,
            attn_implementation="eager",
        )
        model: Model = BertForSequenceClassification(post)
        return model.eval()
    config = ModernBertConfig(
        **common,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        layer_types=["full_attention"] * settings.blocks,
        classifier_pooling="mean",
        embedding_dropout=settings.dropout,
        mlp_dropout=settings.dropout,
        attention_dropout=settings.dropout,
        classifier_dropout=settings.dropout,
        attn_implementation="eager",
    )
    model = ModernBertForSequenceClassification(config)
    return model.eval()


def save_checkpoint(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (safetensors), config with label names, and tokenizer: complete for ``from_pretrained``."""
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
