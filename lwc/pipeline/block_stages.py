"""The stages that choose: score, select and remove."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from lwc.core import distributed
from lwc.core.progress import Say, part
from lwc.core.store import read_json, write_json
from lwc.data.splits import load_split
from lwc.export.onnx import export_graph
from lwc.importance.score import Trial, score_blocks
from lwc.models.batches import Batch
from lwc.models.families import Family, family_of
from lwc.models.placement import beside, placed
from lwc.models.surgery import remove_blocks
from lwc.models.types import Model
from lwc.models.vocabulary import used_tokens
from lwc.pipeline.before_training import check_base
from lwc.pipeline.blocks_for_latency import blocks_for_latency
from lwc.pipeline.keys import searched_for_latency
from lwc.pipeline.stage import StageContext
from lwc.recipe import Iterated, Racing
from lwc.selection.iterated import iterated, quotas
from lwc.selection.plan import CutPlan
from lwc.selection.select import describe, plan_cut, select_blocks
from lwc.tasks.task import Checkpoint, task_of, tokenizer_of
from lwc.training.distillation import Recoverer, blocks_name, random_weights
from lwc.training.recovery import recoverer_of


def _base(context: StageContext) -> Checkpoint:
    return task_of(context.recipe).load(context.inputs["train"] / "model")


def _measured_on(context: StageContext) -> tuple[Checkpoint, Family]:
    """(base, family), the model where it computes."""
    base = _base(context)
    placed(base.model)
    return base, family_of(base.model)


def _batches(context: StageContext, base: Checkpoint, split: str) -> list[Batch]:
    """Batches of a split on the base model's device."""
    recipe = context.recipe
    rows = task_of(recipe).rows(recipe, base.reader, context.inputs["data"], split)
    return beside(base.model, rows.in_batches(recipe.score.batch_size))


def _recoverer(context: StageContext, base: Checkpoint) -> Recoverer:
    # Cut models that are compared are taught the same batches.
    answers = context.answers or context.scratch / "teacher"
    teacher = base._replace(model=copy.deepcopy(base.model))
    return recoverer_of(context.recipe, context.inputs["data"], teacher, context.progress, answers)


def _after_recovery(
    context: StageContext, base: Checkpoint, figure: str
) -> Callable[[Collection[int], int, Say], float]:
    """(removed blocks, steps, progress) → this figure of that cut model on validation, after that recovery."""
    recoverer = _recoverer(context, base)

    def measured(removed: Collection[int], steps: int, say: Say) -> float:
        return float(recoverer.after(removed, steps, context.scratch, say)[figure])

    return measured


def _short_recovery(context: StageContext, base: Checkpoint) -> Callable[[Collection[int], Say], float] | None:
    """Loss of a cut model after the recipe's few steps of recovery, where it asks for that."""
    trust = context.recipe.score.trust
    if trust is None or trust.recovery_steps == 0:
        return None
    loss, steps = _after_recovery(context, base, "loss"), trust.recovery_steps
    return lambda removed, say: loss(removed, steps, say)


def _cut(context: StageContext, base: Checkpoint, family: Family) -> int | None:
    """How many blocks will go, which is how many the measured cut models lack; None where latency decides it."""
    recipe = context.recipe
    if searched_for_latency(recipe):
        return None
    plan = plan_cut(base.model, family, recipe.target, recipe.select, _trimmed_parameters(context, base))
    return plan.total - plan.keep or None


def score(context: StageContext) -> None:
    """The score stage: ``importance.json``, none where the recipe lists no method."""
    check_base(context, _base(context))
    if not context.recipe.score.methods:
        context.progress("blocks are not scored (score.methods is empty)")
        return
    base, family = _measured_on(context)
    settings = context.recipe.score
    # Cut models are judged on rows that no score has seen.
    needed = settings.trust is not None or settings.fusion == "learned"
    held_out = _batches(context, base, "validation") if needed else None
    trial = Trial(held_out, _short_recovery(context, base), _cut(context, base, family) if needed else None)
    calibration, seed = _batches(context, base, "calibration"), context.recipe.seed
    importance = score_blocks(base.model, family, calibration, settings, context.progress, trial, seed=seed)
    write_json(context.out / "importance.json", importance)
    ranking = importance["fused"]["ranking"]
    context.progress(f"blocks by importance, highest first: {', '.join(map(str, ranking))}")


def _trimmed_parameters(context: StageContext, base: Checkpoint) -> int:
    """Parameters that vocabulary trimming will take from the embeddings."""
    recipe = context.recipe
    if not recipe.vocabulary.trim:
        return 0

    texts = load_split(context.inputs["data"], "train").texts
    left = len(used_tokens(tokenizer_of(base), texts, recipe.model.max_length, recipe.vocabulary.min_count))
    rows, width = base.model.get_input_embeddings().weight.shape
    return int((rows - left) * width)


def select(context: StageContext) -> None:
    """The select stage: ``selection.json``, and ``model/`` where rounds of recovery made one."""
    recipe = context.recipe
    base, family = _measured_on(context)
    calibration = _batches(context, base, "calibration")
    importance = read_json(context.inputs["score"] / "importance.json") if recipe.score.methods else None
    trimmed = _trimmed_parameters(context, base)
    latency = distributed.from_main(lambda: _measured_latency(context)) if searched_for_latency(recipe) else None
    keep = None if latency is None else int(latency["keep"])
    plan = plan_cut(base.model, family, recipe.target, recipe.select, trimmed, keep)
    if isinstance(recipe.select, Iterated):
        selection = _iterate(context, base, calibration, recipe.select, plan)
    else:
        recovered = _after_recovery(context, base, "distance") if isinstance(recipe.select, Racing) else None
        selection = select_blocks(
            base.model, family, calibration, importance, plan, recovered, recipe.seed, context.progress
        )
    if latency is not None:
        selection["latency"] = latency["measured"]
    write_json(context.out / "selection.json", selection)
    context.progress(f"keep {selection['kept']}, remove {selection['removed']}")


def _measured_latency(context: StageContext) -> dict[str, Any]:
    """`blocks_for_latency` of the base, timed as it is served: on the CPU."""
    recipe, base = context.recipe, _base(context)
    task, family = task_of(recipe), family_of(base.model)
    context.scratch.mkdir(parents=True, exist_ok=True)

    def export(model: Model, path: Path) -> None:
        export_graph(task.graph(recipe, base._replace(model=model), context.inputs["data"]), path)

    ratio, settings = recipe.target.ratio, recipe.export
    return blocks_for_latency(base.model, family, export, ratio, settings, context.scratch, context.progress)


def _iterate(
    context: StageContext, base: Checkpoint, calibration: list[Batch], config: Iterated, plan: CutPlan
) -> dict[str, Any]:
    """Iterated removal; leaves the model of the last round in ``model/``, where the recover stage continues."""
    recipe, model, family = context.recipe, base.model, family_of(base.model)
    task = task_of(recipe)
    recoverer = _recoverer(context, base)
    healed = len(quotas(plan.total - plan.keep, config.rounds)) - 1  # the last is healed by the recover stage

    def heal(student: Model, kept: list[int], number: int) -> Model:
        # A finished round is kept whole, so that a killed stage resumes from it.
        done = context.scratch / f"round-{number}-keeps-{blocks_name(kept)}"
        if not done.is_dir():
            work = done.with_name(f"{done.name}.work")
            say = part(context.progress, f"round {number}/{healed}", number - 1, healed)
            recoverer.run(student, kept, recoverer.in_steps(config.steps), work, say)

            def keep() -> None:
                task.save(base._replace(model=student.to("cpu")), work / "model")
                (work / "model").replace(done)
                shutil.rmtree(work, ignore_errors=True)  # stored answers and checkpoints, which fill a disk

            distributed.from_main(keep)
        return placed(task.load(done).model)

    course = iterated(config, model, family, calibration, plan, heal)
    task.save(base._replace(model=course.model.to("cpu")), context.out / "model")
    return {**describe(course.kept, plan), "rounds": course.rounds}


def remove(context: StageContext) -> None:
    """The remove stage: ``model/``, an ordinary checkpoint without the removed blocks, and ``cut.json``."""
    task = task_of(context.recipe)
    base = _base(context)
    selection = read_json(context.inputs["select"] / "selection.json")
    ready = context.inputs["select"] / "model"
    if ready.is_dir():
        smaller = task.load(ready).model
    else:
        smaller = remove_blocks(base.model, family_of(base.model), selection["removed"])
    if selection["weights"] == "random":
        smaller = random_weights(smaller, context.recipe.seed)
    task.save(base._replace(model=smaller), context.out / "model")
    # Not how they were chosen: strategies that pick the same blocks share one recovery.
    write_json(context.out / "cut.json", {"kept": selection["kept"]})
