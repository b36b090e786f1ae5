"""Beam, racing, iterated removal, spans and the baselines: what each looks at, and what it must end with."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from strategies import chosen
from tiny_models import VOCAB, tiny, tokens

from lwc.core.errors import Diverged, TargetError
from lwc.core.progress import Say, Step
from lwc.models.batches import Encoded, batches
from lwc.models.families import family_of
from lwc.models.forward.predict import loss_and_accuracy
from lwc.models.forward.prefix import outcomes
from lwc.models.surgery import remove_blocks
from lwc.recipe import Recipe, Target
from lwc.selection import select
from lwc.selection.choice import Choice, Subset
from lwc.selection.iterated import iterated, quotas
from lwc.selection.racing import candidates, racing
from lwc.selection.search import beam, best_subsets, greedy
from lwc.selection.select import measured, plan_cut
from lwc.selection.strategies import drawn, drop_bottom, drop_even, drop_top, fused, single
from lwc.training.distillation import blocks_name

ROWS = batches(tokens(8), np.array([0, 1, 2, 0, 1, 2, 0, 1]), 4, length_bucketed=False, seed=None)


def choice(total: int, keep: int, loss: Any = None, required: tuple[int, ...] = (), **more: Any) -> Choice:
    """A choice among blocks that score 0, 1, 2 …, and whose subsets lose ``loss(removed)``."""
    scores = [float(block) for block in range(total)]
    importance = {
        "fused": {"ranking": sorted(range(total), reverse=True)},
        "methods": {"fisher": {"scores": scores}, "taylor": {"scores": scores[::-1]}},
        "excluded": {},
    }
    judge = loss or (lambda removed: sum(scores[block] for block in removed))
    return Choice(importance, total, keep, frozenset(required), lambda many: {one: judge(one) for one in many}, **more)


def test_baselines_by_hand() -> None:
    twelve = choice(12, 4)
    assert drop_top(chosen("drop_top"), twelve) == frozenset(range(4, 12))
    assert drop_bottom(chosen("drop_bottom"), twelve) == frozenset(range(8))
    assert drop_even(chosen("drop_even"), twelve) == frozenset(range(12)) - {0, 3, 6, 9}
    assert single(chosen("single", method="taylor"), twelve) == frozenset(range(4, 12))
    assert fused(chosen("fused"), twelve) == frozenset(range(8))
    draws = {drawn(chosen("random", draw=number), twelve) for number in range(9)}
    assert len(draws) > 6
    assert drawn(chosen("random", draw=3), twelve) == drawn(chosen("random", draw=3), twelve)


def test_baselines_make_room_for_blocks_that_must_stay() -> None:
    held = choice(6, 3, required=(5,))
    assert drop_top(chosen("drop_top"), held) == frozenset({2, 3, 4})
    assert drop_bottom(chosen("drop_bottom"), choice(6, 3, required=(0,))) == frozenset({1, 2, 3})
    removed = drop_even(chosen("drop_even"), held)
    assert len(removed) == 3
    assert 5 not in removed


@pytest.mark.parametrize("strategy", ["fused", "beam"])
def test_spans_are_neighbours_and_the_cheapest_of_them(strategy: str) -> None:
    cost = [5.0, 1.0, 1.0, 9.0, 0.0, 3.0, 0.5]
    given = Choice(
        {"fused": {"scores": cost}}, 7, 5, frozenset(),
        lambda many: {one: sum(cost[block] for block in one) for one in many},
    )  # fmt: skip
    run = {"fused": fused, "beam": beam}[strategy]
    assert run(chosen(strategy, contiguous=True), given) == frozenset({1, 2})


def test_no_span_fits_between_blocks_that_must_stay() -> None:
    with pytest.raises(TargetError, match=r"no 3 neighbouring blocks of 6 can go: \[0, 3\] must stay"):
        choice(6, 3, required=(0, 3)).spans()


def test_a_beam_of_one_is_greedy_and_a_wide_one_is_exhaustive() -> None:
    model = tiny("modernbert", blocks=6, seed=4)
    losses = measured(model, family_of(model), ROWS, None)
    given = Choice({}, 6, 3, frozenset({0}), losses)
    assert best_subsets(given, 1, False)[0][0] == greedy(chosen("greedy"), given)
    every = [frozenset(some) for some in itertools.combinations(range(1, 6), 3)]
    found = losses(every)
    assert best_subsets(given, 99, False)[0][0] == min(every, key=lambda one: found[one])
    assert [one for one, _ in best_subsets(given, 99, False)] == sorted(every, key=lambda one: found[one])


def test_a_beam_escapes_where_greedy_is_trapped() -> None:
    """Block 0 is cheapest alone, and ruinous with any other."""
    pairs = {frozenset({0}): 0.0, frozenset({1}): 1.0, frozenset({2}): 1.1, frozenset({3}): 5.0}

    def loss(removed: Subset) -> float:
        if len(removed) == 1:
            return pairs[removed]
        return 9.0 if 0 in removed else sum(removed)

    given = choice(4, 2, loss)
    assert 0 in greedy(chosen("greedy"), given)
    assert beam(chosen("beam", width=3), given) == frozenset({1, 2})


def test_measured_subsets_are_removed_models() -> None:
    model = tiny("bert", blocks=4)
    gone = frozenset({1, 2})
    found = measured(model, family_of(model), ROWS, None)([gone])[gone]
    cut = remove_blocks(model, family_of(model), gone)
    assert found == pytest.approx(loss_and_accuracy(cut, ROWS)[0], abs=1e-6)


@pytest.mark.parametrize("size", [8, 32, 64])
def test_a_part_of_the_rows_has_short_and_long_texts(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = tiny("bert"), np.arange(1, 33)
    random = np.random.default_rng(0)
    rows = Encoded([random.integers(5, VOCAB, length).tolist() for length in lengths], None, 1, 40, 0)
    groups = batches(rows, np.zeros(len(lengths), dtype=np.int64), size, length_bucketed=True, seed=None)
    seen: list[int] = []

    def watch(model: Any, family: Any, parts: Any, subsets: Any) -> dict[Any, Any]:
        seen.extend(int(length) for part in parts for length in part.mask.sum(dim=1))
        return outcomes(model, family, parts, subsets)

    monkeypatch.setattr(select, "outcomes", watch)
    measured(model, family_of(model), groups, 8)([frozenset()])
    assert sorted(seen) == [3, 7, 11, 15, 19, 23, 27, 31], "the middle of each eighth, whatever the batches are"


def test_racing_halves_the_field_and_doubles_the_steps() -> None:
    asked: list[tuple[Subset, int]] = []
    said: list[str] = []

    def recovered(removed: Subset, steps: int, say: Say) -> float:
        asked.append((removed, steps))
        say(Step(steps, steps, "loss 0.4"))
        return float(sum(removed)) * (1 if steps < 40 else -1)  # more recovery turns the order round

    given = choice(6, 3, recovered=recovered, say=said.append)
    config = chosen("racing", candidates=4, steps=10, width=4)
    field = candidates(config, given)
    assert len(set(field)) == 4
    assert frozenset({0, 1, 2}) in field, "the fused choice runs"
    assert frozenset({1, 3, 5}) in field, "and so do evenly spaced blocks"
    won = racing(config, given)
    assert [steps for _, steps in asked] == [10] * 4 + [20] * 2
    assert won == min(field, key=lambda one: sum(one))
    assert [round_["steps"] for round_ in given.notes["race"]] == [10, 20]
    assert [str(one).split(" · ")[0] for one in said] == [f"step {done}/80" for done in (10, 20, 30, 40, 60, 80)]
    assert said[-1] == "step 80/80 · round 2/2, candidate 2/2 · loss 0.4"


def test_a_race_has_no_more_candidates_than_there_are_choices() -> None:
    asked: list[tuple[int, Subset]] = []

    def recovered(removed: Subset, steps: int, say: Say) -> float:
        asked.append((steps, removed))
        return float(sum(removed))

    # One of three blocks goes: the fused choice and the evenly spaced one are among the three subsets.
    given = choice(3, 2, recovered=recovered)
    config = chosen("racing", candidates=4, steps=10)
    assert sorted(map(sorted, candidates(config, given))) == [[0], [1], [2]]
    assert racing(config, given) == frozenset({0})
    assert [steps for steps, _ in asked] == [10, 10, 10, 20, 20]
    assert len(set(asked)) == len(asked), "no candidate recovers twice in a round"


def test_a_candidate_whose_recovery_diverges_loses_the_race() -> None:
    def recovered(removed: Subset, steps: int, say: Say) -> float:
        if removed == frozenset({0, 1, 2}):
            raise Diverged("the training loss became nan")
        return float(sum(removed))

    given = choice(6, 3, recovered=recovered)
    assert racing(chosen("racing", candidates=4, width=4), given) != frozenset({0, 1, 2})
    last = given.notes["race"][0]["distances"][-1]
    assert last == {"removed": [0, 1, 2], "distance": None}, "as JSON: no number"

    def hopeless(removed: Subset, steps: int, say: Say) -> float:
        raise Diverged("the training loss became nan")

    with pytest.raises(Diverged):
        racing(chosen("racing", candidates=4, width=4), choice(6, 3, recovered=hopeless))


def test_folders_of_trials_have_names_that_a_disk_takes() -> None:
    assert blocks_name({3, 1, 2}) == "1-2-3"
    long, other = blocks_name(range(150)), blocks_name(range(1, 150))
    assert max(len(long), len(other)) <= 100
    assert long != other


def test_racing_without_recovery_is_refused() -> None:
    with pytest.raises(TargetError, match="needs recovery"):
        racing(chosen("racing"), choice(6, 3))


@pytest.mark.parametrize(("count", "rounds", "sizes"), [(8, 3, [3, 3, 2]), (2, 5, [1, 1]), (0, 3, [0]), (6, 2, [3, 3])])
def test_rounds_share_the_removals(count: int, rounds: int, sizes: list[int]) -> None:
    assert quotas(count, rounds) == sizes


def test_iterated_removal_looks_at_the_model_as_it_has_recovered() -> None:
    model = tiny("modernbert", blocks=6, seed=2)
    family, healed = family_of(model), []

    def heal(student: Any, kept: list[int], number: int) -> Any:
        healed.append((number, list(kept), len(student.model.layers)))
        with torch.no_grad():
            # What "recovery" does here: the last block becomes the identity, and so the cheapest to remove.
            student.model.layers[-1].attn.Wo.weight.zero_()
            student.model.layers[-1].mlp.Wo.weight.zero_()
        return student

    settings = chosen("iterated", rounds=3)
    plan = plan_cut(model, family, Target(ratio=2, of="blocks"), settings)
    course = iterated(settings, model, family, ROWS, plan, heal)
    assert [number for number, _, _ in healed] == [1, 2], "the last round is left to the recover stage"
    assert [blocks for _, _, blocks in healed] == [5, 4]
    assert len(course.kept) == 3
    assert course.kept[0] == 0
    assert len(course.model.model.layers) == 3
    gone = [block for round_ in course.rounds for block in round_["removed"]]
    assert sorted(gone + course.kept) == list(range(6))
    assert len(model.model.layers) == 6, "the uncut model stays whole"


def test_iterated_removal_of_nothing() -> None:
    model = tiny("bert", blocks=3)
    settings, family = chosen("iterated"), family_of(model)
    plan = plan_cut(model, family, Target(ratio=1, of="blocks"), settings)
    course = iterated(settings, model, family, ROWS, plan, lambda *_: pytest.fail("healed"))
    assert course.kept == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"select": {"strategy": "single", "method": "shap"}}, "not one of score.methods"),
        ({"select": {"strategy": "drop_top", "weights": "random"}}, "starts from random weights"),
        ({"select": {"strategy": "greedy", "contiguous": True}}, "contiguous"),
    ],
)
def test_recipes_that_cannot_work_are_refused_at_once(changes: dict[str, Any], reason: str) -> None:
    whole = {"schema_version": 1, "name": "x", "model": {"kind": "config"}, "target": {"ratio": 2, "of": "blocks"}}
    with pytest.raises(ValidationError, match=reason):
        Recipe.model_validate({**whole, **changes})


def test_a_target_of_latency_is_a_recipe_like_any_other() -> None:
    assert Target(ratio=2, of="latency").of == "latency"
