"""FAMILIES: where the blocks of each model type live, one row a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from lwc.core.errors import ModelError
from lwc.models.types import Model

if TYPE_CHECKING:  # the table is read before a model is, by who must not wait for torch
    from torch import Tensor, nn

BlockOutput: TypeAlias = "Tensor | tuple[Tensor | None, ...]"
"""What a block returns: hidden states (B, T, D), alone or first of several."""


def _pair(hidden: Tensor) -> BlockOutput:
    return (hidden, None)


CLASSIFICATION = "sequence-classification"
CAUSAL_LM = "causal-lm"
DECODER = (CLASSIFICATION, CAUSAL_LM)

Pooling = Literal["first", "mean", "last"]
"""What a head reads of the last hidden states: the first real token, the mean over the real ones, or the last one."""


@dataclass(frozen=True)
class Family:
    """How to find, count and skip the blocks of a model type.

    ``blocks`` is a dotted path from the task model's base model; ``depth_field`` the config field that counts blocks;
    ``per_block_fields`` config lists with one entry a block, cut where a checkpoint has them (any may carry
    ``layer_types``: stock transformers refuses a list of another length); ``split_fields`` config numbers that say how
    many of the first blocks are of one kind; ``pattern_fields`` config numbers that repeat a pattern over the blocks,
    which no longer holds once some are gone (the lists say it all); ``pooling`` what an encoder's classifier reads and
    ``pooling_field`` the config field that says it instead, ``cls`` or ``mean``; ``numbered_field`` a config flag that
    makes a block compute with its own number, so that none can move; ``protected`` blocks that carry a role and cannot
    go; ``convolution_field`` the config field of a convolution that the encoder runs after block 0, which protects
    block 0 where it is set; ``as_output`` wraps hidden states (B, T, D) the way a block of this type returns them.
    ``tasks``: what models of this type do here; a decoder does `CAUSAL_LM` too, and its classifier reads the last token
    that is not padding. ``prefix`` is what stands before ``blocks`` in the names of a task model's weights
    (transformers' ``base_model_prefix``), None where that is not checked. ``after_attention`` is the path in a block of
    the module that follows the attention, if it is called with the attention's result and the block's input, (B, T, D)
    each, and no token sees another after it.
    """

    model_type: str
    blocks: str
    depth_field: str = "num_hidden_layers"
    per_block_fields: tuple[str, ...] = ("layer_types",)
    protected: tuple[int, ...] = ()
    as_output: Callable[[Tensor], BlockOutput] = lambda hidden: hidden
    convolution_field: str | None = None
    split_fields: tuple[str, ...] = ()
    pattern_fields: tuple[str, ...] = ()
    numbered_field: str | None = None
    tasks: tuple[str, ...] = (CLASSIFICATION,)
    prefix: str | None = None
    after_attention: str | None = None
    pooling: Pooling = "first"
    pooling_field: str | None = None

    @property
    def decoder(self) -> bool:
        """Whether tokens see only those before them."""
        return CAUSAL_LM in self.tasks


_BERT = "attention.output"
_PATTERN = ("sliding_window_pattern", "_sliding_window_pattern")

FAMILIES: dict[str, Family] = {
    row.model_type: row
    for row in (
        # Encoders.
        Family("bert", "encoder.layer", prefix="bert", after_attention=_BERT),
        Family("roberta", "encoder.layer", prefix="roberta", after_attention=_BERT),
        Family("xlm-roberta", "encoder.layer", prefix="roberta", after_attention=_BERT),
        Family("camembert", "encoder.layer", prefix="roberta", after_attention=_BERT),
        Family("electra", "encoder.layer", prefix="electra", after_attention=_BERT),
        Family("distilbert", "transformer.layer", depth_field="n_layers", prefix="distilbert"),
        Family("mpnet", "encoder.layer", as_output=lambda hidden: (hidden,), prefix="mpnet"),
        Family("deberta", "encoder.layer", as_output=_pair, prefix="deberta", after_attention=_BERT),
        Family(
            "deberta-v2",
            "encoder.layer",
            as_output=_pair,
            convolution_field="conv_kernel_size",
            prefix="deberta",
            after_attention=_BERT,
        ),
        # Block 0 has no attention norm: the embedding norm takes its place.
        Family("modernbert", "layers", protected=(0,), prefix="model", pooling_field="classifier_pooling"),
        # Decoders.
        Family(
            "gpt2",
            "h",
            tasks=DECODER,
            depth_field="n_layer",
            numbered_field="scale_attn_by_inverse_layer_idx",
            prefix="transformer",
        ),
        Family("llama", "layers", tasks=DECODER, prefix="model"),
        Family("mistral", "layers", tasks=DECODER, prefix="model"),
        Family("qwen2", "layers", tasks=DECODER, split_fields=("max_window_layers",), prefix="model"),
        Family("qwen3", "layers", tasks=DECODER, split_fields=("max_window_layers",), prefix="model"),
        Family("gemma", "layers", tasks=DECODER, prefix="model"),
        Family("gemma2", "layers", tasks=DECODER, prefix="model"),
        Family("gemma3_text", "layers", tasks=DECODER, pattern_fields=_PATTERN, prefix="model"),
        Family("phi", "layers", tasks=DECODER, prefix="model"),
        Family("phi3", "layers", tasks=DECODER, prefix="model"),
        Family("smollm3", "layers", tasks=DECODER, per_block_fields=("layer_types", "no_rope_layers"), prefix="model"),
    )
}

_TWO_STACKS = "it has two stacks of blocks, an encoder and a decoder, and one number of blocks cannot cut both"
_FIRST_OWNS_BIAS = "block 0 owns the position bias that all blocks use, and " + _TWO_STACKS
_SHARED_CACHE = "its last blocks read the keys and values of earlier ones, which must stay"
REFUSED = {
    "albert": "all its blocks share one set of weights, so that removing one removes nothing",
    "t5": _FIRST_OWNS_BIAS,
    "mt5": _FIRST_OWNS_BIAS,
    "bart": _TWO_STACKS,
    "mbart": _TWO_STACKS,
    "gemma3n_text": _SHARED_CACHE,
    "zamba2": "blocks share the weights of a few attention layers, so that removing one changes others",
}
"""Model type → why its blocks cannot go one by one."""


def families_table() -> list[dict[str, str]]:
    """Every model type known by name, for people: supported ones in the order of the table, then refused ones.

    Keys: ``model_type``, ``blocks``, ``depth_field``, ``protected`` (block numbers, or when there are some), ``tasks``,
    ``refused`` (empty, or why it cannot be cut). What does not apply to a refused type is empty.
    """
    supported = [
        {
            "model_type": row.model_type,
            "blocks": row.blocks,
            "depth_field": row.depth_field,
            "protected": _protected(row),
            "tasks": ", ".join(row.tasks),
            "refused": "",
        }
        for row in FAMILIES.values()
    ]
    empty = dict.fromkeys(("blocks", "depth_field", "protected", "tasks"), "")
    return supported + [{"model_type": name, **empty, "refused": reason} for name, reason in REFUSED.items()]


def _protected(row: Family) -> str:
    always = [str(index) for index in row.protected]
    return ", ".join(always + ([f"0 with {row.convolution_field}"] if row.convolution_field else []))


def check_padding(model: Model, family: Family, pad_id: int | None = None) -> None:
    """A decoder's classifier reads the last token that is not ``config.pad_token_id``: that must be the padding.

    ``pad_id`` is the tokenizer's padding token, None where it is not at hand. Encoders and language models pass: they
    go by the attention mask.

    Raises:
        ModelError: the config names no padding token, or another one than the tokenizer pads with.
    """
    if not family.decoder or not type(model).__name__.endswith("ForSequenceClassification"):
        return
    own = getattr(getattr(model, "config", None), "pad_token_id", None)
    where = f"model type {family.model_type!r}: its classifier reads the last token that is not padding"
    if own is None:
        raise ModelError(
            f"{where}, and its config has no pad_token_id", "set pad_token_id in config.json to the tokenizer's"
        )
    if pad_id is not None and own != pad_id:
        raise ModelError(
            f"{where}; its config says token {own} is padding, the tokenizer pads with {pad_id}",
            "set pad_token_id in config.json to the tokenizer's",
        )


def family_named(model_type: str) -> Family:
    """The family row of a model type.

    Raises:
        ModelError: the model type is not in the table, or its blocks cannot be removed one by one.
    """
    if model_type in REFUSED:
        raise ModelError(f"model type {model_type!r}: {REFUSED[model_type]}", "use another family")
    family = FAMILIES.get(model_type)
    if family is None:
        raise ModelError(
            f"model type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}",
            f"add a row to FAMILIES in lwc/models/families.py: Family({model_type!r}, '<path to its block list>')",
        )
    return family


def family_of(model: Model) -> Family:
    """The family row of a model.

    Raises:
        ModelError: the model type is not in the table, its blocks cannot be removed one by one, or it is a decoder's
            classifier without a padding token.
    """
    config = getattr(model, "config", None)
    model_type = str(getattr(config, "model_type", "unknown"))
    family = family_named(model_type)
    if getattr(config, family.numbered_field or "", False):
        raise ModelError(
            f"model type {model_type!r} with {family.numbered_field}: each block computes with its own number, "
            "so that those after a removed one would compute something else",
            "use a checkpoint without it",
        )
    check_padding(model, family)
    if getattr(config, family.convolution_field or "", 0):
        # The encoder applies its convolution after the first block, whichever that is.
        return replace(family, protected=tuple(sorted({0, *family.protected})))
    return family


def pooling_of(model: Model, family: Family) -> Pooling:
    """What the model's classifier reads."""
    if family.decoder:
        return "last"
    if family.pooling_field is None:
        return family.pooling
    return "mean" if getattr(model.config, family.pooling_field) == "mean" else "first"


def block_list(model: Model, family: Family) -> nn.ModuleList:
    """The model's blocks in order."""
    from torch import nn

    node: object = getattr(model, "base_model", model)
    for part in family.blocks.split("."):
        node = getattr(node, part, None)
        if node is None:
            raise ModelError(
                f"{family.model_type}: no {family.blocks!r} in {type(model).__name__}", "fix the family row"
            )
    if not isinstance(node, nn.ModuleList):
        raise ModelError(f"{family.model_type}: {family.blocks!r} is no ModuleList", "fix the family row")
    return node


def block_input(args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Tensor:
    """The (B, T, D) hidden states in the arguments of a block's call."""
    return args[0] if args else kwargs["hidden_states"]


def hidden_states(output: BlockOutput) -> Tensor:
    """The (B, T, D) hidden states in whatever a block returns."""
    import torch

    hidden = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(hidden, torch.Tensor):
        raise ModelError(f"a block returned {type(hidden).__name__}, not a tensor", "fix the family row")
    return hidden
