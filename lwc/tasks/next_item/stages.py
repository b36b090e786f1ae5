"""The stages of a next-item recipe, with the signature of those in `lwc.pipeline.stages`: a context in, files out."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from lwc.core.errors import DataError
from lwc.core.store import read_json, write_json
from lwc.pipeline.stage import StageContext
from lwc.recipe import NextItem, Racing


def task_of(context: StageContext) -> NextItem:
    """The recipe's task; these stages run for no other."""
    task = context.recipe.task
    assert isinstance(task, NextItem)
    return task


def data(context: StageContext) -> None:
    """Histories, questions and catalogue."""
    from lwc.tasks.next_item.prepare import prepare

    quality = prepare(context.recipe, task_of(context), context.out, context.progress)
    splits = quality["splits"]
    sizes = ", ".join(f"{name} {splits[name]['users']:,}" for name in ("train", "validation", "test"))
    context.progress(f"{quality['items']:,} items; users: {sizes}")


def train(context: StageContext) -> None:
    """The base model."""
    from lwc.tasks.next_item.training import train_base

    train_base(context.recipe, task_of(context), context.inputs["data"], context.out, context.scratch, context.progress)


def _measured_on_train(context: StageContext) -> tuple[Any, Any, Any]:
    """(view, family, batches): the base model, and the last train item of users as the label of those before it.

    Users are drawn by ``data.calibration``; validation and test are not touched.
    """
    import numpy as np

    from lwc.models.batches import batches
    from lwc.models.families import family_of
    from lwc.models.placement import beside, placed
    from lwc.tasks.next_item.model import encoded, load
    from lwc.tasks.next_item.splits import load_train

    recipe = context.recipe
    view = placed(load(context.inputs["train"] / "model"))
    histories = [items for items in load_train(context.inputs["data"]).items if len(items) >= 2]
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(histories))[: recipe.data.calibration]
    chosen = [histories[row] for row in np.sort(order)]
    rows = encoded([items[:-1] for items in chosen], recipe.model.max_length)
    labels = np.array([items[-1] for items in chosen], dtype=np.int64)
    if len(chosen) < 2:
        raise DataError("fewer than two users have two train items: the blocks cannot be scored", "use more data")
    groups = batches(rows, labels, recipe.score.batch_size, length_bucketed=True, seed=None)
    return view, family_of(view), beside(view, groups)


def score(context: StageContext) -> None:
    """``importance.json``, as for any other model."""
    from lwc.importance.score import score_blocks

    view, family, calibration = _measured_on_train(context)
    settings, seed = context.recipe.score, context.recipe.seed
    importance = score_blocks(view, family, calibration, settings, context.progress, seed=seed)
    write_json(context.out / "importance.json", importance)
    ranking = importance["fused"]["ranking"]
    context.progress(f"{len(importance['methods'])} methods, most important first: {ranking}")


def _after_recovery(context: StageContext, view: Any) -> Callable[[Collection[int], int], float]:
    import copy

    from lwc.tasks.next_item.recovery import NextItemRecoverer

    recoverer = NextItemRecoverer(context.recipe, task_of(context), context.inputs["data"], copy.deepcopy(view))

    def distance(removed: Collection[int], steps: int) -> float:
        return recoverer.after(removed, steps, context.scratch, context.progress)["distance"]

    return distance


def select(context: StageContext) -> None:
    """``selection.json``."""
    from lwc.selection.select import select_blocks

    recipe = context.recipe
    view, family, calibration = _measured_on_train(context)
    selection = select_blocks(
        view,
        family,
        calibration,
        read_json(context.inputs["score"] / "importance.json"),
        recipe.target,
        recipe.select,
        recovered=_after_recovery(context, view) if isinstance(recipe.select, Racing) else None,
        seed=recipe.seed,
    )
    write_json(context.out / "selection.json", selection)
    context.progress(f"keep {selection['kept']}, remove {selection['removed']}")


def remove(context: StageContext) -> None:
    """``model/`` without the removed blocks, its catalogue inside, and ``cut.json``."""
    from lwc.models.families import family_of
    from lwc.models.surgery import remove_blocks
    from lwc.tasks.next_item.histories import Catalogue
    from lwc.tasks.next_item.model import load, save

    base = context.inputs["train"] / "model"
    selection = read_json(context.inputs["select"] / "selection.json")
    view = load(base)
    save(remove_blocks(view, family_of(view), selection["removed"]), context.out / "model")
    Catalogue.read(base / "catalogue.json").write(context.out / "model" / "catalogue.json")
    write_json(context.out / "cut.json", {"kept": selection["kept"]})


def recover(context: StageContext) -> None:
    """``model/`` after recovery distillation."""
    from lwc.tasks.next_item.recovery import recover as run

    run(
        context.recipe,
        task_of(context),
        data_dir=context.inputs["data"],
        teacher_dir=context.inputs["train"],
        student_dir=context.inputs["remove"],
        kept=read_json(context.inputs["remove"] / "cut.json")["kept"],
        out=context.out,
        scratch=context.scratch,
        progress=context.progress,
    )


def evaluate(context: StageContext) -> None:
    """``evaluation.json`` and ``predictions.parquet``."""
    from lwc.tasks.next_item.evaluation import evaluate as run

    result = run(
        context.recipe,
        task_of(context),
        data_dir=context.inputs["data"],
        base_dir=context.inputs["train"],
        unrecovered_dir=context.inputs["remove"],
        compressed_dir=context.inputs["recover"],
        out=context.out,
        progress=context.progress,
    )
    base, small = (result["quality"][name]["ndcg_at_10"]["value"] for name in ("base", "compressed"))
    best = max(floor["ndcg_at_10"]["value"] for floor in result["quality"]["floors"].values())
    context.progress(f"test NDCG@10 {base:.4f} → {small:.4f}; best floor {best:.4f}")


def export(context: StageContext) -> None:
    """Both graphs with top-k inside, and ``export.json``."""
    from lwc.tasks.next_item.export import export_pair

    result = export_pair(
        context.recipe,
        task_of(context),
        data_dir=context.inputs["data"],
        base_dir=context.inputs["train"],
        compressed_dir=context.inputs["recover"],
        out=context.out,
        progress=context.progress,
    )
    ratios = result["ratios"]
    context.progress(f"size {ratios['size']:.2f}×, latency {ratios['latency']:.2f}×")


FUNCTIONS: dict[str, Callable[[StageContext], None]] = {
    "data": data,
    "train": train,
    "score": score,
    "select": select,
    "remove": remove,
    "recover": recover,
    "evaluate": evaluate,
    "export": export,
}
"""Stage name → its function, for `lwc.pipeline.stages`."""
