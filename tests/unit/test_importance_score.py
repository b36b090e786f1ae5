"""The score stage: methods run, fused, and left out by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from planted import SCORERS, config_for, data, pre_norm, scale, with_identity
from tiny_models import tiny, tokens

from lwc.core.errors import DataError, MissingDependency
from lwc.importance import llm_expert, methods
from lwc.importance.llm_expert import ExpertImportance
from lwc.importance.score import score_blocks
from lwc.importance.types import LayerImportance, Refusal
from lwc.models.batches import batches
from lwc.models.families import block_list, family_of
from lwc.pipeline.keys import score_needs
from lwc.recipe import EmpiricalFisher, MutualInformation, Score, Taylor
from lwc.recipe.file import parse_recipe

METHODS = [method.method for method in Score().methods]
ENCODED = tokens(9)
DATA = batches(ENCODED, np.array([0, 1, 2, 1, 0, 2, 0, 1, 1]), 4, length_bucketed=False, seed=None)


def test_content() -> None:
    model = with_identity("modernbert", 2)
    said: list[str] = []
    result = score_blocks(model, family_of(model), data(model), Score(), said.append)
    assert result == json.loads(json.dumps(result, allow_nan=False))
    assert result["blocks"] == 4
    assert result["examples"] == 24
    assert result["fused"]["ranking"][-1] == 2
    assert all(result["fused"]["scores"][2] < result["fused"]["scores"][other] for other in (0, 1, 3))
    assert sorted(result["fused"]["ranking"]) == [0, 1, 2, 3]
    assert result["excluded"] == {}
    assert result["kendall_tau"]["names"] == list(result["methods"]) == [m.method for m in Score().methods]
    assert len(said) == 4
    for method in result["methods"].values():
        assert len(method["scores"]) == 4
        assert method["unit"]
        assert method["weight"] == 1
        assert all(len(values) == 4 for values in method["details"].values())


def test_one_class_only() -> None:
    model = tiny("bert")
    calibration = batches(tokens(4), np.ones(4), 2, length_bucketed=True, seed=None)
    with pytest.raises(DataError, match="all 4 calibration rows have one label") as caught:
        score_blocks(model, family_of(model), calibration, Score())
    assert "data.calibration" in caught.value.hint


def test_no_rows() -> None:
    model = tiny("bert")
    with pytest.raises(DataError, match="empty"):
        score_blocks(model, family_of(model), [], Score())


def test_degenerate_methods_are_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def giving(method: str, *scores: float) -> Any:
        return lambda _: lambda *_: LayerImportance(method, scores, "")

    monkeypatch.setattr(EmpiricalFisher, "load", giving("fisher", 1.0, float("nan"), 0.0, 2.0))
    monkeypatch.setattr(Taylor, "load", giving("taylor", 3.0, 3.0, 3.0, 3.0))
    model = tiny("bert")
    result = score_blocks(model, family_of(model), data(model), Score())
    assert set(result["excluded"]) == {"fisher", "taylor"}
    assert "finite" in result["excluded"]["fisher"]
    assert "same" in result["excluded"]["taylor"]
    assert result["methods"]["fisher"]["scores"][1] is None
    assert result["kendall_tau"]["names"] == ["block_influence", "ablation"]
    only = Score.model_validate({"methods": [{"method": "block_influence"}, {"method": "ablation"}]})
    assert score_blocks(model, family_of(model), data(model), only)["fused"] == result["fused"]


def test_nan_in_the_model_is_never_a_score() -> None:
    model = tiny("bert")
    calibration = data(model)
    with torch.no_grad():
        next(block_list(model, family_of(model))[1].parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match="cannot be ranked"):
        score_blocks(model, family_of(model), calibration, Score())


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "distilbert", "deberta-v2"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_models_of_one_and_two_blocks(model_type: str, blocks: int) -> None:
    model = tiny(model_type, blocks=blocks)
    found = score_blocks(model, family_of(model), DATA, Score())
    assert found["blocks"] == blocks
    assert sorted(found["fused"]["ranking"]) == list(range(blocks))
    assert found["excluded"] == {}
    assert len(found["kendall_tau"]["matrix"]) == 4
    json.dumps(found, allow_nan=False)


def test_the_score_stage_says_all_and_ranks_planted_blocks() -> None:
    model = pre_norm(6)
    for index in range(6):
        scale(model, index, {3: 1.0, 1: 0.0}.get(index, 0.2))
    with torch.no_grad():
        answers = np.concatenate([model(**batch.inputs).logits.argmax(dim=-1).numpy() for batch in DATA])
    assert len(set(answers.tolist())) > 1
    data = batches(ENCODED, answers, 4, length_bucketed=False, seed=None)
    said: list[str] = []
    found = score_blocks(model, family_of(model), data, Score(), said.append)
    assert [line.split()[0] for line in said] == list(found["methods"])
    assert found["examples"] == 9
    assert found["fused"]["ranking"][0] == 3
    assert found["fused"]["scores"][3] == 1.0
    assert {entry["weight"] for entry in found["methods"].values()} == {1.0}
    json.dumps(found, allow_nan=False)


def test_nothing_left_to_rank_by_is_one_clear_error() -> None:
    broken = pre_norm(3)
    with torch.no_grad():
        broken.classifier.weight.fill_(float("nan"))
        block_list(broken, family_of(broken))[0].mlp.Wo.weight.fill_(float("nan"))
    with pytest.raises(DataError, match="cannot be ranked") as caught:
        score_blocks(broken, family_of(broken), DATA, Score())
    assert all(method in caught.value.message for method in METHODS)
    still = pre_norm(3)
    for index in range(3):
        scale(still, index, 0.0)
    with pytest.raises(DataError, match="all blocks score the same"):
        score_blocks(still, family_of(still), DATA, Score())


def test_a_head_that_is_not_finite_excludes_the_methods_that_read_the_loss() -> None:
    model = pre_norm(3)
    with torch.no_grad():
        model.classifier.weight.fill_(float("nan"))
    found = score_blocks(model, family_of(model), DATA, Score())
    assert set(found["excluded"]) == {"fisher", "taylor", "ablation"}
    assert found["kendall_tau"]["names"] == ["block_influence"]
    assert found["methods"]["fisher"]["scores"] == [None] * 3
    json.dumps(found, allow_nan=False)


def test_fisher_and_taylor_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert", blocks=3)
    calls: list[int] = []
    collect = methods.collect
    monkeypatch.setattr(methods, "collect", lambda *args: calls.append(1) or collect(*args))
    result = score_blocks(model, family_of(model), DATA, Score())
    assert len(calls) == 1
    for name in ("fisher", "taylor"):
        alone = SCORERS[name](model, family_of(model), DATA, config_for(name))
        assert result["methods"][name]["scores"] == list(alone.scores)
        assert result["methods"][name]["details"] == alone.details


EXPERT = {"method": "llm_expert", "base_url": "http://127.0.0.1:9/v1", "model": "m"}


def test_the_expert_comes_last_and_reads_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def answer(evidence: Any, blocks: int, config: Any) -> ExpertImportance:
        seen.update(evidence=evidence, blocks=blocks)
        return ExpertImportance("llm_expert", (3.0, 2.0, 1.0), "rank", 0.1, reasons=("a", "b", "c"))

    monkeypatch.setattr(llm_expert, "rank_with_expert", answer)
    model = tiny("bert", blocks=3)
    config = Score.model_validate({"methods": [EXPERT, {"method": "ablation"}, {"method": "taylor"}], "trust": {}})
    result = score_blocks(model, family_of(model), DATA, config)
    assert list(result["methods"]) == ["ablation", "taylor", "llm_expert"]
    assert seen["blocks"] == 3
    assert {name: list(values) for name, values in seen["evidence"].items()} == {
        name: result["methods"][name]["scores"] for name in ("ablation", "taylor")
    }
    assert result["methods"]["llm_expert"]["reasons"] == ["a", "b", "c"]
    assert result["trust"]["not_rescored"] == ["llm_expert"]
    assert "llm_expert" in result["trust"]["correlation"]["before_recovery"]["methods"], "held to account like all"


def test_an_expert_that_refuses_is_left_out_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_expert, "rank_with_expert", lambda *_: Refusal("no answer in 60 s"))
    model = tiny("bert", blocks=3)
    config = Score.model_validate({"methods": [{"method": "ablation"}, EXPERT]})
    result = score_blocks(model, family_of(model), DATA, config)
    assert result["excluded"] == {"llm_expert": "no answer in 60 s"}
    assert list(result["methods"]) == ["ablation"]
    monkeypatch.undo()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    required = Score.model_validate({"methods": [{"method": "ablation"}, {**EXPERT, "required": True}]})
    with pytest.raises(MissingDependency, match="OPENAI_API_KEY"):
        score_blocks(model, family_of(model), DATA, required)


def test_scores_of_an_older_version_of_a_method_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """And raising one method's version leaves the scores of recipes without it where they are."""

    def needs(method: str) -> dict[str, str]:
        text = "schema_version: 1\nname: a\nmodel: {kind: config}\ntarget: {ratio: 2, of: blocks}\n"
        text += f"score: {{methods: [{{method: {method}}}]}}\n"
        return score_needs(parse_recipe(text, "a.yaml", ()))

    before = needs("taylor"), needs("mutual_information")
    monkeypatch.setattr(MutualInformation, "version", MutualInformation.version + 1)
    assert needs("taylor") == before[0] == {}
    assert needs("mutual_information") != before[1]
