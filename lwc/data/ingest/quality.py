"""The quality report of a stream: counts are exact, sketches say their error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lwc.arrays import Array
from lwc.data.ingest.dedupe import CONFLICT, KEPT, NEAR, REPEAT
from lwc.data.ingest.fingerprints import bands_of, missed
from lwc.data.ingest.part import state_bytes
from lwc.data.ingest.sketches import HLL_ERROR, LONGEST_COUNTED, HyperLogLog, added, quantile
from lwc.data.splits import NAMES
from lwc.recipe import Data

_PERCENTILES = (5, 25, 50, 75, 95, 99)


def describe(
    data: Data, parts: Sequence[Mapping[str, Any]], decisions: Array, shards: Sequence[Mapping[str, Any]], kind: str,
    names: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """What the stream was: counts, duplicates, splits, distinct things, lengths, languages, and labels over time."""
    why = np.bincount(decisions, minlength=4).tolist()
    bands = bands_of(data.near_duplicate_threshold)
    threshold = data.near_duplicate_threshold
    return {
        "source": data.source.kind,
        "text_fields": list(data.text_fields),
        "rows_read": sum(part["read"] for part in parts),
        "rows_bad": dict(added(parts, "bad")),
        "rows_left_out_by_label_scheme": sum(part["left_out"] for part in parts),
        "duplicates": {"exact": why[REPEAT], "conflicting_labels": why[CONFLICT], "near": why[NEAR]},
        "near_duplicates": {
            "threshold": threshold,
            "rate": why[NEAR] / max(1, why[KEPT] + why[NEAR]),
            # A text at the threshold is missed so often; what is found is compared exactly.
            "missed_at_threshold": missed(threshold, bands) if threshold < 1 else None,
        },
        "rows_used": why[KEPT],
        "split_by": kind,
        "label_names": list(names),
        "splits": {name: _split(shards, name, names) for name in NAMES},
        "distinct": _distinct(parts),
        "words": _lengths(parts),
        "languages": dict(added(parts, "languages").most_common()),
        "diversity": _diversity(parts),
        "months": _months(parts),
        "state_bytes_per_million_rows": state_bytes(data.near_duplicate_threshold),
    }


def _split(shards: Sequence[Mapping[str, Any]], name: str, names: Sequence[str]) -> dict[str, Any]:
    rows = sum(shard["rows"][name] for shard in shards)
    labels = {label: sum(shard["labels"][name][label] for shard in shards) for label in names}
    return {"rows": rows, "labels": labels, "majority_share": max(labels.values()) / max(1, rows)}


def _distinct(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"relative_standard_error": HLL_ERROR}
    for name in ("users", "items", "words"):
        total = HyperLogLog()
        for part in parts:
            total.merge(HyperLogLog.of(part["sketches"][name]))
        found[name] = total.estimate()
    found["rows_without_user"] = sum(part["without_user"] for part in parts)
    found["rows_without_item"] = sum(part["without_item"] for part in parts)
    return found


def _lengths(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = np.zeros(LONGEST_COUNTED + 1, dtype=np.int64)
    for part in parts:
        counts[: len(part["lengths"])] += np.array(part["lengths"], dtype=np.int64)
    return {**{f"p{p}": quantile(counts, p / 100) for p in _PERCENTILES}, "counts": np.trim_zeros(counts, "b").tolist()}


def _diversity(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Distinct words in 10,000 running ones: a mean over windows of one length, because the ratio falls with it."""
    windows = sum(part["diversity"]["windows"] for part in parts)
    distinct = sum(part["diversity"]["distinct"] for part in parts)
    ratio = distinct / (windows * 10_000) if windows else None
    return {"words": 10_000, "windows": windows, "type_token_ratio": ratio}


def _months(parts: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    total: dict[str, dict[str, int]] = {}
    for part in parts:
        for month, labels in part["months"].items():
            mine = total.setdefault(month, {})
            for label, count in labels.items():
                mine[label] = mine.get(label, 0) + count
    return dict(sorted(total.items()))
