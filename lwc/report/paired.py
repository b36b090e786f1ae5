"""Paired tests of two models on the same rows.

The exact McNemar test (McNemar 1947; Dietterich 1998 recommends it for classifiers) looks only at rows that one of them
gets right and the other wrong. P-values are corrected for the number of runs that are compared with the reference
(Holm 1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import TypedDict

from lwc.core.arrays import Array
from lwc.core.marks import Intervals
from lwc.metrics.classification import accuracy, bootstrap, interval, macro_f1


@dataclass(frozen=True)
class Predictions:
    """Test rows in order of their id: ids (N,), label ids (N,) and answers of the compressed model (N,)."""

    ids: Array
    labels: NDArray[np.int64]
    compressed: NDArray[np.int64]


class Paired(TypedDict):
    """McNemar's test, and run − reference in accuracy and macro-F1 with paired-bootstrap intervals, on n rows."""

    n: int
    only_reference_right: int
    only_run_right: int
    p: float
    difference: Intervals


def mcnemar(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[int, int, float]:
    """Exact two-sided McNemar test of two models' class ids (N,) on the same labels (N,).

    Returns:
        How many rows only the first and only the second model gets right, and the binomial p-value of their split
        under equal odds; 1 where there is no such row.
    """
    from scipy.stats import binomtest

    truth = np.asarray(labels)
    one, two = np.asarray(first) == truth, np.asarray(second) == truth
    b, c = int((one & ~two).sum()), int((two & ~one).sum())
    return b, c, float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, in the order given."""
    adjusted = [0.0] * len(values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = highest
    return adjusted


def read_predictions(path: Path, truth: str = "label") -> Predictions:
    """What the evaluate stage wrote, in order of the rows' ids; its column ``truth`` counts as right."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    ids, labels, compressed = (table[name].to_numpy() for name in ("id", truth, "compressed"))
    order = np.argsort(ids, kind="stable")
    return Predictions(ids[order], labels[order].astype(np.int64), compressed[order].astype(np.int64))


def other_rows(one: Predictions, two: Predictions) -> str:
    """Why two runs' test rows are not the same, or ""."""
    if len(one.ids) != len(two.ids):
        return f"the test rows differ: {len(one.ids):,} and {len(two.ids):,}"
    foreign = len(set(two.ids.tolist()) - set(one.ids.tolist()))
    if foreign or not np.array_equal(one.ids, two.ids):
        return f"the test rows differ: {foreign:,} of {len(two.ids):,} ids are not in the reference"
    relabelled = int((one.labels != two.labels).sum())
    return f"the test labels differ: {relabelled:,} of {len(two.ids):,} rows" if relabelled else ""


def paired(reference: Predictions, other: Predictions, n_boot: int, seed: int) -> Paired:
    """The test of two runs whose predictions are of the same rows in the same order."""
    y = reference.labels
    only_reference, only_run, p = mcnemar(y, reference.compressed, other.compressed)
    drawn = bootstrap(y, {"reference": reference.compressed, "other": other.compressed}, n_boot, seed)
    difference: Intervals = {}
    for name, metric in (("accuracy", accuracy), ("macro_f1", macro_f1)):
        found = interval(
            metric(y, other.compressed) - metric(y, reference.compressed),
            drawn["other"][name] - drawn["reference"][name],
        )
        difference[name] = {"value": found["value"], "low": found["low"], "high": found["high"]}
    return {
        "n": len(y), "only_reference_right": only_reference, "only_run_right": only_run, "p": p,
        "difference": difference,
    }  # fmt: skip
