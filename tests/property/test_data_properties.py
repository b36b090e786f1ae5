"""Whatever the damage, rows and quarantine together account for every line."""

from __future__ import annotations

import gzip
import json
import tempfile
import unicodedata
from pathlib import Path

from hypothesis import assume, given, settings
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


WHOLE = b"".join(
    json.dumps({"reviewText": f"text {n}\n\u00e9", "overall": n % 5 + 1, "unixReviewTime": n}).encode() + b"\n"
    for n in range(20)
)
# Byte-order marks and signatures name another format; they have errors of their own.
OTHER_FORMATS = (b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b")


@st.composite
def harmed(draw: st.DrawFn, content: bytes, safe: int) -> bytes:
    """``content`` with bytes changed, then perhaps cut; its first ``safe`` bytes stay."""
    found = bytearray(content)
    for at in draw(st.lists(st.integers(safe, len(content) - 1), max_size=8)):
        found[at] = draw(st.integers(0, 255))
    return bytes(found[: draw(st.integers(safe, len(content)))])


@settings(max_examples=300, deadline=None)
@given(harmed(WHOLE, 0))
def test_every_line_of_a_damaged_file_is_a_row_or_in_quarantine(content: bytes) -> None:
    assume(not content.startswith(OTHER_FORMATS))
    first, *rest = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    parts = [first.strip().removeprefix(b"[").strip(), *(part.strip() for part in rest)]
    # Brackets and commas of an array, alone on their line, carry no record.
    expected = sum(part not in (b"", b"[", b"]", b",") for part in parts)
    assert count(content, "r.jsonl")[0] == expected


@settings(max_examples=300, deadline=None)
@given(harmed(gzip.compress(WHOLE, mtime=0), 2))
def test_a_damaged_gzip_is_reported_not_raised(content: bytes) -> None:
    read, reasons = count(content, "r.jsonl.gz")
    if content != gzip.compress(WHOLE, mtime=0):
        assert reasons or read == 20  # bytes of the header that carry no data may change
    else:
        assert (read, reasons) == (20, [])


def test_clean_takes_out_what_unicode_calls_control_surrogate_or_format_but_emoji_joiners() -> None:
    for code in range(0x110000):
        character = chr(code)
        if character in "<&" or (category := unicodedata.category(character)) not in ("Cc", "Cs", "Cf"):
            continue
        expected = "a" + (character if character == "\u200d" else " ") + "b"
        assert clean(f"a{character}b") == expected, (hex(code), category)
