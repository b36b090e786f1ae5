"""The one answer of a model to each row: what a graph has to give, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lwc.models.source import is_language_model
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
        if not is_language_model([type(self.model).__name__]):
            return self.model(**inputs).logits
        mask = inputs["attention_mask"]
        # Sizes that Python reads would freeze in the graph: the last real token is where the running count is highest.
        last = (mask.cumsum(dim=1) * mask).argmax(dim=1)

        def last_alone(_: nn.Module, args: tuple[Tensor, ...]) -> Tensor:
            hidden = args[0]
            return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[2])).squeeze(1)

        # In front of the head: logits of all positions, (B, T, V), are gigabytes. What the model does to logits after
        # its head (soft caps, scales) stays its own.
        head = self.model.get_output_embeddings()
        assert head is not None, "a language model without a head"
        hook = head.register_forward_pre_hook(last_alone)
        try:
            return self.model(**inputs).logits
        finally:
            hook.remove()
