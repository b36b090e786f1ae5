"""Folding, fingerprints and sketches against the plain way of doing the same."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lwc.core.spelling import LONE
from lwc.data.cleaning import clean
from lwc.data.duplicates import fold
from lwc.data.ingest import folding
from lwc.data.ingest.fingerprints import (
    _DRAWS,
    _NONE,
    SLOTS,
    _borrowed,
    band_keys,
    bands_of,
    missed,
    shingles,
    signatures,
)
from lwc.data.ingest.folding import LONGEST, Folded, mix
from lwc.data.ingest.sketches import (
    _PLACES,
    HLL_ERROR,
    HyperLogLog,
    _function_words,
    diversity,
    languages,
    lengths,
    months,
    quantile,
)
from lwc.data.ingest.strings import clean_many
from lwc.recipe import Labels
from lwc.report.data_page import data_page

words = st.sampled_from(
    [
        "good",
        "Good",
        "GOOD",
        "caf\u00e9",
        "it's",
        "x" * 300,
        "_",
        "\u00df",
        "\u4f60\u597d",
        "\u0915\u0941",
        "\U0001f44d",
        "5",
        "-",
        "...",
    ]
)
texts = st.one_of(st.text(max_size=40), st.lists(words, max_size=12).map(" ".join)).map(clean)


def fold_many(found: Sequence[str]) -> Folded:
    return folding.fold_many(pa.array(found, pa.string()))


@settings(max_examples=150, deadline=None)
@given(st.lists(texts, min_size=1, max_size=8))
def test_folding_many_is_folding_each(found: list[str]) -> None:
    folded = [fold(text) for text in found]
    many = fold_many(found)
    assert np.diff(many.starts).tolist() == [len(text.split()) for text in folded]
    every = [word for text in folded for word in text.split()]
    pairs = [(len(set(folded)), len(set(many.keys.tolist()))), (len(set(every)), len(set(many.words.tolist())))]
    assert all(plain == hashed for plain, hashed in pairs)
    for one, other in zip(found, folded, strict=True):
        assert fold_many([one]).keys[0] == fold_many([other]).keys[0]


def test_a_huge_text_is_hashed_whole_and_fingerprinted_by_its_beginning() -> None:
    long = "word " * 20_000
    one, other = fold_many([long + "end"]), fold_many([long + "END."])
    assert one.keys[0] == other.keys[0] != fold_many([long + "other"]).keys[0]
    assert len(one.words) == -(-LONGEST // 5)


def test_shingles_stay_inside_their_text() -> None:
    folded = fold_many(["a b c d", "x y", "a b c", "b c d"])
    hashes, text = shingles(folded.words, folded.starts)
    assert text.tolist() == [0, 0, 1, 2, 3]
    assert hashes[0] == hashes[3]
    assert hashes[1] == hashes[4]
    assert len(set(hashes.tolist())) == 3


@pytest.mark.parametrize(("length", "changed"), [(14, 0.15), (40, 0.1), (300, 0.3)])
def test_slots_agree_as_often_as_texts_are_similar(length: int, changed: float) -> None:
    source = random.Random(length)
    agreed, similarity = [], []
    for _ in range(400):
        one = [f"w{source.randrange(10**6)}" for _ in range(length)]
        other = [word if source.random() > changed / 3 else "other" for word in one]
        folded = fold_many([" ".join(one), " ".join(other)])
        hashes, text = shingles(folded.words, folded.starts)
        a, b = set(hashes[text == 0].tolist()), set(hashes[text == 1].tolist())
        similarity.append(len(a & b) / len(a | b))
        signature = signatures(folded.words, folded.starts)
        agreed.append((signature[0] == signature[1]).mean())
    assert np.mean(agreed) == pytest.approx(np.mean(similarity), abs=0.02)


def test_near_copies_share_a_band_as_often_as_stated() -> None:
    source = random.Random(5)
    pairs = []
    for _ in range(1000):  # 40 words, the last two changed: 36 of 40 3-grams shared, similarity 0.9
        one = [f"w{source.randrange(10**6)}" for _ in range(40)]
        pairs += [" ".join(one), " ".join([*one[:38], f"v{source.randrange(10**6)}", f"v{source.randrange(10**6)}"])]
    folded = fold_many(pairs)
    keys = band_keys(signatures(folded.words, folded.starts), bands_of(0.9))
    shared = (keys[:, 0::2] == keys[:, 1::2]).any(axis=0).mean()
    assert 1 - shared == pytest.approx(missed(36 / 40, 8), abs=0.015)
    strangers = (keys[:, 0:-2:2] == keys[:, 2::2]).any(axis=0).mean()
    assert strangers == 0
    assert SLOTS % bands_of(0.6) == 0


@pytest.mark.parametrize("count", [0, 1, 50, 5_000, 40_000, 1_000_000])
def test_distinct_counts_are_within_four_standard_errors(count: int) -> None:
    sketch = HyperLogLog()
    hashes = mix(np.arange(count, dtype=np.uint64))
    for part in np.array_split(np.concatenate([hashes, hashes[: count // 2]]), 3):
        sketch.add(part)
    assert abs(sketch.estimate() - count) <= max(1, 4 * HLL_ERROR * count)


def test_sketches_of_parts_are_the_sketch_of_the_whole() -> None:
    hashes = mix(np.arange(30_000, dtype=np.uint64))
    whole, one, other = HyperLogLog(), HyperLogLog(), HyperLogLog()
    whole.add(hashes)
    one.add(hashes[:20_000])
    other.add(hashes[10_000:])
    one.merge(HyperLogLog.of(other.text()))
    assert (one.registers == whole.registers).all()


def test_languages_are_told_by_function_words() -> None:
    said = {
        "English": "this is the best cable that I have ever had and it works with all of my things",
        "Spanish": "es muy bueno pero no me gusta el color de la caja que lo trae",
        "German": "das ist sehr gut und ich bin mit der Lieferung nicht zufrieden aber es geht",
        "French": "il est très bien et je ne suis pas du tout content avec la couleur",
        "other": "zxcv qwer asdf poiu lkjh mnbv uytr ewqa",
        "too short to tell": "good",
    }
    folded = fold_many(list(said.values()))
    assert languages(folded.words, folded.starts) == Counter(dict.fromkeys(said, 1))


def test_lengths_diversity_months_and_quantiles() -> None:
    folded = fold_many(["one two three", "one", "a " * 3000])
    counts = lengths(folded.starts)
    assert (counts[1], counts[3], counts[-1], counts.sum()) == (1, 1, 1, 3)
    assert quantile(counts, 0.5) == 3
    running = mix(np.tile(np.arange(2_500, dtype=np.uint64), 10))
    assert diversity(running) == (5_000, 2)
    assert months(pa.array([0, 86_400 * 40, None, 86_400]), pa.array(["a", "a", "a", "b"]).dictionary_encode()) == {
        "1970-01": {"a": 1, "b": 1},
        "1970-02": {"a": 1},
    }


def test_the_page_says_what_was_measured_and_how_well() -> None:
    split = {"rows": 50, "labels": {"negative": 20, "positive": 30}, "majority_share": 0.6}
    quality = {
        "source": "mcauley", "text_fields": ["body"], "rows_read": 200, "rows_bad": {"bad <JSON>": 7},
        "rows_left_out_by_label_scheme": 13, "duplicates": {"exact": 20, "conflicting_labels": 4, "near": 6},
        "near_duplicates": {"threshold": 0.9, "rate": 0.04, "missed_at_threshold": 0.0111}, "rows_used": 150,
        "split_by": "user", "label_names": ["negative", "positive"],
        "splits": {"train": split, "validation": split, "test": split},
        "distinct": {"relative_standard_error": 0.008125, "users": 123, "items": 45, "words": 678},
        "words": {"p5": 1, "p50": 9, "counts": [0, 5, 9, 100]}, "languages": {"English": 180},
        "diversity": {"words": 10_000, "windows": 3, "type_token_ratio": 0.21},
        "months": {f"2014-{m:02d}": {"negative": 10, "positive": 20} for m in range(1, 13)},
        "state_bytes_per_million_rows": {"disk": 113_000_000, "memory": 1_000_000, "split": 0},
        "seconds": {"read": 61.0},
    }  # fmt: skip
    page = data_page(quality, "mine", Labels(), "classification")
    for part in ("Data of mine", "bad &lt;JSON&gt;", "± 0.8 %", "1.1 %", "21.0 %", "113 MB", "1 min 01 s", "150"):
        assert part in page, part
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page


raw_texts = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.text(st.sampled_from(" \t\n\x00a.&;<>/\u00e9\u2028"), max_size=12),
        st.lists(st.sampled_from(["<br />", "<b>", "&amp;", "&#34;", "  ", "a", "Z", "\x7f"]), max_size=8).map("".join),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(raw_texts, st.integers(0, 3))
def test_cleaning_many_is_cleaning_each(found: list[str], left_out: int) -> None:
    found = [LONE.sub(" ", text) for text in found]
    given = pa.array(found, pa.string())[left_out:]  # a slice shares the bytes of the whole
    assert clean_many(given).to_pylist() == [clean(text) for text in found[left_out:]]


def test_texts_that_differ_only_far_into_a_giant_word_have_other_keys() -> None:
    script = "\u4f60" * 100  # 300 bytes without a space
    one, other, same = fold_many([script + "a b"]), fold_many([script + "c b"]), fold_many(["x", script + "A  b"])
    assert one.keys[0] != other.keys[0]
    assert one.keys[0] == same.keys[1]


def test_the_order_of_words_is_part_of_the_key() -> None:
    keys = fold_many(["a b c", "c b a", "a b", "a  B, c", ""]).keys.tolist()
    assert len(set(keys)) == 4
    assert keys[0] == keys[3]


def test_empty_slots_borrow_as_one_at_a_time_does() -> None:
    source = np.random.default_rng(3)
    found = source.integers(0, 1000, (SLOTS, 50), dtype=np.uint32)
    found[source.random((SLOTS, 50)) < np.linspace(0, 1, 50)] = _NONE
    found[7, found.min(axis=0) == _NONE] = 5
    expected = found.copy()
    for text in range(50):
        for slot in np.flatnonzero(found[:, text] == _NONE):
            attempts = found[_DRAWS[:, slot], text]
            expected[slot, text] = attempts[attempts != _NONE][0]
    assert (_borrowed(found) == expected).all()


def test_no_two_function_words_share_a_place() -> None:
    _, hashes, _ = _function_words()
    assert len(np.unique(hashes & np.uint64((1 << _PLACES) - 1))) == len(hashes)
