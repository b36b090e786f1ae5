"""See what each block reads and writes while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from lwc.models.families import BlockOutput, Family, block_input, block_list, hidden_states
from lwc.models.types import Model


@contextmanager
def watched(model: Model, family: Family, look: Callable[[int, Tensor, Tensor], None]) -> Iterator[None]:
    """Call ``look(block, h_in, h_out)``, hidden states (B, T, D), each time a block has run."""

    def watch(index: int) -> Callable[[nn.Module, tuple[Tensor, ...], Mapping[str, Tensor], BlockOutput], None]:
        return lambda _, args, kwargs, output: look(index, block_input(args, kwargs), hidden_states(output))

    with ExitStack() as stack:
        for index, block in enumerate(block_list(model, family)):
            stack.callback(block.register_forward_hook(watch(index), with_kwargs=True).remove)
        yield
