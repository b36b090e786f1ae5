"""A target of latency: how many blocks may stay so that the exported model is this much faster, measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lwc.core.errors import TargetError
from lwc.core.machine import cpu_limit
from lwc.export.latency import compare_latency
from lwc.models.families import Family, block_list
from lwc.models.positions import check_shapes
from lwc.models.surgery import remove_blocks
from lwc.models.types import Model
from lwc.recipe import Export

# Within this of the target one measurement decides nothing: the least of so many must reach it, since the export is
# timed anew, and judged by that.
_CLOSE, _AGAIN = 0.05, 3


def blocks_for_latency(
    model: Model,
    family: Family,
    export: Callable[[Model, Path], object],
    ratio: float,
    settings: Export,
    folder: Path,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """The most blocks whose exported model reaches ``ratio``, found by bisection over models cut from the top.

    Which blocks stay does not matter to latency where all are of one shape; how many does. Each candidate is timed
    against the uncut model in turns, at the recipe's shapes, after warm-up, by medians; one that is near the target
    three times, and the slowest counts. ``export`` writes a model's ONNX file.

    Returns:
        ``keep`` and ``measured``: one row a candidate with its ratio and the spread (interquartile range ÷ median).

    Raises:
        ModelError: a shape is longer than the model reads.
        TargetError: not even the smallest cut model is fast enough.
    """
    total = len(block_list(model, family))
    order = [*sorted(family.protected), *(block for block in range(total) if block not in family.protected)]
    rows: list[dict[str, Any]] = []
    if ratio <= 1:
        return {"keep": total, "measured": rows}
    check_shapes(model, settings.latency_shapes)
    # A folder each: a large model is more than one file.
    base = folder / "base" / "model.onnx"
    base.parent.mkdir()
    export(model, base)

    def reaches(keep: int) -> bool:
        progress(f"latency with {keep} of {total} blocks")
        path = folder / str(keep) / "model.onnx"
        path.parent.mkdir()
        export(remove_blocks(model, family, order[keep:]), path)

        def timed() -> dict[str, Any]:
            return compare_latency(base, path, settings.latency_shapes, settings.latency_repeats, cpu_limit())

        found = timed()
        if abs(found["ratio"] / ratio - 1) < _CLOSE:
            found = min(found, *(timed() for _ in range(_AGAIN - 1)), key=lambda one: float(one["ratio"]))
        shutil.rmtree(path.parent)
        rows.append({"blocks": keep, "ratio": found["ratio"], "shapes": found["shapes"]})
        return bool(found["ratio"] >= ratio)

    least, most = max(1, len(family.protected)), total
    if not reaches(least):
        raise TargetError(
            f"target {ratio:g}x of latency cannot be reached by removing blocks: with {least} of {total} left it is "
            f"{rows[-1]['ratio']:.2f}x",
            f"ask for at most {rows[-1]['ratio'] * 0.95:.1f}x of latency; export.int8 is extra and not counted",
        )
    # Invariant: ``least`` reaches the ratio, ``most`` (at the start the whole model, 1x) does not.
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if reaches(middle) else (least, middle)
    shutil.rmtree(base.parent)
    return {"keep": least, "measured": sorted(rows, key=lambda row: int(row["blocks"]))}
