"""What lwc asks of a model, its config and its tokenizer. Those of transformers fit, and so does anything alike.

Torch is imported for the type checker only: a module that merely names a model does not load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Option = bool | int | float | str | None
"""A keyword argument of a library's call."""


class Config(Protocol):
    """The config of a checkpoint. Fields that only some architectures have are read with ``getattr``."""

    model_type: str
    hidden_size: int
    vocab_size: int
    num_labels: int
    id2label: dict[int, str]
    pad_token_id: int | None
    problem_type: str | None
    numbers: list[float]
    """Of a regression that lwc has trained: the numbers that its labels stand for."""


class Output(Protocol):
    """What a pass forward returns. A model gives some of these, and some only when asked."""

    @property
    def logits(self) -> Tensor:
        """(B, C) of a classifier, (B, 1) of a regression, (B, T, V) of a language model."""

    @property
    def last_hidden_state(self) -> Tensor:
        """(B, T, D), or (M, D) at the positions asked for."""

    @property
    def attentions(self) -> Sequence[Tensor | None] | None:
        """(B, H, T, T) of each block."""


class Model(Protocol):
    """A task model: blocks somewhere under ``base_model`` (see `lwc.models.families`), and a head that gives logits."""

    training: bool

    @property
    def config(self) -> Config:
        """Counts the blocks, among other things."""

    @property
    def base_model(self) -> nn.Module:
        """The model without its head."""

    def __call__(self, *args: Tensor, **inputs: Tensor | Option) -> Output:
        """One pass forward."""

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of token vectors."""

    def get_output_embeddings(self) -> nn.Linear | None:
        """The layer that scores the vocabulary, None without one. Its weight may be that of the input embeddings."""

    def modules(self) -> Iterator[nn.Module]:
        """As of `torch.nn.Module`, like all that follow."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> object: ...

    def train(self, mode: bool = True, /) -> Self: ...

    def eval(self) -> Self: ...

    def requires_grad_(self, requires_grad: bool = True, /) -> Self: ...

    def to(self, device: str | torch.device, /) -> Self: ...

    def save_pretrained(self, folder: Path, /, *, safe_serialization: bool) -> object:
        """Write ``config.json`` and weights."""


M = TypeVar("M", bound=Model)
"""For functions that return the kind of model they were given."""


class Tokenizer(Protocol):
    """A fast tokenizer with a padding token: `lwc.models.load.load_tokenizer` refuses others."""

    is_fast: bool
    name_or_path: str
    model_max_length: int
    model_input_names: list[str]
    padding_side: str
    truncation_side: str
    pad_token: str
    pad_token_id: int
    unk_token: str | None
    unk_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    cls_token_id: int | None
    sep_token_id: int | None
    all_special_tokens: list[str]
    all_special_ids: list[int]
    vocab_files_names: dict[str, str]

    @property
    def backend_tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer` that does the work."""

    def __len__(self) -> int:
        """How many tokens there are, added ones included."""

    def __call__(self, text: str | list[str], /, **options: Option) -> Mapping[str, Any]:
        """``input_ids``, ``attention_mask`` and the other model inputs: lists, or tensors where these are asked for."""

    def convert_ids_to_tokens(self, ids: Sequence[int], /) -> list[str]: ...

    def get_vocab(self) -> dict[str, int]: ...

    def save_pretrained(self, folder: Path, /) -> object: ...
