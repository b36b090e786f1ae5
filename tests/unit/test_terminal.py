"""Figures as people see them in the terminal."""

from __future__ import annotations

import pytest

from lwc.cli import terminal


def test_a_tree_has_no_raw_lists_and_nothing_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(terminal, "line", lines.append)
    terminal.tree({
        "label_tokens": [], "leaks": {}, "label_names": ["bad", "good"], "rows": 0, "share": 0.123456,
        "label_values": [{"value": "1", "label": "bad", "rows": 3}, {"value": "3", "label": None, "rows": 0.5}],
    })  # fmt: skip
    assert lines == [
        "label_names: bad, good", "rows: 0", "share: 0.1235", "label_values:",
        "  value 1, label bad, rows 3", "  value 3, rows 0.5",
    ]  # fmt: skip
