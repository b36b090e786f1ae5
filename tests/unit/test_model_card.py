"""The model card: what the hub reads of it, what people read, and that it names nothing of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_report import ENVIRONMENT, add, make_recipe, make_stages
from test_report_served import with_int8

from lwc.models.source import hub_id
from lwc.recipe import Recipe
from lwc.report.build import decide_report
from lwc.report.model_card import model_card

ARCHITECTURE = '{"architectures": ["BertForSequenceClassification"]}'


def card_of(root: Path, **changes: Any) -> tuple[Any, ModelCard]:
    """A report of an int8 model, and the card that its checkpoint gets."""
    stages = make_stages(root / "stages")
    add(root / "stages", "export", "export.json", {"served": with_int8(root / "stages")})
    add(root / "stages", "recover", "metrics.json", {"steps": 1090})
    (root / "stages" / "recover" / "model").mkdir()
    (root / "stages" / "recover" / "model" / "config.json").write_text(ARCHITECTURE)
    recipe = Recipe.model_validate({**make_recipe([]).model_dump(mode="json"), **changes})
    report = decide_report(recipe, {**stages, "recover": root / "stages" / "recover"}, ENVIRONMENT, {})
    return report, ModelCard(model_card(report, root / "stages" / "recover" / "model"))


def test_the_hub_reads_metrics_with_their_intervals(tmp_path: Path) -> None:
    report, card = card_of(tmp_path)
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-classification")
    assert "lwc" in data.tags
    found = {one.metric_type: one for one in data.eval_results}
    assert {"accuracy", "macro_f1"} <= set(found)
    quality = report["quality"]["compressed"]
    for name, one in found.items():
        assert one.metric_value == quality[name]["value"], "of this checkpoint, not of the int8 graph"
        ends = {end: quality[name][end] for end in ("low", "high")}
        assert one.metric_args == {"interval": {"level": 0.95, **ends, "n": quality["n"]}}
        assert one.dataset_split == "test"


def test_people_read_what_was_removed_recovered_and_measured_as_served(tmp_path: Path) -> None:
    _, card = card_of(tmp_path)
    for said in (
        "Removed 3 of 6 blocks (2, 3, 5)", "1,090 steps", "as served, int8", "0.850 (0.840–0.860)",
        "94.4 % (93.4–95.4)", "| smaller file | 11.00× |", "| http | 60 | 20.0 | 41.0 | 55.0 | 0 |", "max_length=128",
        "AutoModelForSequenceClassification.from_pretrained(folder)",
    ):  # fmt: skip
        assert said in card.text, said


@pytest.mark.parametrize("source", ["enc/oder", "package:some_package", "./enc/oder", "/root/encoder", "weights.gguf"])
def test_a_base_that_only_this_machine_knows_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enc" / "oder").mkdir(parents=True)
    (tmp_path / "weights.gguf").touch()
    assert hub_id(source) is None
    table = {"kind": "table", "paths": [str(tmp_path / "customers.csv")]}
    data = {"source": table, "labels": {"scheme": "column"}}
    _, card = card_of(tmp_path, model={"kind": "pretrained", "source": source}, data=data)
    assert card.data.base_model is None
    assert card.data.datasets is None
    for name in (source, str(tmp_path), "customers", str(Path.home()) + "/"):
        assert name not in card.content, name


def test_what_the_hub_knows_is_named(tmp_path: Path) -> None:
    data = {"source": {"kind": "hub", "id": "some/reviews"}, "labels": {"scheme": "column"}}
    more = {"unlabelled": {"source": {"kind": "hub", "id": "some/more"}}}
    _, card = card_of(tmp_path, model={"kind": "pretrained", "source": "some/encoder"}, data=data, recover=more)
    assert card.data.base_model == "some/encoder"
    assert card.data.datasets == ["some/reviews", "some/more"]
    assert card.data.eval_results[0].dataset_type == "some/reviews"
    assert "a smaller version of some/encoder" in card.text


def test_a_description_is_shown_as_it_is_written(tmp_path: Path) -> None:
    _, card = card_of(tmp_path, description="---\n# <script> [x](y)")
    assert "\n--- \\# &lt;script&gt; \\[x\\](y)\n" in card.content
