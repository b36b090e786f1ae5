"""READINGS: which figures tell the quality of each task, one row a task. What people are shown is read from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """A quality of ``evaluation.json``. Retention is always the better the higher, 1 = all of the base's quality."""

    key: str
    name: str
    lower_is_better: bool = False


@dataclass(frozen=True)
class Reading:
    """The two headline metrics of a task, further ones for the table, and its floors as ``(key, title)``.

    ``counted`` are what quality is over, ``asked`` what the endpoint is sent; ``served`` the figures of its answers.
    """

    metrics: tuple[Metric, Metric]
    further: tuple[Metric, ...]
    floors: tuple[tuple[str, str], ...]
    counted: str = "texts"
    asked: str = "texts"
    served: Mapping[str, str] = field(
        default_factory=lambda: {
            "accuracy": "served accuracy",
            "offline_accuracy": "offline accuracy",
            "macro_f1": "served macro-F1",
        }
    )


READINGS: dict[str, Reading] = {
    "classification": Reading(
        (Metric("accuracy", "accuracy"), Metric("macro_f1", "macro-F1")),
        (Metric("balanced_accuracy", "balanced accuracy"), Metric("ece", "calibration error", lower_is_better=True)),
        (("majority", "the majority class"), ("tfidf", "TF-IDF + logistic regression")),
    ),
    "regression": Reading(
        (Metric("mean_absolute_error", "mean absolute error", lower_is_better=True), Metric("spearman", "Spearman ρ")),
        (),
        (("median", "the median of train"), ("tfidf", "TF-IDF + ridge regression")),
        served={"accuracy": "served accuracy of the nearest number", "offline_accuracy": "offline accuracy"},
    ),
    "causal_lm": Reading(
        (
            Metric("perplexity", "perplexity", lower_is_better=True),
            Metric("next_token_accuracy", "next-token accuracy"),
        ),
        (),
        (("unigram", "token frequencies of train"),),
        counted="slices",
        served={"accuracy": "served agreement with the uncut model", "offline_accuracy": "offline agreement"},
    ),
    "next_item": Reading(
        (Metric("ndcg_at_10", "NDCG@10"), Metric("hr_at_10", "HR@10")),
        (Metric("mrr", "MRR"), Metric("coverage", "coverage")),
        (
            ("popularity", "popularity"),
            ("recent_popularity", "recent popularity"),
            ("item_knn", "item-kNN"),
        ),
        counted="users",
        asked="histories",
        served={"ndcg_at_10": "served NDCG@10", "offline_ndcg_at_10": "offline NDCG@10"},
    ),
}
