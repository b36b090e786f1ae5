"""Which cells of a product the default run keeps; the others carry the marker ``grid``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest

# An encoder with post-norm blocks, one with pre-norm blocks and a decoder: between them, every way a block is built.
THREE_FAMILIES = ("bert", "llama", "modernbert")


def kept(values: Iterable[Any], default: Collection[Any]) -> list[Any]:
    """All values (tuples for several arguments) as parameters; those not among ``default`` wait for ``-m grid``."""
    cells = [value if isinstance(value, tuple) else (value,) for value in values]
    wanted = [value if isinstance(value, tuple) else (value,) for value in default]
    assert any(cell in wanted for cell in cells), "the default run would test nothing"
    return [pytest.param(*cell, marks=() if cell in wanted else pytest.mark.grid) for cell in cells]


def families(types: Iterable[str]) -> list[Any]:
    """Model types as parameters; the default run keeps three."""
    return kept(types, THREE_FAMILIES)


def methods_by_family(
    methods: Sequence[str], types: Sequence[str], always: Collection[str] = THREE_FAMILIES
) -> list[Any]:
    """Every (method, model type); the default run keeps every method on ``always`` and every type on two methods."""
    cells = []
    for number, model_type in enumerate(types):
        # Another two for each type, so that each method meets types beyond the three.
        two = {methods[number % len(methods)], methods[(number + len(methods) // 2) % len(methods)]}
        for method in methods:
            wanted = model_type in always or method in two
            cells.append(pytest.param(method, model_type, marks=() if wanted else pytest.mark.grid))
    return cells
