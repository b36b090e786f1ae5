"""Whatever the damage, rows and quarantine together account for every line."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lwc.data.cleaning import clean
from lwc.data.sources import mcauley

good = st.builds(
    lambda text, stars: json.dumps({"reviewText": text, "overall": stars}).encode(), st.text(), st.integers(1, 5)
)
# Damage on one line: no line end in it, and not only the white space and brackets that carry no record.
damaged = st.binary(min_size=1, max_size=40).map(lambda raw: b"x" + raw.replace(b"\n", b"")[:39])
lines = st.lists(st.one_of(good, damaged), min_size=1, max_size=30)


def count(content: bytes, name: str) -> tuple[int, list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        found = list(mcauley.read_file(path))
    return len(found), [item.reason for item in found if hasattr(item, "reason")]


@settings(max_examples=100, deadline=None)
@given(lines)
def test_rows_and_bad_are_all_lines(content: list[bytes]) -> None:
    read, _ = count(b"\n".join(content), "r.jsonl")
    assert read == len(content)


@settings(max_examples=100, deadline=None)
@given(lines, st.data())
def test_a_cut_gzip_gives_the_lines_before_the_cut_and_says_so(content: list[bytes], data: st.DataObject) -> None:
    whole = gzip.compress(b"\n".join(content))
    cut = whole[: data.draw(st.integers(2, len(whole) - 1))]
    read, reasons = count(cut, "r.jsonl.gz")
    assert 1 <= read <= len(content) + 1
    assert sum("gzip" in reason for reason in reasons) == 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_clean_text_can_be_stored_and_has_no_control_characters(text: str) -> None:
    found = clean(text)
    found.encode("utf-8")
    assert not any(ord(character) < 32 for character in found)
