"""Which attention kernel a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch.backends import cuda
from transformers import PreTrainedModel

from lwc.models.types import Model


@contextmanager
def fused_attention(*models: Model) -> Iterator[None]:
    """PyTorch's fused attention (SDPA) for a while, in those models that have it; their own is put back after.

    For training: a fifth faster on a CPU, equal up to rounding. Scores, parity and export use eager attention, which
    is exact under hooks and holes in the mask, and which every exporter knows.

    On Hopper and later GPUs PyTorch would ask cuDNN first for bf16. That builds a plan for every new shape of a batch,
    some tenths of a second for each, and batches here are of any length: the other kernels need no plan.
    """
    with ExitStack() as stack:
        stack.callback(cuda.enable_cudnn_sdp, cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]
        cuda.enable_cudnn_sdp(False)
        for model in models:
            if isinstance(model, PreTrainedModel) and model._supports_sdpa:
                stack.callback(model.set_attn_implementation, model.config._attn_implementation)
                model.set_attn_implementation("sdpa")
        yield
