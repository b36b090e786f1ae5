"""Target arithmetic, strategies, and what cannot be reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from planted import data, with_identity
from safetensors.torch import save_file
from strategies import chosen, selection
from tiny_models import tiny
from transformers import AutoModelForCausalLM

from lwc.core.errors import TargetError
from lwc.export.onnx import export_onnx
from lwc.models.families import family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.surgery import ParameterCounts, bypass, parameter_counts, remove_blocks
from lwc.models.tokenizer import train_wordpiece
from lwc.recipe import Target
from lwc.selection.select import plan_cut
from lwc.selection.target import blocks_to_keep, ratios

# 12 × 512 with a vocabulary of 10,000; BERT-base.
DEEP = ParameterCounts(12 * 3_152_384 + 5_700_000, [3_152_384] * 12)
BERT_BASE = ParameterCounts(109_483_778, [7_087_872] * 12)


def importance(*best_first: int) -> dict[str, Any]:
    return {"blocks": len(best_first), "fused": {"ranking": list(best_first)}}


@pytest.mark.parametrize(
    ("ratio", "keep"),
    [(1.0, 12), (1.05, 11), (1.2, 10), (2.0, 6), (2.4, 5), (2.5, 4), (3.0, 4), (3.001, 3), (4.0, 3), (12.0, 1)],
)
def test_ratio_of_blocks_is_at_least_what_was_asked(ratio: float, keep: int) -> None:
    assert blocks_to_keep(Target(ratio=ratio, of="blocks"), DEEP) == keep


@pytest.mark.parametrize("blocks", range(1, 40))
def test_every_exact_ratio_is_met_in_spite_of_rounding(blocks: int) -> None:
    counts = ParameterCounts(1000 * blocks + 1, [1000] * blocks)
    for keep in range(1, blocks + 1):
        assert blocks_to_keep(Target(ratio=blocks / keep, of="blocks"), counts) == keep
        # As people type it: 12 / 7 is 1.7142857143, a hair above what 7 of 12 blocks reach.
        typed = float(f"{blocks / keep:.10f}")
        assert blocks_to_keep(Target(ratio=typed, of="blocks"), counts) == keep


@pytest.mark.parametrize("of", ["params", "size"])
def test_ratio_of_parameters_counts_what_stays_outside_the_blocks(of: Any) -> None:
    assert blocks_to_keep(Target(ratio=2.5, of="blocks"), DEEP) == 4
    assert blocks_to_keep(Target(ratio=2.5, of=of), DEEP) == 3, "4 of 12 blocks are 2.4x in params"
    assert ratios(DEEP, range(4))[of] == pytest.approx(2.37, abs=0.01)
    assert blocks_to_keep(Target(ratio=2.5, of=of), BERT_BASE) == 2


def test_unequal_blocks_reach_the_ratio_whichever_are_kept() -> None:
    counts = ParameterCounts(100, [10, 40, 10, 10, 10])
    target = Target(ratio=1.6, of="params")
    keep = blocks_to_keep(target, counts)
    assert keep == 1, "two blocks may be 40 + 10: 100 / 70 < 1.6"
    # A cheap block that must stay takes the place of a dear one.
    assert blocks_to_keep(Target(ratio=1.4, of="params"), counts, [0]) == 2


@pytest.mark.parametrize("of", ["params", "size"])
def test_unreachable_names_what_can_be_reached_and_the_lever(of: Any) -> None:
    with pytest.raises(
        TargetError, match=r"5x of \w+ cannot be reached.*1 of 12 left it is 3\.4\d?x.*vocabulary"
    ) as caught:
        blocks_to_keep(Target(ratio=5, of=of), BERT_BASE)
    most = float(caught.value.hint.split("at most ")[1].split("x")[0])
    assert blocks_to_keep(Target(ratio=most, of=of), BERT_BASE) == 1, "what the hint says works"
    assert caught.value.exit_code == 2


def test_unreachable_in_blocks() -> None:
    with pytest.raises(TargetError, match=r"1 of 12 left it is 12x$"):
        blocks_to_keep(Target(ratio=13, of="blocks"), DEEP)
    with pytest.raises(TargetError, match=r"2 of 12 left \(block \[0, 1\] must stay\) it is 6x"):
        blocks_to_keep(Target(ratio=8, of="blocks"), DEEP, [0, 1])


def test_latency_is_not_counted() -> None:
    with pytest.raises(ValueError, match="measured, not counted"):
        blocks_to_keep(Target(ratio=2, of="latency"), DEEP)


def test_trimming_the_vocabulary_brings_a_ratio_of_params_into_reach() -> None:
    with pytest.raises(TargetError, match="vocabulary"):
        blocks_to_keep(Target(ratio=5, of="params"), BERT_BASE)
    embeddings = 20_000 * 768
    keep = blocks_to_keep(Target(ratio=5, of="params"), BERT_BASE, (), embeddings)
    left = BERT_BASE.total - embeddings - (12 - keep) * 7_087_872
    assert BERT_BASE.total / left >= 5 > BERT_BASE.total / (left + 7_087_872)


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "distilbert", "deberta-v2"])
def test_ratios_are_those_of_the_removed_model(model_type: str, tmp_path: Any) -> None:
    model = tiny(model_type, blocks=6)
    family = family_of(model)
    found = selection(model, data(model), importance(5, 4, 3, 2, 1, 0), Target(ratio=2, of="blocks"), chosen())
    kept = [0, 4, 5] if 0 in family.protected else [3, 4, 5]
    assert found["kept"] == kept
    assert found["removed"] == [block for block in range(6) if block not in kept]
    smaller = remove_blocks(model, family, found["removed"])
    after = sum(parameter.numel() for parameter in smaller.parameters())
    assert found["params_after"] == after
    assert found["params_before"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["ratios"]["blocks"] == 2
    assert found["ratios"]["params"] == pytest.approx(found["params_before"] / after)
    sizes = []
    for name, one in (("before", model), ("after", smaller)):
        save_file({key: value.detach().clone() for key, value in one.named_parameters()}, tmp_path / name)
        written = (tmp_path / name).read_bytes()
        header = 8 + int.from_bytes(written[:8], "little")
        sizes.append(len(written) - header)
    assert found["ratios"]["size"] == pytest.approx(sizes[0] / sizes[1])


def test_constraints() -> None:
    model = tiny("bert", blocks=6)
    ranked, target = importance(2, 3, 1, 4, 5, 0), Target(ratio=2, of="blocks")
    calibration = data(model)

    def kept(**options: Any) -> list[int]:
        result: list[int] = selection(model, calibration, ranked, target, chosen(**options))["kept"]
        return result

    assert kept() == [1, 2, 3]
    assert kept(keep_first=1) == [0, 2, 3]
    assert kept(keep_last=1) == [2, 3, 5]
    assert kept(keep_first=1, keep_last=2) == [0, 4, 5]
    assert kept(strategy="greedy", keep_first=1, keep_last=2) == [0, 4, 5]
    for options in ({"keep_first": 2, "keep_last": 2}, {"keep_last": 9}, {"keep_first": 9}):
        with pytest.raises(TargetError, match="must stay, but 2x of blocks leaves room for 3 of 6"):
            kept(**options)
    with pytest.raises(TargetError, match=r"blocks \[0, 1, 2, 3, 4, 5\] must stay"):
        kept(keep_last=9)


def test_ratio_one_keeps_everything() -> None:
    model = tiny("bert", blocks=2)
    for strategy in ("fused", "greedy"):
        found = selection(
            model, data(model), importance(0, 1), Target(ratio=1, of="params"),
            chosen(strategy),
        )  # fmt: skip
        assert found["kept"] == [0, 1]
        assert found["removed"] == []
        assert found["ratios"] == {"blocks": 1, "params": 1, "size": 1}


def test_one_block_model() -> None:
    model = tiny("bert", blocks=1)
    assert selection(model, data(model), importance(0), Target(ratio=1, of="blocks"), chosen())["kept"] == [0]
    with pytest.raises(TargetError, match="1 of 1 left it is 1x"):
        selection(model, data(model), importance(0), Target(ratio=2, of="blocks"), chosen())


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_greedy_removes_what_costs_least_each_time(model_type: str) -> None:
    model = tiny(model_type, blocks=5)
    family, calibration = family_of(model), data(model)

    def loss(*gone: int) -> float:
        with torch.no_grad(), bypass(model, family, gone):
            return loss_and_accuracy(model, calibration)[0]

    removable = [block for block in range(5) if block not in family.protected]
    gone: list[int] = []
    for keep in (4, 3, 2):
        gone.append(min((block for block in removable if block not in gone), key=lambda block: loss(*gone, block)))
        # The ranking would keep exactly those that greedy removes: greedy measures, it does not read it.
        ranked = importance(*gone, *(block for block in range(5) if block not in gone))
        target = Target(ratio=5 / keep, of="blocks")
        found = selection(model, calibration, ranked, target, chosen("greedy"))
        assert found["removed"] == sorted(gone)
        assert found["strategy"] == "greedy"


def test_greedy_removes_an_identity_block_first() -> None:
    """The answers that labels were taken from cannot be had more cheaply than with nothing changed."""
    model = with_identity("bert", 2)
    target = Target(ratio=4 / 3, of="blocks")
    found = selection(model, data(model), importance(2, 1, 0, 3), target, chosen("greedy"))
    assert found["removed"] == [2]


def test_worst_case_holds_for_a_real_model() -> None:
    model = tiny("modernbert", blocks=6)
    counts = parameter_counts(model, family_of(model))
    keep = blocks_to_keep(Target(ratio=1.5, of="params"), counts, (0,))
    assert ratios(counts, [0, *range(6 - keep + 1, 6)])["params"] >= 1.5


def test_a_tied_output_matrix_stands_twice_in_the_exported_file(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 256, "vocab_size": 4000}
    model = tiny("llama", blocks=6, task=AutoModelForCausalLM, tie_word_embeddings=True, **sizes)
    family, tokenizer = family_of(model), train_wordpiece(["good thing"] * 4, 60, 16)
    counts = parameter_counts(model, family)
    assert counts.tied == 4000 * 64
    found = []
    for name, removed in (("whole", []), ("cut", [1, 2, 3, 4, 5])):
        export_onnx(remove_blocks(model, family, removed), tokenizer, tmp_path / f"{name}.onnx")
        found.append((tmp_path / f"{name}.onnx").stat().st_size)
    planned = ratios(counts, [0])
    assert found[0] / found[1] == pytest.approx(planned["size"], rel=0.06)
    assert planned["params"] > 1.2 * planned["size"]
    for other in (tiny("llama", task=AutoModelForCausalLM, tie_word_embeddings=False), tiny("bert")):
        assert parameter_counts(other, family_of(other)).tied == 0


def test_neighbours_that_cannot_go_are_told_with_the_plan() -> None:
    """Before any block is scored: a block in the middle that must stay leaves no span of two of four."""
    model = tiny("bert")
    family = replace(family_of(model), protected=(1, 2))
    plan_cut(model, family, Target(ratio=2, of="blocks"), chosen("fused"))
    with pytest.raises(TargetError, match="no 2 neighbouring blocks of 4 can go"):
        plan_cut(model, family, Target(ratio=2, of="blocks"), chosen("fused", contiguous=True))
