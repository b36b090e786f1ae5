"""The ten lines of the documentation, on a tiny model, with a real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_texts import LABELS, TEXTS, classifier

import lwc

pytestmark = pytest.mark.serving


def test_from_a_model_in_memory_to_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, tokenizer = classifier(blocks=6)
    texts, labels, more_texts = TEXTS[:40], LABELS[:40], TEXTS

    importance = lwc.score(model, tokenizer, texts, labels, methods=["ablation", "taylor"])
    smaller = lwc.remove_blocks(model, importance.lowest(4))
    recovered = lwc.recover(smaller, teacher=model, tokenizer=tokenizer, texts=more_texts)
    exported = lwc.export_onnx(recovered, tokenizer, "out", int8=True)
    repository = lwc.package(exported, name="reviews")
    with lwc.serve(repository) as server:
        answers = server.classify(["works well", "  works <br/>well"])
        assert server.models == ["reviews"]
        with pytest.raises(lwc.LwcError, match="text 1: HTTP 400"):
            server.classify(["works well", ""])
        with pytest.raises(lwc.LwcError, match="not a list"):
            server.classify("works well")

    assert repository == Path("triton_models/reviews")
    assert answers[0] == answers[1], "served texts are cleaned"
    assert answers[0].label in ("bad", "good")
    assert answers[0].score == max(answers[0].scores.values())
    assert sum(answers[0].scores.values()) == pytest.approx(1)
    with torch.inference_mode():
        logits = recovered.model(**tokenizer("works well", return_tensors="pt")).logits[0]
    offline = dict(zip(("bad", "good"), logits.softmax(dim=0).tolist(), strict=True))
    served = np.array([answers[0].scores[name] for name in offline])
    np.testing.assert_allclose(served, list(offline.values()), atol=1e-4 if exported.precision == "fp32" else 0.1)
    with pytest.raises(lwc.LwcError, match="no Triton model repository"):
        lwc.serve(tmp_path / "out")
