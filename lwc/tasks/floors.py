"""What a linear model on words sees: the features of the floors that any transformer must beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer

from lwc.core.errors import DataError

_FIRST = 200


def _vectorizer() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=100_000, sublinear_tf=True)


def check_features(train: Sequence[str]) -> None:
    """Raise as `tfidf_features` would. A word that occurs twice is found in the first texts, if in any."""
    try:
        _vectorizer().fit(train[:_FIRST])
    except ValueError:
        tfidf_features(train, train[:1])


def tfidf_features(train: Sequence[str], texts: Sequence[str]) -> tuple[Any, Any]:
    """Sparse TF-IDF of 1–2-grams of ``train`` (M, F) and of ``texts`` (N, F), fitted on train only.

    Raises:
        DataError: no word occurs twice in train.
    """
    vectorizer = _vectorizer()
    try:
        features = vectorizer.fit_transform(train)
    except ValueError as error:
        raise DataError(
            f"the TF-IDF floor cannot be fitted on {len(train)} train texts: {error}",
            "the train texts share too few words: use more rows or another text field",
        ) from error
    return features, vectorizer.transform(texts)
