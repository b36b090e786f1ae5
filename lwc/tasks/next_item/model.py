"""A stock GPT-2 over item numbers, and the view of it that everything else in lwc reads as a classifier.

GPT-2 *is* SASRec's setting (Kang & McAuley 2018): learned positions, pre-norm blocks, dropout,
causal attention, and one table of item vectors for reading and answering (tied weights). The checkpoint is a plain
`GPT2LMHeadModel`. Token 0 is padding, token i + 1 is item number i.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, set_seed
from transformers.modeling_outputs import BaseModelOutput

from lwc.core.errors import ModelError
from lwc.models.batches import Encoded
from lwc.models.types import Config, Model
from lwc.recipe import FromConfig

PAD = 0


class NextItemView(nn.Module):
    """A language model over items as a classifier: logits (B, V) of the next item after the last real one.

    With it every scorer, block surgery and the training loop work as they do for texts: it has the model's own
    ``config``, blocks and embeddings, and its cross-entropy is that of the next item.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model: Model = model

    @property
    def config(self) -> Config:
        """The stock model's config: surgery counts blocks there."""
        return self.model.config

    @property
    def base_model(self) -> nn.Module:
        """Where the blocks are."""
        return self.model.base_model

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of item vectors, which also answers."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Linear:
        """The layer that answers with them."""
        head = self.model.get_output_embeddings()
        assert head is not None  # a language model
        return head

    def save_pretrained(self, folder: Path, *, safe_serialization: bool) -> None:
        """A plain `GPT2LMHeadModel` checkpoint: loads without lwc."""
        self.model.save_pretrained(folder, safe_serialization=safe_serialization)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states (B, T, D) of rows that are padded on the right, after the final norm."""
        output = self.model.base_model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        return output.last_hidden_state  # type: ignore[no-any-return]

    def item_logits(self, hidden: Tensor) -> Tensor:
        """Logits (…, V) of the items, padding left out, from hidden states (…, D)."""
        return self.get_output_embeddings()(hidden)[..., PAD + 1 :]  # type: ignore[no-any-return]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor | None = None) -> Any:
        """``.logits`` (B, V) after the last real item of each row.

        With ``positions`` (B, T) ``.last_hidden_state`` (M, D) at these M positions instead: what training asks, which
        need not compute a logit for every item.
        """
        hidden = self.hidden(input_ids, attention_mask)
        if positions is not None:
            return BaseModelOutput(last_hidden_state=hidden[positions])
        # A row without any item reads place 0; nobody asks for its answer.
        last = (attention_mask.sum(dim=1) - 1).clamp_min(0)
        final = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
        return SimpleNamespace(logits=self.item_logits(final))


def build(settings: FromConfig, items: int, seed: int) -> NextItemView:
    """A new model over so many items, seeded random weights."""
    set_seed(seed)
    config = GPT2Config(
        vocab_size=items + 1,
        n_positions=settings.max_length,
        n_embd=settings.hidden,
        n_layer=settings.blocks,
        n_head=settings.heads,
        n_inner=settings.intermediate or 4 * settings.hidden,
        embd_pdrop=settings.dropout,
        resid_pdrop=settings.dropout,
        attn_pdrop=settings.dropout,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    return NextItemView(GPT2LMHeadModel(config)).eval()


def load(folder: Path) -> NextItemView:
    """The model of a checkpoint folder, float32, eval mode.

    Raises:
        ModelError: there is none, or weights are missing from it.
    """
    try:
        model, info = GPT2LMHeadModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager", output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: cannot be loaded: {error}", "run the train stage again") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise ModelError(f"{folder}: weights are missing or have another shape", "run the train stage again")
    return NextItemView(model).eval()


def encoded(histories: Sequence[Sequence[int]], max_length: int) -> Encoded:
    """The last ``max_length`` items of each history as token ids; rows must not be empty.

    Raises:
        ValueError: a history is empty: it has no last item to answer after.
    """
    if any(not history for history in histories):
        raise ValueError("an empty history cannot be encoded")
    ids = [[number + PAD + 1 for number in history[-max_length:]] for history in histories]
    return Encoded(ids, None, PAD, max_length, sum(len(history) > max_length for history in histories))
