"""How the tests judge a classifier in training: by macro-F1."""

from __future__ import annotations

from typing import Any

from lwc.core.arrays import Array
from lwc.metrics.classification import macro_f1
from lwc.models.batches import Encoded, batches
from lwc.models.forward.predict import predict
from lwc.training.loop import Judge


def judged(validation: Encoded, labels: Array) -> Judge:
    groups = batches(validation, labels, 64, length_bucketed=True, seed=None)

    def judge(model: Any) -> dict[str, float]:
        predicted = predict(model, groups).argmax(axis=1)
        found = macro_f1(labels, predicted)
        return {"macro_f1": found, "accuracy": float((predicted == labels).mean()), "score": found}

    return judge
