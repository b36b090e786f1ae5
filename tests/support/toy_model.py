"""A model of a type that lwc has never heard of."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import VOCAB
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class ToyConfig(PretrainedConfig):
    model_type = "toy"

    def __init__(self, depth: int = 4, hidden_size: int = 16, gains: list[float] | None = None, **more: Any) -> None:
        self.depth = depth
        self.hidden_size = hidden_size
        self.gains = [1.0 + index for index in range(depth)] if gains is None else gains
        super().__init__(**more)


class ToyUnit(nn.Module):
    """A gated sum over the tokens seen; it returns a pair, and its gain is read from the config."""

    def __init__(self, config: ToyConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.gain = config.gains[layer_idx]
        self.inner, self.outer = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(2))

    def forward(self, hidden: Tensor, mask: Tensor) -> tuple[Tensor, None]:
        mean = (hidden * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True)
        return hidden + self.gain * self.outer(torch.tanh(self.inner(hidden + mean))), None


class ToyForSequenceClassification(PreTrainedModel):
    config_class = ToyConfig
    base_model_prefix = "trunk"

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        self.trunk = nn.Module()
        self.trunk.words = nn.Embedding(VOCAB, config.hidden_size)
        self.trunk.tower = nn.Module()
        self.trunk.tower.units = nn.ModuleList(ToyUnit(config, index) for index in range(config.depth))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        words: nn.Module = self.trunk.words
        return words

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        hidden, mask = self.trunk.words(input_ids), attention_mask.unsqueeze(-1).float()
        for unit in self.trunk.tower.units:
            hidden = unit(hidden, mask)[0]
        return SequenceClassifierOutput(logits=self.classifier((hidden * mask).sum(dim=1) / mask.sum(dim=1)))
