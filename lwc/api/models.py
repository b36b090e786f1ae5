"""Models and tokenizers as people have them: objects of transformers, or folders."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from transformers import AutoTokenizer, PreTrainedModel

from lwc.core.errors import ModelError
from lwc.core.store import read_json
from lwc.models.checkpoint import check_checkpoint
from lwc.models.families import CAUSAL_LM, CLASSIFICATION, check_padding, family_of
from lwc.models.load import load_model, load_tokenizer
from lwc.models.loaded import reading
from lwc.models.placement import device_of
from lwc.models.positions import positions
from lwc.models.saved import CLASSIFIER_SUFFIX, Saved
from lwc.models.source import checkpoint_folder, is_language_model
from lwc.models.tokenizer_files import check_tokenizer, too_few_embeddings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lwc.models.types import Tokenizer

LONGEST = 512
"""Tokens of a text unless ``max_length`` says otherwise, or the tokenizer or the model allow fewer."""
_STATE = "trainer_state.json"
# Attributes by which Accelerate puts autocast around the pass forward of a model that it has prepared.
_WRAPPED = ("forward", "_original_forward")

Kind = Literal["classification", "regression", "causal_lm"]


@dataclass(frozen=True)
class RecoveryResult:
    """A recovered model, which every function of lwc takes in place of a model.

    Attributes:
        model: the recovered model, an ordinary one of transformers, in eval mode.
        history: one entry an evaluation: ``step``, ``train_loss``, ``score`` (higher = closer to the teacher) and the
            figures on the held-out texts, such as ``accuracy`` where labels were given.
        kept: for each block of the model, the block of the teacher that it was.
        steps: training steps.
        best_step: the step whose weights were kept.
        seconds: duration of the training.
        held_out: the texts that the model was judged on; `lwc.export_onnx` compares answers on them.
        tokenizer: the tokenizer that the texts were read with.
    """

    model: PreTrainedModel
    history: list[dict[str, float]]
    kept: list[int]
    steps: int
    best_step: int
    seconds: float
    held_out: list[str] = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)


ModelLike: TypeAlias = "PreTrainedModel | RecoveryResult | str | PathLike[str]"
"""A model of transformers, a `RecoveryResult`, a folder (also a Trainer's output folder), a hub id or
``package:<module>``."""
TokenizerLike: TypeAlias = "PreTrainedTokenizerBase | str | PathLike[str]"
"""A fast tokenizer of transformers, or a folder or hub id with one."""


def model_of(model: ModelLike) -> PreTrainedModel:
    """The model itself; that of a folder is loaded in float32 and eval mode.

    Raises:
        ModelError: it cannot be loaded, is wrapped or quantised, or its blocks cannot be removed.
    """
    if isinstance(model, RecoveryResult):
        return model.model
    if isinstance(model, str | PathLike):
        return _loaded(_folder_of(model))
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"{type(model).__name__} is not a model of transformers",
            "pass the model without its wrapper: model.module, or merge_and_unload() of a PEFT model",
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError("the model has adapters that are not merged into it", "merge them, or pass the merged model")
    if getattr(model, "is_quantized", False):
        raise ModelError("the model's weights are quantised", "load the full-precision weights")
    family_of(model)
    kind_of(model)
    return model


def kind_of(model: PreTrainedModel) -> Kind:
    """What the model does, by its class and config.

    Raises:
        ModelError: something that lwc cannot cut by itself.
    """
    name = type(model).__name__
    if is_language_model([name]):
        return "causal_lm"
    if not name.endswith(CLASSIFIER_SUFFIX):
        raise ModelError(
            f"{name} is neither a sequence classifier nor a causal language model",
            "load it with AutoModelForSequenceClassification or AutoModelForCausalLM",
        )
    problem = model.config.problem_type
    if problem == "multi_label_classification":
        raise ModelError("the model gives several labels to a text", "use a model with one label a text")
    return "regression" if problem == "regression" or model.config.num_labels == 1 else "classification"


def _folder_of(source: str | PathLike[str]) -> Path:
    """The folder with the checkpoint: of a Trainer's output folder the best, or else the last."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return checkpoint_folder(str(source))
    if (folder / "config.json").is_file():
        return folder
    numbered = [one for one in folder.glob("checkpoint-*") if (one / "config.json").is_file()]
    made = sorted((one for one in numbered if one.name[11:].isdigit()), key=lambda one: int(one.name[11:]))
    if not made:
        return folder  # `check_checkpoint` says what it is instead
    state = read_json(made[-1] / _STATE) if (made[-1] / _STATE).is_file() else {}
    best = folder / Path(str(state.get("best_model_checkpoint"))).name
    return best if best in made else made[-1]


def _loaded(folder: Path) -> PreTrainedModel:
    language = is_language_model(Saved(folder, CLASSIFICATION).config.get("architectures"))
    check_checkpoint(folder, task=CAUSAL_LM if language else CLASSIFICATION, tokenizer=False)
    found: Any = load_model(folder)
    kind_of(found)
    return found  # type: ignore[no-any-return,unused-ignore]


def length_of(model: PreTrainedModel, tokenizer: Tokenizer, asked: int | None) -> int:
    """Tokens that texts are cut at.

    Raises:
        ModelError: more than the model has positions for.
    """
    limit = positions(model.config)
    if asked is None:
        return min(LONGEST, int(tokenizer.model_max_length), limit or LONGEST)
    if limit is not None and asked > limit:
        raise ModelError(f"max_length is {asked}, the model reads at most {limit} tokens", f"set it to {limit} or less")
    return asked


def tokenizer_of(
    tokenizer: TokenizerLike | None, source: ModelLike, model: PreTrainedModel, max_length: int | None
) -> Tokenizer:
    """A tokenizer for ``model``, which came from ``source``, that pads on the right and cuts at ``max_length``.

    The one that was passed is left as it is.

    Raises:
        ModelError: there is none, it is slow, cannot pad, or has more tokens than the model has embeddings.
        MissingDependency: its vocabulary cannot be converted here.
    """
    language = kind_of(model) == "causal_lm"
    if tokenizer is None and isinstance(source, RecoveryResult):
        tokenizer = source.tokenizer
    if tokenizer is None and isinstance(source, str | PathLike):
        tokenizer = source
    if tokenizer is None:
        raise ModelError("no tokenizer", "pass the model's tokenizer")
    if isinstance(tokenizer, str | PathLike):
        folder = tokenizer_folder(tokenizer)
        found: Any = _language_tokenizer(folder) if language else load_tokenizer(folder)
    else:
        found = copy.deepcopy(tokenizer)
    if not getattr(found, "is_fast", False):
        raise ModelError(f"{type(found).__name__} is a slow tokenizer", "load it with AutoTokenizer, use_fast=True")
    if found.pad_token_id is None and language and found.eos_token is not None:
        found.pad_token = found.eos_token  # the mask says what is padding
    if found.pad_token_id is None:
        raise ModelError("the tokenizer has no padding token", "set tokenizer.pad_token")
    fault = too_few_embeddings(
        type(found).__name__, max(found.get_vocab().values()) + 1, model.get_input_embeddings().num_embeddings
    )
    if fault is not None:
        raise ModelError(*fault)
    check_padding(model, family_of(model), found.pad_token_id)
    found.padding_side = "right"
    found.model_max_length = length_of(model, found, max_length)
    return found  # type: ignore[no-any-return,unused-ignore]


def tokenizer_folder(source: str | PathLike[str]) -> Path:
    """Where the tokenizer of a source is: a Trainer may save it once, beside its checkpoints."""
    folder = _folder_of(source)
    return folder if (folder / "tokenizer_config.json").is_file() or not Path(source).is_dir() else Path(source)


def _language_tokenizer(folder: Path) -> Any:
    """That of a language model, which need not have a padding token."""
    check_tokenizer(folder)
    with reading(folder):
        return AutoTokenizer.from_pretrained(folder)


@contextmanager
def exact(model: PreTrainedModel, device: str | None = None) -> Iterator[PreTrainedModel]:
    """The model as scores, parity and export need it: float32, eager attention, on ``device`` (default: its own).

    A copy where that needs other weights; otherwise the model itself, put back as it was afterwards. Without the
    autocast of a Trainer in half precision, see `unwrapped`.
    """
    place = torch.device(device) if device is not None else device_of(model)
    whole = {weight.dtype for weight in model.parameters() if weight.is_floating_point()} <= {torch.float32}
    if not whole or place != device_of(model):
        model = copy.deepcopy(model).to(place).float()
    before, wrapped = model.config._attn_implementation, {name: model.__dict__.get(name) for name in _WRAPPED}
    model.set_attn_implementation("eager")
    try:
        yield unwrapped(model)
    finally:
        model.set_attn_implementation(before)
        model.__dict__.update({name: value for name, value in wrapped.items() if value is not None})


def unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """The model without the wrapper that Accelerate leaves around ``forward``, which computes in half precision."""
    if "_original_forward" in model.__dict__:
        for name in _WRAPPED:
            model.__dict__.pop(name, None)
    return model
