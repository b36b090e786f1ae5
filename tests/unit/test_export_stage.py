"""The export stage with every reduced graph at once: what it measures is what those files answer."""

from __future__ import annotations

import importlib.util
import itertools
import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_quantize import trained_like

from lwc.core.arrays import Array
from lwc.core.store import write_json
from lwc.export import int8 as deciding
from lwc.export import run as export
from lwc.export.inputs import padded_inputs
from lwc.export.latency import Call, Times
from lwc.export.onnx_files import size_of
from lwc.export.run import BASE, FP16, INT8, INT8_ANSWERS, WHOLE, export_pair
from lwc.export.session import cpu_session, run
from lwc.metrics.classification import macro_f1
from lwc.models.families import family_of
from lwc.models.load import load_model, load_tokenizer, save_checkpoint
from lwc.models.surgery import remove_blocks
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Export, Int8, Recipe, Shape

WORDS = ["good", "bad", "thing", "works", "broken", "a", "that", "never"]
SHAPES = (Shape(batch=1, length=8), Shape(batch=2, length=16))


def recipe_of(settings: Export) -> Recipe:
    return Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "exported",
            "model": {"kind": "config", "max_length": 16},
            "target": {"ratio": 2, "of": "blocks"},
            "export": settings.model_dump(),
        }
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data of 40 random texts a split, a model of 2 blocks, and the same with the first alone."""
    root = tmp_path_factory.mktemp("stages")
    draw = np.random.default_rng(0)
    for name in ("data", "train", "recover", "evaluate"):
        (root / name).mkdir()
    for split in ("calibration", "validation", "test"):
        texts = [" ".join(draw.choice(WORDS, draw.integers(1, 14))) for _ in range(40)]
        rows = {"id": range(100, 140), "text": texts, "label": draw.integers(0, 3, 40)}
        pd.DataFrame(rows).to_parquet(root / "data" / f"{split}.parquet")
    tokenizer = train_wordpiece(WORDS * 4, 60, 16)
    model = trained_like("bert")
    save_checkpoint(model, tokenizer, root / "train" / "model")
    cut = remove_blocks(model, family_of(model), [1]).eval()
    asked = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        cut.classifier.bias -= cut(**asked).logits.mean(dim=0)  # otherwise one answer wins for every text
    save_checkpoint(cut, tokenizer, root / "recover" / "model")
    # The uncut model is right but for its first ten texts; its rows are in another order than the split's.
    base = np.where(np.arange(40) < 10, (rows["label"] + 1) % 3, rows["label"])
    predictions = pd.DataFrame({"id": rows["id"], "label": rows["label"], "base": base}).iloc[::-1]
    predictions.to_parquet(root / "evaluate" / "predictions.parquet")
    write_json(root / "evaluate" / "evaluation.json", {"bootstrap": {"resamples": 200, "level": 0.95, "seed": 1}})
    return {path.name: path for path in root.iterdir()}


def answers(folder: Path, graph: Path, test: pd.DataFrame) -> Array:
    """Labels that a graph gives, one text at a time, as a client would ask for them."""
    tokenizer, session = load_tokenizer(folder), cpu_session(graph, 1)
    given = [run(session, dict(tokenizer(text, return_tensors="np"))).argmax() for text in test["text"]]
    return np.array(given)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Int8 is faster than fp32, which chance decides of so small a model."""
    monkeypatch.setattr(export, "too_slow", lambda times: "")


ANY = Int8(calibration=24, max_accuracy_drop=1.0)
"""Int8 whatever it costs."""


def test_all_reduced_graphs_at_once(stages: dict[str, Path], tmp_path: Path, fast: None) -> None:
    openvino = importlib.util.find_spec("openvino") is not None
    settings = Export(int8=ANY, fp16=True, openvino=openvino, latency_shapes=SHAPES, latency_repeats=3)
    said: list[str] = []
    found = export_pair(recipe_of(settings), stages, tmp_path, said.append)
    assert json.loads((tmp_path / "export.json").read_text()) == found

    folder = stages["recover"] / "model"
    test = pd.read_parquet(stages["data"] / "test.parquet")
    model, tokenizer = load_model(folder).eval(), load_tokenizer(folder)
    with torch.no_grad():
        torch_labels = [int(model(**tokenizer(text, return_tensors="pt")).logits.argmax()) for text in test["text"]]
    whole, reduced = answers(folder, tmp_path / WHOLE, test), answers(folder, tmp_path / INT8, test)
    assert whole.tolist() == torch_labels
    assert len(set(torch_labels)) > 1, "several answers occur, or nothing is shown"

    kept = pd.read_parquet(tmp_path / INT8_ANSWERS).set_index("id")["compressed"]
    assert sorted(kept.index) == test["id"].tolist()
    # Dynamic ranges are of the whole batch, so that a text near the border may fall to its other side.
    assert (kept.loc[test["id"]].to_numpy() == reduced).mean() >= 0.95
    labels, figures = test["label"].to_numpy(), found["int8"]["test"]
    served = kept.loc[test["id"]].to_numpy()
    assert figures["accuracy_fp32"] == pytest.approx(float((whole == labels).mean()))
    assert figures["macro_f1_fp32"] == pytest.approx(macro_f1(labels, whole))
    assert figures["accuracy_int8"] == pytest.approx(float((served == labels).mean()))
    assert figures["agreement"] == pytest.approx(float((served == whole).mean()))

    retained = found["int8"]["retention"]["accuracy"]
    assert retained["value"] == pytest.approx(figures["accuracy_int8"] / 0.75)
    assert retained["low"] < retained["value"] < retained["high"]

    assert found["int8"]["ratios"]["size"] > 1
    quality = found["served"]["quality"]
    assert (quality["n"], quality["accuracy"]["value"]) == (40, pytest.approx(figures["accuracy_int8"]))
    assert found["served"]["retention"] == found["int8"]["retention"]
    assert found["int8"]["validation"]["rows"] == 40
    assert (tmp_path / FP16).stat().st_size < (tmp_path / WHOLE).stat().st_size
    assert (found["int8"]["path"], found["fp16"]["path"]) == (INT8, FP16)
    if openvino:
        timed = found["openvino"]
        assert sorted(timed) == ["fp32", "int8"]
        assert timed["fp32"]["max_abs_diff"] < 1e-4
        assert all(graph["ratio"] > 0 for graph in timed.values())
    latency = "latency of the uncut and the compressed model"
    steps = ["int8, dynamic", latency, "int8 on the test split"]
    steps += [*(["latency in OpenVINO"] if openvino else []), "fp16"]
    assert [line for line in said if line in steps] == steps


def test_calibration_sees_every_class_of_a_file_that_is_sorted_by_label(
    stages: dict[str, Path], tmp_path: Path
) -> None:
    rows = {"id": range(40), "text": ["bad"] * 20 + ["good"] * 20, "label": [0] * 20 + [1] * 20}
    pd.DataFrame(rows).to_parquet(tmp_path / "calibration.parquet")
    for wanted, found in ((8, 8), (None, 40), (100, 40)):
        _, ids, labels = padded_inputs(tmp_path, stages["train"] / "model", "calibration", 16, wanted)
        assert np.bincount(labels).tolist() == [found // 2, found // 2]
        assert len(set(ids.tolist())) == found
        assert labels.tolist() == [rows["label"][row] for row in ids], "ids and labels stay together"


def test_nothing_is_reduced_unasked(stages: dict[str, Path], tmp_path: Path) -> None:
    settings = Export(latency_shapes=SHAPES, latency_repeats=3)
    found = export_pair(recipe_of(settings), stages, tmp_path, print)
    assert found.keys().isdisjoint({"int8", "fp16", "openvino"})
    assert not any((tmp_path / name).exists() for name in (INT8, INT8_ANSWERS, FP16))


def counted(folder: Path) -> int:
    """Parameters of a checkpoint on disk."""
    return sum(parameter.numel() for parameter in load_model(folder).parameters())


@pytest.mark.parametrize("settings", [None, ANY])
def test_what_is_served_is_compared_with_the_uncut_model_in_one_run(
    stages: dict[str, Path], tmp_path: Path, fast: None, settings: Int8 | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that moves when a model is called: 60, 30, 10 and 5 ms, on a machine that gets slower and slower."""
    now, calls = [0.0], [0]

    def takes(ms: float) -> Call:
        def call(inputs: dict[str, Array]) -> Array:
            calls[0] += 1
            now[0] += ms * (1 + calls[0] / 500) / 1000
            return np.zeros((1, 3))

        return call

    speeds = {BASE: 30.0, WHOLE: 10.0, INT8: 5.0}
    monkeypatch.setattr("lwc.export.latency.time", SimpleNamespace(perf_counter=lambda: now[0], sleep=lambda _: None))
    monkeypatch.setattr(export, "in_onnxruntime", lambda path, _: takes(speeds[str(path.relative_to(tmp_path))]))
    monkeypatch.setattr(export, "in_pytorch", lambda *_: nullcontext(takes(60.0)))
    found = export_pair(
        recipe_of(Export(int8=settings, latency_shapes=SHAPES, latency_repeats=30)), stages, tmp_path, lambda _: None
    )
    served, path = found["served"], INT8 if settings else WHOLE
    assert (served["precision"], served["why"], served["path"]) == ("int8" if settings else "fp32", "", path)
    ratios, fast_ms = served["ratios"], speeds[path]
    assert ratios["latency"] == pytest.approx(30 / fast_ms, rel=0.05)
    assert ratios["latency_eager"] == pytest.approx(60 / fast_ms, rel=0.05)
    for row in served["latency"]["shapes"]:
        assert row["ratio"] == row["base_ms"] / row["served_ms"]
        assert row["ratio_eager"] == row["eager_ms"] / row["served_ms"]
    assert [(row["batch"], row["length"]) for row in served["latency"]["shapes"]] == [(1, 8), (2, 16)]
    assert ratios["size"] == size_of(tmp_path / BASE) / size_of(tmp_path / path)
    before, after = (counted(stages[stage] / "model") for stage in ("train", "recover"))
    assert served["params"] == {"base": before, "served": after}
    assert ratios["params"] == before / after > 1
    # The pair in fp32 was timed in the same run.
    assert found["latency"]["shapes"][0]["base_ms"] == served["latency"]["shapes"][0]["base_ms"]


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        ("labels", "every operator had to return to fp32 to keep 100.0% of 24 calibration labels"),
        ("accuracy", "int8 lowers the accuracy on 40 validation texts from 1.000 to 0.000"),
        ("time", "int8 takes 2.00 times as long as fp32 on this machine (1×8, 2×16)"),
    ],
)
def test_int8_that_loses_or_is_slower_leaves_fp32_and_the_reason(
    stages: dict[str, Path], tmp_path: Path, spoilt: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = deciding.quantize

    def quantized(*given: Any) -> dict[str, Any]:
        return {**plain(*given), **({"quantized": 0} if spoilt == "labels" else {})}

    def right(labels: Array, answers: Array) -> float:
        asked.append(len(labels))
        return 1.0 if spoilt != "accuracy" or len(asked) % 2 else 0.0

    def pair(times: Times, slow: str, fast: str) -> dict[str, Any]:
        ratio = 1.5 if spoilt != "time" or fast != "int8" else 0.5
        return {**timed(times, slow, fast), "ratio": ratio}

    asked, timed = list[int](), Times.pair
    monkeypatch.setattr(deciding, "quantize", quantized)
    monkeypatch.setattr(deciding, "accuracy", right)
    monkeypatch.setattr(Times, "pair", pair)
    read = list[str]()
    inputs = deciding.Texts.inputs
    monkeypatch.setattr(deciding.Texts, "inputs", lambda *given: (read.append(given[1]), inputs(*given))[1])
    said: list[str] = []
    settings = Int8(calibration=24, min_agreement=1.0 if spoilt == "labels" else 0.5)
    found = export_pair(
        recipe_of(Export(int8=settings, latency_shapes=SHAPES, latency_repeats=3)), stages, tmp_path, said.append
    )
    assert "test" not in read, "what is served is decided without the test split"
    assert "int8" not in found
    assert not (tmp_path / INT8).exists()
    assert not (tmp_path / INT8_ANSWERS).exists()
    served = found["served"]
    assert (served["precision"], served["path"]) == ("fp32", WHOLE)
    assert served["why"].startswith(why)
    assert any(line == f"fp32 is served: {served['why']}" for line in said)
    assert {"quality", "retention"}.isdisjoint(served), "those of the checkpoint"


def test_the_loss_that_settings_allow_is_allowed(
    stages: dict[str, Path], tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = itertools.cycle([0.9, 0.875])
    monkeypatch.setattr(deciding, "accuracy", lambda *_: next(values))
    for allowed, precision in ((0.025, "int8"), (0.02, "fp32")):
        out = tmp_path / precision
        out.mkdir()
        settings = Int8(calibration=24, min_agreement=0.5, max_accuracy_drop=allowed)
        recipe = recipe_of(Export(int8=settings, latency_shapes=SHAPES, latency_repeats=3))
        assert export_pair(recipe, stages, out, lambda _: None)["served"]["precision"] == precision
