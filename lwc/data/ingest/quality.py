"""The quality report of a stream: exact counts, and estimates with their error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lwc.core.arrays import Array
from lwc.data.ingest.dedupe import CONFLICT, KEPT, NEAR, REPEAT
from lwc.data.ingest.fingerprints import bands_of, missed
from lwc.data.ingest.part import state_bytes
from lwc.data.ingest.sketches import HLL_ERROR, LONGEST_COUNTED, HyperLogLog, quantile
from lwc.data.quality import balance
from lwc.data.splits import NAMES, largest_user
from lwc.recipe import Data

_PERCENTILES = (5, 25, 50, 75, 95, 99)
_SUMMED = ("read", "rows", "left_out", "without_user", "without_item", "without_time")
_COUNTED = ("bad", "labels", "values", "languages")


def totals(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of all parts' summaries, read one at a time: 2,000 of them would take hundreds of megabytes."""
    total: dict[str, Any] = dict.fromkeys(_SUMMED, 0)
    total.update({name: Counter() for name in _COUNTED}, months={}, diversity=Counter())
    total["lengths"] = np.zeros(LONGEST_COUNTED + 1, dtype=np.int64)
    total["sketches"] = {name: HyperLogLog() for name in ("users", "items", "words")}
    for part in parts:
        for name in _SUMMED:
            total[name] += part[name]
        for name in (*_COUNTED, "diversity"):
            total[name].update(part[name])
        for month, labels in part["months"].items():
            total["months"].setdefault(month, Counter()).update(labels)
        total["lengths"][: len(part["lengths"])] += np.array(part["lengths"], dtype=np.int64)
        for name, sketch in total["sketches"].items():
            sketch.merge(HyperLogLog.of(part["sketches"][name]))
    return total


def describe(
    data: Data,
    total: Mapping[str, Any],
    decisions: Array,
    shards: Sequence[Mapping[str, Any]],
    kind: str,
    names: Sequence[str],
) -> dict[str, Any]:
    """Counts, duplicates, splits, distinct values, languages and labels by month, from `totals`."""
    why = [int(np.count_nonzero(decisions == one)) for one in range(4)]  # bincount would take 8 bytes a row
    threshold, lengths = data.near_duplicate_threshold, total["lengths"]
    return {
        "source": data.main.kind,
        "text_fields": list(data.text_fields),
        "rows_read": total["read"],
        "rows_bad": dict(total["bad"]),
        "rows_left_out_by_label_scheme": total["left_out"],
        "duplicates": {"exact": why[REPEAT], "conflicting_labels": why[CONFLICT], "near": why[NEAR]},
        "near_duplicates": {
            "threshold": threshold,
            "rate": why[NEAR] / max(1, why[KEPT] + why[NEAR]),
            # The probability of missing a pair at the threshold; pairs that are found are compared exactly.
            "missed_at_threshold": missed(threshold, bands_of(threshold)) if threshold < 1 else None,
        },
        "rows_used": why[KEPT],
        "split_by": kind,
        "rows_without_user": sum(shard["without_user"] for shard in shards),
        "rows_without_time": sum(shard["without_time"] for shard in shards),
        # Each shard counts the users with at least 1% of its rows, so that the sum may be too low by that much.
        "largest_user": largest_user(sum((Counter(shard["users"]) for shard in shards), Counter()), why[KEPT])
        if kind == "user"
        else None,
        "label_names": list(names),
        "splits": {name: _split(shards, name, names) for name in NAMES},
        "distinct": {
            "relative_standard_error": HLL_ERROR,
            **{name: sketch.estimate() for name, sketch in total["sketches"].items()},
            "rows_without_user": total["without_user"],
            "rows_without_item": total["without_item"],
        },
        "words": {
            **{f"p{p}": quantile(lengths, p / 100) for p in _PERCENTILES},
            "counts": np.trim_zeros(lengths, "b").tolist(),
        },
        "languages": dict(total["languages"].most_common()),
        "diversity": _diversity(total["diversity"]),
        "months": {month: dict(labels) for month, labels in sorted(total["months"].items())},
        "state_bytes_per_million_rows": state_bytes(threshold),
    }


def _split(shards: Sequence[Mapping[str, Any]], name: str, names: Sequence[str]) -> dict[str, Any]:
    return balance(np.sum([[shard["labels"][name][label] for label in names] for shard in shards], axis=0), names)


def _diversity(counted: Mapping[str, int]) -> dict[str, Any]:
    """Distinct words per 10,000 words, averaged over windows of that length, because the ratio falls with length."""
    windows = counted["windows"]
    ratio = counted["distinct"] / (windows * 10_000) if windows else None
    return {"words": 10_000, "windows": windows, "type_token_ratio": ratio}
