"""From outside lwc: scorers, a family, a data source and a task, each one object and one row; the package stays."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from planted import data
from tiny_models import VOCAB
from toy_model import ToyConfig, ToyForSequenceClassification
from transformers import AutoConfig, AutoModelForSequenceClassification

from lwc.core.arrays import Array
from lwc.core.machine import describe
from lwc.core.store import read_json
from lwc.data.rows import Progress, Row, Rows
from lwc.data.source import Source
from lwc.data.splits import Examples
from lwc.importance import methods
from lwc.importance.per_example import ExampleGradients, GradientScorer
from lwc.importance.score import score_blocks
from lwc.importance.types import LayerImportance, Refusal, scorer
from lwc.metrics.headline import Headline, Metric
from lwc.models.batches import Batch
from lwc.models.families import FAMILIES, Family, block_list, family_of
from lwc.models.forward.predict import predict
from lwc.models.load import save_checkpoint
from lwc.models.surgery import bypass, remove_blocks
from lwc.models.tokenizer import train_wordpiece
from lwc.models.types import Model
from lwc.pipeline.run import run
from lwc.recipe import METHODS, SOURCES, TASKS, DataSource, Evaluate, Gate, Method, Recipe, Target, TaskSettings
from lwc.report.build import build_report
from lwc.report.gate_names import unmeasured
from lwc.selection.select import plan_cut, select_blocks
from lwc.tasks.classification import Classification


class WeightNorm(Method):
    implementation: ClassVar[str] = f"{__name__}:weight_norm"
    method: Literal["weight_norm"]
    power: float = 2.0


@scorer
def weight_norm(model: Model, family: Family, batches: Sequence[Batch], settings: WeightNorm) -> LayerImportance:
    """Σ |θ|^p over the block's parameters."""
    blocks = block_list(model, family)
    sums = [float(sum((p.detach().abs() ** settings.power).sum() for p in block.parameters())) for block in blocks]
    return LayerImportance("weight_norm", tuple(sums), "1")


class GradientNorm(Method):
    implementation: ClassVar[str] = f"{__name__}:gradient_norm"
    method: Literal["gradient_norm"]


@GradientScorer
def gradient_norm(gradients: ExampleGradients, settings: GradientNorm) -> LayerImportance:
    """E_n Σ g²."""
    return LayerImportance("gradient_norm", tuple(gradients.squared.mean(dim=0).tolist()), "nats²")


class Vote(Method):
    implementation: ClassVar[str] = f"{__name__}:vote"
    reads: ClassVar[Literal["model", "scores"]] = "scores"
    method: Literal["vote"]


def vote(evidence: Mapping[str, Sequence[float]], blocks: int, settings: Vote) -> LayerImportance | Refusal:
    """How many methods put a block above their own median."""
    if len(evidence) < 2:
        return Refusal("one method is no vote")
    above = [np.asarray(values) > np.median(values) for values in evidence.values()]
    return LayerImportance("vote", tuple(np.sum(above, axis=0, dtype=float).tolist()), "votes")


def recipe(*names: str) -> Recipe:
    return Recipe.model_validate(
        {
            "schema_version": 1, "name": "x", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"},
            "score": {"methods": [{"method": name} for name in names]},
            "select": {"strategy": "single", "method": names[0]},
        }
    )  # fmt: skip


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_rows", dict(METHODS._rows))  # so that what is added here goes again
    for row in (WeightNorm, GradientNorm, Vote):
        METHODS.add(row)
    row = Family(
        "toy", "tower.units", depth_field="depth", per_block_fields=("gains",), as_output=lambda h: (h, None),
        pooling="mean",
    )  # fmt: skip
    monkeypatch.setitem(FAMILIES, "toy", row)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    model = ToyForSequenceClassification(ToyConfig(num_labels=3, pad_token_id=1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.25)
        for parameter in model.trunk.tower.units[2].parameters():
            parameter.mul_(0.1)
    return model


@pytest.mark.usefixtures("added")
def test_a_new_scorer_scores_and_cuts_a_new_family(model: Any) -> None:
    whole, family, calibration = recipe("weight_norm", "ablation"), family_of(model), data(model)
    found = score_blocks(model, family, calibration, whole.score)
    assert list(found["methods"]) == ["weight_norm", "ablation"]
    assert found["methods"]["weight_norm"]["unit"] == "1"
    assert found["methods"]["weight_norm"]["seconds"] > 0
    assert int(np.argmin(found["methods"]["weight_norm"]["scores"])) == 2
    plan = plan_cut(model, family, Target(ratio=4 / 3, of="blocks"), whole.select)
    chosen = select_blocks(model, family, calibration, found, plan)
    assert chosen["removed"] == [2]
    smaller = remove_blocks(model, family, chosen["removed"])
    with bypass(model, family, [2]):
        np.testing.assert_allclose(predict(smaller, calibration), predict(model, calibration), atol=1e-6)


@pytest.mark.usefixtures("added")
def test_a_new_scorer_shares_the_gradients(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    collect = methods.collect
    monkeypatch.setattr(methods, "collect", lambda *args: calls.append(1) or collect(*args))
    found = score_blocks(model, family_of(model), data(model), recipe("gradient_norm", "taylor", "fisher").score)
    assert calls == [1]
    assert found["methods"]["gradient_norm"]["scores"] == found["methods"]["fisher"]["details"]["trace"]


@pytest.mark.usefixtures("added")
def test_a_new_scorer_reads_the_scores_of_the_others(model: Any) -> None:
    family, calibration = family_of(model), data(model)
    found = score_blocks(model, family, calibration, recipe("vote", "weight_norm", "ablation").score)
    assert list(found["methods"]) == ["weight_norm", "ablation", "vote"]
    assert found["methods"]["vote"]["scores"][2] == 0.0
    alone = score_blocks(model, family, calibration, recipe("vote", "ablation").score)
    assert alone["excluded"]["vote"] == "one method is no vote"


def test_the_name_of_another_row_is_taken() -> None:
    class Other(Method):
        implementation: ClassVar[str] = "elsewhere:other"
        method: Literal["taylor"]

    with pytest.raises(ValueError, match="method 'taylor' is taken by Taylor"):
        METHODS.add(Other)


class Lines(DataSource):
    """A text file: a label, a space, the text."""

    implementation: ClassVar[str] = f"{__name__}:LINES"
    kind: Literal["lines"]
    file: str


def read_lines(settings: Lines, progress: Progress) -> Rows:
    path = Path(settings.file)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        label, _, body = line.partition(" ")
        yield Row(path.name, number, body=body, label=label)


LINES = Source[Lines](read_lines, files=lambda settings: {settings.file: Path(settings.file)})


class Ordinal(TaskSettings):
    """Classes in an order: how many classes an answer is off counts."""

    implementation: ClassVar[str] = f"{__name__}:ORDINAL"
    headline: ClassVar[Headline] = Headline(
        (Metric("steps_off", "steps off", lower_is_better=True), Metric("exact", "exact answers")),
        (),
        (("first", "the first class"),),
    )
    kind: Literal["ordinal"]


def certain(value: float) -> dict[str, float]:
    return dict.fromkeys(("value", "low", "high"), float(value))


class OrdinalTask(Classification):
    def quality(
        self, logits: dict[str, Array], test: Examples, train: Examples, names: list[str], settings: Evaluate, seed: int
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        def figures(given: Array) -> dict[str, Any]:
            off = np.abs(given - test.labels)
            found = {"steps_off": off.mean(), "exact": (off == 0).mean()}
            return {
                "n": len(off),
                **{name: dict.fromkeys(("value", "low", "high"), float(v)) for name, v in found.items()},
            }

        predicted = {name: values.argmax(axis=1) for name, values in logits.items()}
        quality = {name: figures(given) for name, given in predicted.items()}
        quality["floors"] = {"first": figures(np.zeros_like(test.labels))}
        kept = {name: certain(1.0) for name in ("steps_off", "exact")}
        return {"quality": quality, "retention": kept, "retention_unrecovered": kept}, predicted


ORDINAL = OrdinalTask()


@pytest.mark.usefixtures("added")
def test_a_task_a_scorer_a_source_and_a_family_from_outside_go_the_whole_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table, row in ((SOURCES, Lines), (TASKS, Ordinal)):
        monkeypatch.setattr(table, "_rows", dict(table._rows))
        table.add(row)
    AutoConfig.register("toy", ToyConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(ToyConfig, ToyForSequenceClassification, exist_ok=True)
    names, words = ("bad", "fair", "good"), ("awful poor broken", "plain usual fine", "great lovely best")
    draw = random.Random(0)
    lines = [f"{names[n % 3]} {' '.join(draw.choices(words[n % 3].split(), k=5))} item{n}" for n in range(120)]
    (tmp_path / "reviews.txt").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = train_wordpiece(lines, VOCAB, 16)
    torch.manual_seed(0)
    toy = ToyForSequenceClassification(ToyConfig(num_labels=3, pad_token_id=tokenizer.pad_token_id))
    save_checkpoint(toy, tokenizer, tmp_path / "toy")
    loop = {"epochs": 8, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    recipe = Recipe.model_validate(
        {
            "schema_version": 1,
            "name": "outside",
            "task": {"kind": "ordinal"},
            "data": {
                "source": {"kind": "lines", "file": str(tmp_path / "reviews.txt")},
                "labels": {"scheme": "column", "names": names},
                "near_duplicate_threshold": 1.0,
                "calibration": 16,
            },
            "model": {"kind": "pretrained", "source": str(tmp_path / "toy"), "max_length": 16},
            "train": loop,
            "score": {"methods": [{"method": "weight_norm"}]},
            "recover": loop,
            "target": {"ratio": 2, "of": "blocks"},
            "export": {"latency_repeats": 3, "latency_shapes": [{"batch": 1, "length": 8}]},
        }
    )
    results = run(recipe, tmp_path / "runs", lambda *_: None, until="package")
    assert read_json(results["score"].path / "importance.json")["methods"]["weight_norm"]["unit"] == "1"
    evaluation = read_json(results["evaluate"].path / "evaluation.json")
    assert evaluation["task"] == "ordinal"
    base, floor = evaluation["quality"]["base"], evaluation["quality"]["floors"]["first"]
    assert base["exact"]["value"] > floor["exact"]["value"] + 0.2
    assert AutoConfig.from_pretrained(results["recover"].path / "model").depth == 2
    export = read_json(results["export"].path / "export.json")
    assert export["parity"]["passed"]
    assert (results["package"].path / "repository" / "outside" / "config.pbtxt").is_file()
    report = build_report(
        recipe, {name: one.path for name, one in results.items()}, describe(), {}, tmp_path / "report"
    )
    assert "steps off" in report["verdict"]["summary"]
    assert (
        unmeasured(recipe.model_copy(update={"gates": (Gate(metric="quality.base.exact", op=">", value=0.5),)})) == []
    )
