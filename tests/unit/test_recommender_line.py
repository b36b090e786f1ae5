"""The whole line of a next-item recipe, up to the package, on a shop whose next item is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from card import run_card
from histories import recipe, write_chain
from measured_figures import TIMES, differences

from lwc.core.errors import TargetError
from lwc.core.machine import describe
from lwc.core.store import publish_folder, read_json
from lwc.pipeline.run import plan, run
from lwc.recipe import Gate
from lwc.report.build import decide_report
from lwc.report.collect import collect
from lwc.report.gates import decide
from lwc.report.model_card import model_card

pytest.importorskip("implicit")


@pytest.mark.parametrize(
    "changes",
    [{}, {"task": {"kind": "next_item", "split": "time", "softmax": "sampled", "negatives": 16, "top_k": 12}}],
    ids=["leave-last-out, full softmax", "by time, sampled softmax"],
)
def test_the_line_learns_the_order_that_popularity_does_not_know(tmp_path: Path, changes: dict[str, object]) -> None:
    write_chain(tmp_path / "shop.csv")
    made = recipe(tmp_path / "shop.csv", **changes)
    results = run(made, tmp_path / "runs", lambda *_: None, until="package")
    found = read_json(results["evaluate"].path / "evaluation.json")
    assert found["quality"]["base"]["ndcg_at_10"]["value"] > 0.9
    assert found["quality"]["floors"]["popularity"]["ndcg_at_10"]["value"] < 0.6
    assert found["base_over_floors"]["popularity"]["low"] > 0.2
    assert set(found["quality"]["floors"]) == {"popularity", "recent_popularity", "item_knn"}
    assert found["retention"]["ndcg_at_10"]["value"] > 0.8
    report = collect(made, {name: result.path for name, result in results.items()}, describe(), TIMES)
    gates = [
        Gate(metric="retention.ndcg_at_10", op=">=", value=0.8),
        Gate(metric="ratios.blocks", op=">=", value=1.5),
        Gate(metric="parity.max_abs_diff", op="<=", value=1e-4),
        Gate(metric="quality.base.ndcg_at_10", op=">", value=1.0, relative_to="quality.floors.item_knn.ndcg_at_10"),
    ]
    assert [gate["reason"] for gate in decide(gates, report)] == [""] * 4
    refused, empty = differences(report, made)
    assert refused == []
    assert [name for name in empty if not name.startswith("serving.")] == [], "serving was not run here"
    stages = {name: result.path for name, result in results.items()}
    checkpoint = stages["recover"] / "model"
    card = model_card(decide_report(made, stages, describe(), TIMES), checkpoint)
    publish_folder(checkpoint, tmp_path / "model", {"README.md": card})
    assert run_card(tmp_path / "model", "print(model.config.n_layer)").split() == ["2"]
    assert "item number i" in card
    assert "pipeline_tag" not in card, "the hub has no pipeline for recommenders"
    assert (results["package"].path / "repository" / "shop" / "1" / "catalogue.json").is_file()
    again = plan(made, tmp_path / "runs")
    assert all(stage.hit for stage in again if stage.stage.cached)
    for change, first in (({"min_history": 4}, "data"), ({"recent_days": 7}, "evaluate"), ({"top_k": 11}, "evaluate")):
        other = made.model_copy(update={"task": made.task.model_copy(update=change)})
        missed = [planned.stage.name for planned in plan(other, tmp_path / "runs") if not planned.hit]
        assert missed[0] == first, f"{change} changes nothing before"


def test_named_blocks_go_and_nothing_is_scored(tmp_path: Path) -> None:
    write_chain(tmp_path / "shop.csv", users=60)
    train = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-2, "precision": "fp32"}
    made = recipe(tmp_path / "shop.csv", select={"blocks": [1]}, train=train, recover=train)
    results = run(made, tmp_path / "runs", lambda *_: None, until="recover")
    assert read_json(results["select"].path / "selection.json")["removed"] == [1]
    assert not (results["score"].path / "importance.json").exists()
    assert read_json(results["remove"].path / "cut.json") == {"kept": [0, 2]}


def test_a_target_out_of_reach_is_told_before_the_training(tmp_path: Path) -> None:
    write_chain(tmp_path / "shop.csv")
    made = recipe(tmp_path / "shop.csv", target={"ratio": 50, "of": "params"})
    with pytest.raises(TargetError):
        run(made, tmp_path / "runs", lambda *_: None, until="select")
    assert not list((tmp_path / "runs" / ".store").glob("work/train-*/scratch/checkpoints"))


def test_a_target_of_latency_times_the_graph_that_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*paths_and_settings: Any) -> dict[str, Any]:
        graphs = [onnx.load(str(path)).graph for path in paths_and_settings[:2]]
        assert [[value.name for value in graph.output] for graph in graphs] == [["scores", "items"]] * 2
        base, cut = (sum(node.op_type == "Softmax" for node in graph.node) for graph in graphs)
        return {"ratio": base / cut, "shapes": []}

    monkeypatch.setattr("lwc.pipeline.blocks_for_latency.compare_latency", compare)
    write_chain(tmp_path / "shop.csv")
    made = recipe(tmp_path / "shop.csv", target={"ratio": 1.4, "of": "latency"})
    results = run(made, tmp_path / "runs", lambda *_: None, until="select")
    selection = read_json(results["select"].path / "selection.json")
    assert {row["blocks"]: row["ratio"] for row in selection["latency"]} == {1: 3.0, 2: 1.5}
    assert len(selection["kept"]) == 2


def test_trust_learned_fusion_and_iterated_removal_work_as_for_texts(tmp_path: Path) -> None:
    write_chain(tmp_path / "shop.csv")
    methods = [{"method": "ablation"}, {"method": "taylor"}]
    made = recipe(
        tmp_path / "shop.csv",
        score={"methods": methods, "fusion": "learned", "trust": {"subsets": 20, "recovery_steps": 2}},
        select={"strategy": "iterated", "rounds": 2, "steps": 4},
        target={"ratio": 3, "of": "blocks"},
    )
    results = run(made, tmp_path / "runs", lambda *_: None, until="evaluate")
    importance = read_json(results["score"].path / "importance.json")
    assert importance["trust"]["cut_models"]["split"] == "validation"
    assert len(read_json(results["select"].path / "selection.json")["rounds"]) == 2
    found = read_json(results["evaluate"].path / "evaluation.json")
    assert found["retention"]["ndcg_at_10"]["value"] > 0.3, "one block of three is left"
