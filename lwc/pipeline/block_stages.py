"""The stages that choose: score, select and remove."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from lwc.core import distributed
from lwc.core.store import read_json, write_json
from lwc.pipeline.stage import StageContext
from lwc.recipe import Iterated, Racing

if TYPE_CHECKING:
    from lwc.selection.select import CutPlan


def _rows_beside(context: StageContext, model: Any, split: str) -> Any:
    """Batches of a split on the base model's device."""
    from lwc.models.load import load_tokenizer
    from lwc.models.placement import beside
    from lwc.tasks.text import in_batches, split_rows

    tokenizer = load_tokenizer(context.inputs["train"] / "model")
    rows = split_rows(context.recipe, tokenizer, context.inputs["data"], split)
    return beside(model, in_batches(context.recipe, rows, context.recipe.score.batch_size))


def _measured_on(context: StageContext) -> tuple[Any, Any, Any]:
    """(model, family, batches): the base model and the calibration rows that it is measured on."""
    from lwc.models.families import family_of
    from lwc.models.load import load_model
    from lwc.models.placement import placed

    model = placed(load_model(context.inputs["train"] / "model"))
    return model, family_of(model), _rows_beside(context, model, "calibration")


def _recoverer(context: StageContext, model: Any) -> Any:
    from lwc.models.load import load_tokenizer
    from lwc.training.distillation import Recoverer

    tokenizer = load_tokenizer(context.inputs["train"] / "model")
    # Cut models that are compared are taught the same batches.
    answers = context.answers or context.scratch / "teacher"
    given = (context.recipe, context.inputs["data"], copy.deepcopy(model), tokenizer)
    return Recoverer(*given, context.progress, answers)


def _after_recovery(context: StageContext, model: Any, figure: str) -> Callable[[Collection[int], int], float]:
    """(removed blocks, steps) → this figure of that cut model on validation, after so many steps of recovery."""
    recoverer = _recoverer(context, model)

    def measured(removed: Collection[int], steps: int) -> float:
        return float(recoverer.after(removed, steps, context.scratch, context.progress)[figure])

    return measured


def _short_recovery(context: StageContext, model: Any) -> Callable[[Collection[int]], float] | None:
    """Loss of a cut model after the recipe's few steps of recovery, where it asks for that."""
    trust = context.recipe.score.trust
    if trust is None or trust.recovery_steps == 0:
        return None
    loss, steps = _after_recovery(context, model, "loss"), trust.recovery_steps
    return lambda removed: loss(removed, steps)


def _cut(context: StageContext, model: Any, family: Any) -> int | None:
    """How many blocks the target removes, which is how many the measured cut models lack; None for one of latency."""
    from lwc.selection.select import plan_cut

    recipe = context.recipe
    if recipe.target.of == "latency":
        return None
    plan = plan_cut(model, family, recipe.target, recipe.select, _trimmed_parameters(context, model))
    return plan.total - plan.keep or None


def score(context: StageContext) -> None:
    """The score stage: ``importance.json``."""
    from lwc.importance.score import Trial, score_blocks

    model, family, calibration = _measured_on(context)
    settings = context.recipe.score
    # Cut models are judged on rows that no score has seen.
    needed = settings.trust is not None or settings.fusion == "learned"
    held_out = _rows_beside(context, model, "validation") if needed else None
    trial = Trial(held_out, _short_recovery(context, model), _cut(context, model, family) if needed else None)
    importance = score_blocks(model, family, calibration, settings, context.progress, trial, seed=context.recipe.seed)
    write_json(context.out / "importance.json", importance)
    ranking = importance["fused"]["ranking"]
    context.progress(f"{len(importance['methods'])} methods, most important first: {ranking}")


def _trimmed_parameters(context: StageContext, model: Any) -> int:
    """Parameters that vocabulary trimming will take from the embeddings."""
    recipe = context.recipe
    if not recipe.vocabulary.trim:
        return 0
    from lwc.data.splits import load_split
    from lwc.models.load import load_tokenizer
    from lwc.models.vocabulary import used_tokens

    tokenizer = load_tokenizer(context.inputs["train"] / "model")
    texts = load_split(context.inputs["data"], "train").texts
    left = len(used_tokens(tokenizer, texts, recipe.model.max_length, recipe.vocabulary.min_count))
    rows, width = model.get_input_embeddings().weight.shape
    return int((rows - left) * width)


def select(context: StageContext) -> None:
    """The select stage: ``selection.json``, and ``model/`` where rounds of recovery made one."""
    from lwc.models.load import load_model, load_tokenizer
    from lwc.pipeline.blocks_for_latency import blocks_for_latency
    from lwc.selection.select import plan_cut, select_blocks

    recipe = context.recipe
    model, family, calibration = _measured_on(context)
    importance = read_json(context.inputs["score"] / "importance.json")
    trimmed = _trimmed_parameters(context, model)
    latency = None
    if recipe.target.of == "latency":
        folder, ratio, settings = context.inputs["train"] / "model", recipe.target.ratio, recipe.export
        context.scratch.mkdir(parents=True, exist_ok=True)
        latency = distributed.from_main(
            lambda: blocks_for_latency(
                load_model(folder),  # timed as it is served, on the CPU
                load_tokenizer(folder),
                family,
                ratio,
                settings,
                context.scratch,
                context.progress,
            )
        )
    keep = None if latency is None else int(latency["keep"])
    plan = plan_cut(model, family, recipe.target, recipe.select, trimmed, keep)
    if isinstance(recipe.select, Iterated):
        selection = _iterate(context, model, family, calibration, recipe.select, plan)
    else:
        recovered = _after_recovery(context, model, "distance") if isinstance(recipe.select, Racing) else None
        selection = select_blocks(model, family, calibration, importance, plan, recovered, seed=recipe.seed)
    if latency is not None:
        selection["latency"] = latency["measured"]
    write_json(context.out / "selection.json", selection)
    context.progress(f"keep {selection['kept']}, remove {selection['removed']}")


def _iterate(
    context: StageContext, model: Any, family: Any, calibration: Any, config: Iterated, plan: CutPlan
) -> dict[str, Any]:
    """Iterated removal; leaves the model of the last round, on which the recover stage goes on, in ``model/``."""
    from lwc.models.load import load_model, load_tokenizer, save_checkpoint
    from lwc.models.placement import placed
    from lwc.selection.iterated import iterated
    from lwc.selection.select import describe
    from lwc.training.distillation import blocks_name

    tokenizer = load_tokenizer(context.inputs["train"] / "model")
    recoverer = _recoverer(context, model)

    def heal(student: Any, kept: list[int], number: int) -> Any:
        # A finished round is kept whole, so that a killed stage goes on from it.
        done = context.scratch / f"round-{number}-keeps-{blocks_name(kept)}"
        if not done.is_dir():
            context.progress(f"round {number}: recovering blocks {kept}")
            work = done.with_name(f"{done.name}.work")
            recoverer.run(student, kept, recoverer.in_steps(config.steps), work, context.progress)

            def keep() -> None:
                save_checkpoint(student.to("cpu"), tokenizer, work / "model")
                (work / "model").replace(done)
                shutil.rmtree(work, ignore_errors=True)  # stored answers and checkpoints, which fill a disk

            distributed.from_main(keep)
        return placed(load_model(done))

    course = iterated(config, model, family, calibration, plan, heal)
    save_checkpoint(course.model.to("cpu"), tokenizer, context.out / "model")
    return {**describe(course.kept, plan), "rounds": course.rounds}


def remove(context: StageContext) -> None:
    """The remove stage: ``model/``, an ordinary checkpoint without the removed blocks, and ``cut.json``."""
    from lwc.models.families import family_of
    from lwc.models.load import load_model, load_tokenizer, save_checkpoint
    from lwc.models.surgery import remove_blocks
    from lwc.training.distillation import random_weights

    base = context.inputs["train"] / "model"
    selection = read_json(context.inputs["select"] / "selection.json")
    ready = context.inputs["select"] / "model"
    if ready.is_dir():
        smaller = load_model(ready)
    else:
        model = load_model(base)
        smaller = remove_blocks(model, family_of(model), selection["removed"])
    if selection["weights"] == "random":
        smaller = random_weights(smaller, context.recipe.seed)
    save_checkpoint(smaller, load_tokenizer(base), context.out / "model")
    # Not how they were chosen: ways that choose the same blocks share one recovery.
    write_json(context.out / "cut.json", {"kept": selection["kept"]})
