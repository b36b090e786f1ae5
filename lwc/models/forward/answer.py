"""The one answer of a model to each row: what a graph has to give, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lwc.models.types import Model


class Answer(nn.Module):
    """Positional inputs in, logits out: what a graph needs, no optional outputs.

    Logits are (B, C); those of a language model are of the token after the last real one, (B, V).
    """

    def __init__(self, model: Model, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = list(names)

    def forward(self, *values: Tensor) -> Tensor:
        inputs = dict(zip(self.names, values, strict=True))
        logits = self.model(**inputs).logits
        if logits.ndim == 2:
            return logits
        mask = inputs["attention_mask"]
        # Sizes that Python reads would freeze in the graph: the last real token is where the running count is highest.
        last = (mask.cumsum(dim=1) * mask).argmax(dim=1)
        return logits.gather(1, last[:, None, None].expand(-1, 1, logits.shape[2])).squeeze(1)
