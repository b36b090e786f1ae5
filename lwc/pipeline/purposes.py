"""What each stage does, in half a line, with sizes where they are known before it runs. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lwc.core.store import read_json
from lwc.recipe import FromConfig, Iterated, Named, Pretrained, Racing, Recipe

Inputs = Mapping[str, Path]
"""Folders of the stages that are done, by name; a plan has not all of them."""


def _examples(inputs: Inputs, split: str) -> int | None:
    """Number of texts or histories of a split; None while it is not known."""
    path = inputs["data"] / "quality.json" if "data" in inputs else None
    if path is None or not path.is_file():  # tasks from outside lwc may write none
        return None
    sizes = read_json(path).get("splits", {}).get(split, {})
    found = sizes.get("rows", sizes.get("users"))
    return None if found is None else int(found)


def _many(recipe: Recipe, inputs: Inputs, split: str) -> str:
    """Such as "3,480 train texts"; "the train texts" while their number is not known."""
    found = _examples(inputs, split)
    return f"{'the' if found is None else f'{found:,}'} {split} {recipe.task.headline.asked}"


def _plural(count: float, noun: str) -> str:
    return f"{count:,g} {noun}" + ("" if count == 1 else "s")


def data(recipe: Recipe, inputs: Inputs) -> str:
    """The data stage."""
    most = "" if recipe.data.limit is None else f", at most {recipe.data.limit:,} rows"
    return f"reads, cleans and splits the {recipe.task.headline.asked}{most}"


def train(recipe: Recipe, inputs: Inputs) -> str:
    """The train stage."""
    model = recipe.model
    if recipe.train.skip:
        return "takes your checkpoint as the base, without training"
    made = f"trains {_plural(model.blocks, 'block')} from scratch" if isinstance(model, FromConfig) else "fine-tunes"
    what = " the model" if isinstance(model, Pretrained) else ""
    return f"{made}{what} on {_many(recipe, inputs, 'train')}, {_plural(recipe.train.epochs, 'epoch')}"


def score(recipe: Recipe, inputs: Inputs) -> str:
    """The score stage."""
    methods = _plural(len(recipe.score.methods), "method")
    tested = f", checked on {recipe.score.trust.subsets} cut models" if recipe.score.trust else ""
    return f"ranks the blocks by {methods} on {_many(recipe, inputs, 'calibration')}{tested}"


def select(recipe: Recipe, inputs: Inputs) -> str:
    """The select stage."""
    select, target = recipe.select, recipe.target
    if isinstance(select, Named):
        return f"removes blocks {', '.join(map(str, sorted(select.blocks)))}, as the recipe says"
    way = f"strategy {select.strategy}"
    if isinstance(select, Racing):
        way = f"a race of up to {select.candidates} candidates"
    elif isinstance(select, Iterated):
        way = f"{select.rounds} rounds of removal and recovery"
    return f"chooses the blocks to keep: {target.ratio:g}× in {target.of}, {way}"


def remove(recipe: Recipe, inputs: Inputs) -> str:
    """The remove stage."""
    if "select" not in inputs:
        return "writes the model without the removed blocks"
    selection = read_json(inputs["select"] / "selection.json")
    return f"writes the model without {len(selection['removed'])} of its {selection['blocks_before']} blocks"


def recover(recipe: Recipe, inputs: Inputs) -> str:
    """The recover stage."""
    settings = recipe.recover
    taught = settings.logits_weight or settings.hidden_weight or settings.attention_weight
    found = _examples(inputs, "train")
    # One row is one text in no other task, and how many further texts there are is not known yet.
    known = found is not None and recipe.task.headline.counted == "texts" and settings.unlabelled is None
    size = f"{settings.steps(found):,} steps" if known and found else _plural(settings.epochs, "epoch")
    return f"{'the uncut model teaches the cut one' if taught else 'the cut model learns from the labels'}, {size}"


def evaluate(recipe: Recipe, inputs: Inputs) -> str:
    """The evaluate stage."""
    return f"compares base, cut and recovered model on {_many(recipe, inputs, 'test')}"


def export(recipe: Recipe, inputs: Inputs) -> str:
    """The export stage."""
    reduced = [name for name, asked in (("int8", recipe.export.int8), ("fp16", recipe.export.fp16)) if asked]
    also = f" (also as {' and '.join(reduced)})" if reduced else ""
    return f"exports base and recovered model{also}, checks parity and latency"


def package(recipe: Recipe, inputs: Inputs) -> str:
    """The package stage."""
    targets = [one for one in recipe.package.targets if one != "tensorrt"]  # written by `lwc export`
    return f"writes the Triton repository for {' and '.join(target.upper() for target in targets)}"


def verify(recipe: Recipe, inputs: Inputs) -> str:
    """The verify stage."""
    settings = recipe.verify
    over = " and ".join({"http": "HTTP", "grpc": "gRPC"}[one] for one in settings.protocols)
    searched = ", searches for the highest rate" if settings.find_rate else ""
    return f"starts Triton, sends {_many(recipe, inputs, 'test')} over {over}{searched}"


REPORT = "decides the gates and writes the report"
"""What follows the last stage."""
