"""Which attention kernel a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any


@contextmanager
def fused_attention(*models: Any) -> Iterator[None]:
    """PyTorch's fused attention (SDPA) for a while, in those models that have it; their own is put back after.

    For training: a fifth faster on a CPU, equal up to rounding. Scores, parity and export use eager attention, which
    is exact under hooks and holes in the mask, and which every exporter knows.
    """
    with ExitStack() as stack:
        for model in models:
            if getattr(model, "_supports_sdpa", False):
                stack.callback(model.set_attn_implementation, model.config._attn_implementation)
                model.set_attn_implementation("sdpa")
        yield
