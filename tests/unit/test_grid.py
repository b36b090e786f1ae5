"""What the default run keeps of the products: every method on three model types, every type on two methods."""

from __future__ import annotations

from collections import Counter

import pytest
from grid import THREE_FAMILIES, families, kept, methods_by_family
from planted import MEASURING

from lwc.models.families import FAMILIES


def test_every_method_on_three_types_and_every_type_on_two_methods() -> None:
    cells = methods_by_family(MEASURING, sorted(FAMILIES))
    assert {cell.values for cell in cells} == {(method, name) for method in MEASURING for name in FAMILIES}
    default = [cell.values for cell in cells if not cell.marks]
    assert min(Counter(method for method, _ in default).values()) >= 3
    by_type = Counter(name for _, name in default)
    assert min(by_type.values()) >= 2
    assert len(by_type) == len(FAMILIES)
    assert len(default) < len(cells) / 2


def test_nothing_is_lost_and_something_always_stays() -> None:
    cells = families(sorted(FAMILIES))
    assert [cell.values for cell in cells] == [(name,) for name in sorted(FAMILIES)]
    assert {cell.values[0] for cell in cells if not cell.marks} == set(THREE_FAMILIES)
    assert [bool(cell.marks) for cell in kept([("http", 80.0), ("grpc", None)], [("http", 80.0)])] == [False, True]
    with pytest.raises(AssertionError, match="nothing"):
        kept(["a", "b"], ["c"])
