"""Why these blocks: the race and the constraints in the report; and the texts whose answer changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lwc.core.store import write_json
from lwc.report.document import Paragraph, Table
from lwc.report.examples import changed_answers
from lwc.report.importance import _selected


def said(selection: dict[str, Any], ranking: list[int]) -> tuple[str, list[Table]]:
    kept = [block for block in range(len(ranking)) if block not in selection["removed"]]
    blocks = _selected({"blocks_before": len(ranking), "kept": kept, **selection}, ranking)  # type: ignore[typeddict-item]
    text = " ".join(block.text for block in blocks if isinstance(block, Paragraph))
    return text, [block for block in blocks if isinstance(block, Table)]


def test_a_block_that_ranks_last_and_stays_is_explained() -> None:
    text, _ = said({"strategy": "fused", "removed": [2, 3], "required": [0]}, [1, 2, 3, 0])
    assert "Block 0 must stay by keep_first, keep_last or the model type" in text
    text, _ = said({"strategy": "named", "removed": [1]}, [1, 2, 3, 0])
    assert "Blocks 0, 2, 3 stay although removed blocks rank higher: the recipe names the blocks" in text
    text, _ = said({"strategy": "fused", "removed": [3, 0]}, [1, 2, 3, 0])
    assert text == "Selection strategy: fused.", "nothing to explain"


def test_the_race_is_shown_with_its_winner_marked() -> None:
    race = [
        {"steps": 40, "distances": [{"removed": [1, 2], "distance": 0.08}, {"removed": [2, 3], "distance": 0.12},
                                    {"removed": [0, 1], "distance": None}]},
        {"steps": 80, "distances": [{"removed": [1, 2], "distance": 0.05}, {"removed": [2, 3], "distance": 0.07}]},
    ]  # fmt: skip
    text, (table,) = said({"strategy": "racing", "removed": [1, 2], "race": race}, [1, 2, 3, 0])
    assert "nearest to the uncut model after a short recovery" in text
    assert table.rows[0] == ("1 of 2", "40", "1, 2", "0, 3", "0.0800", "goes on")
    assert table.rows[2] == ("1 of 2", "40", "0, 1", "2, 3", "diverged", "out")
    assert table.rows[table.strong[0]] == ("2 of 2", "80", "1, 2", "0, 3", "0.0500", "wins")
    assert "race of 3 candidates" in table.caption
    text, tables = said({"strategy": "racing", "removed": [1, 2], "race": []}, [0, 3, 1, 2])
    assert ("only one choice of blocks obeys the constraints" in text, tables) == (True, [])


def stages(folder: Path, **answers: Any) -> dict[str, Path]:
    ids = [11, 12, 13, 14]
    data, evaluate = folder / "data", folder / "evaluate"
    data.mkdir(parents=True)
    evaluate.mkdir()
    write_json(data / "labels.json", ["bad", "good"])
    texts = ["<b>works</b>", "broke", "fine " * 200, "as shown"]
    # Evaluation keeps rows by id, in whatever order.
    pq.write_table(pa.table({"id": ids, "text": texts, "label": answers["label"]}), data / "test.parquet")
    turned = {name: np.asarray(values)[::-1] for name, values in answers.items()}
    pq.write_table(pa.table({"id": ids[::-1], **turned}), evaluate / "predictions.parquet")
    return {"data": data, "evaluate": evaluate}


def test_texts_whose_answer_changed_are_shown_by_kind(tmp_path: Path) -> None:
    found = stages(tmp_path, label=[1, 0, 1, 0], base=[1, 1, 1, 0], compressed=[0, 0, 1, 0])
    section = changed_answers("classification", found)
    assert section is not None
    lost, won, _ = section.blocks
    assert isinstance(lost, Table)
    assert isinstance(won, Table)
    assert lost.stacked, "a phone has no room for a text beside three answers"
    assert lost.rows == (("<b>works</b>", "good", "good", "bad"),)
    assert lost.caption == "The base was right, the compressed model is wrong: 1 of 4 texts."
    assert won.rows == (("broke", "bad", "good", "bad"),)
    same = stages(tmp_path / "same", label=[1, 0, 1, 0], base=[1, 0, 1, 0], compressed=[1, 0, 1, 0])
    section = changed_answers("classification", same)
    assert section is not None
    first = section.blocks[0]
    assert isinstance(first, Paragraph)
    assert first.text == "No test text changed its answer."


def test_of_numbers_those_that_moved_most_and_long_texts_are_cut(tmp_path: Path) -> None:
    # As evaluation stores them: positions in the list of labels.
    found = stages(tmp_path, label=[4, 0, 2, 3], base=[4, 1, 2, 3], compressed=[4, 0, 0, 3])
    write_json(found["data"] / "labels.json", ["1", "2", "3", "4", "5"])
    section = changed_answers("regression", found)
    assert section is not None
    table = section.blocks[0]
    assert isinstance(table, Table)
    assert [row[1:] for row in table.rows] == [("3", "3", "1"), ("1", "2", "1")], "no text whose number stayed"
    assert table.rows[0][0].endswith(" …")
    assert len(table.rows[0][0]) <= 240
    assert table.caption.startswith("2 of 4 texts changed their nearest number.")


def test_of_a_language_model_the_end_of_the_text_is_shown_with_both_tokens(tmp_path: Path) -> None:
    base = ["the", ".", "a", "to"]
    found = stages(tmp_path, label=base, base=base, compressed=["the", "!", "b", "to"])
    texts = {"id": [11, 12, 13, 14], "text": ["one", "two", "start " * 100 + "end", "four"], "label": [0, 0, 0, 0]}
    pq.write_table(pa.table(texts), found["data"] / "test.parquet")
    section = changed_answers("causal_lm", found)
    assert section is not None
    table = section.blocks[0]
    assert isinstance(table, Table)
    assert table.header == ("text", "base", "compressed")
    assert {row[1:] for row in table.rows} == {(".", "!"), ("a", "b")}
    (long,) = (row[0] for row in table.rows if row[1] == "a")
    assert (long[0], long[-3:], len(long) <= 240) == ("…", "end", True)
    assert table.caption.startswith("2 of 4 texts")


@pytest.mark.parametrize("gone", ["data/test.parquet", "evaluate/predictions.parquet"])
def test_a_run_without_its_texts_has_no_examples(tmp_path: Path, gone: str) -> None:
    found = stages(tmp_path, label=[1, 0, 1, 0], base=[1, 0, 1, 0], compressed=[1, 0, 1, 0])
    (tmp_path / gone).unlink()
    assert changed_answers("classification", found) is None
    assert changed_answers("classification", {"data": found["data"]}) is None
