"""Tiny random classifiers, one a family row, and data to run them on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from lwc.models.batches import Encoded

VOCAB = 64
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "num_labels": 3,
}
DISTILBERT: dict[str, Any] = {
    "vocab_size": VOCAB, "dim": 16, "n_heads": 2, "hidden_dim": 32,
    "max_position_embeddings": 40, "pad_token_id": 1, "num_labels": 3,
}  # fmt: skip
_DECODER: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 3, "num_key_value_heads": 1, "head_dim": 8}
# Windows far shorter than the texts, so that a block's kind of attention shows.
_SLIDING: dict[str, Any] = {**_DECODER, "sliding_window": 4}
_SWITCHED: dict[str, Any] = {**_SLIDING, "use_sliding_window": True}
EXTRA: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 16},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "local_attention": 8},
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16},
    "gpt2": {"n_inner": 32, "bos_token_id": 2, "eos_token_id": 3},
    "llama": _DECODER,
    "mistral": _SLIDING,
    "qwen2": {**_SWITCHED, "max_window_layers": 2},
    "qwen3": {**_SWITCHED, "max_window_layers": 2},
    "gemma": _DECODER,
    "gemma2": _SLIDING,
    "gemma3_text": {**_SLIDING, "sliding_window_pattern": 3},
    "phi": {"bos_token_id": 2, "eos_token_id": 3},
    "phi3": {"bos_token_id": 2, "eos_token_id": 3, "num_key_value_heads": 1},
    "smollm3": {**_SWITCHED, "no_rope_layer_interval": 3},
}
# What each block adds to the residual stream comes out of these layers: with their parameters 0 it is the identity.
# In a post-norm block (an encoder's, but ModernBERT's) that is so up to the eps of its norms, whose gains are 1 here.
_POST_NORM = ("attention.output.dense", "output.dense")
_PRE_NORM = ("self_attn.o_proj", "mlp.down_proj")
OUTPUTS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra", "deberta", "deberta-v2"), _POST_NORM),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "mpnet": ("attention.attn.o", "output.dense"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "smollm3"), _PRE_NORM),
    # These norm what is added, so that only the gains of these norms, which are 1 + weight, make it small.
    **dict.fromkeys(("gemma2", "gemma3_text"), ("post_attention_layernorm", "post_feedforward_layernorm")),
    "phi": ("self_attn.dense", "mlp.fc2"),
}


def tiny(model_type: str, blocks: int = 4, seed: int = 0, task: Any = AutoModelForSequenceClassification,
         **changes: Any) -> Any:  # fmt: skip
    """A random model of this type whose blocks matter: weights are larger than the usual initialisation."""
    torch.manual_seed(seed)
    if model_type == "distilbert":
        config = AutoConfig.for_model(model_type, n_layers=blocks, **{**DISTILBERT, **changes})
    else:
        sizes = {**SIZES, **EXTRA.get(model_type, {}), **changes}
        config = AutoConfig.for_model(model_type, num_hidden_layers=blocks, **sizes)
    model = task.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.25)
    return model


def tokens(rows: int = 5, seed: int = 0, shortest: int = 2, longest: int = 12) -> Encoded:
    """Random token ids of ragged lengths."""
    random = np.random.default_rng(seed)
    ids = [random.integers(4, VOCAB, size=random.integers(shortest, longest + 1)).tolist() for _ in range(rows)]
    return Encoded(ids, None, 1, 32, 0)


def learnable(rows: int, seed: int) -> tuple[Encoded, np.ndarray]:
    """Texts whose class is the token they hold most: a few steps learn it."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    ids = [[2, *random.integers(10 + 20 * label, 30 + 20 * label, size=random.integers(3, 9)).tolist(), 3]
           for label in labels]  # fmt: skip
    return Encoded(ids, None, 1, 32, 0), labels
