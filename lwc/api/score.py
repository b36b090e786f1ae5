"""`lwc.score`: how important each block of a model is."""

from __future__ import annotations

import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from lwc.api.models import ModelLike, TokenizerLike, exact, kind_of, model_of, tokenizer_of
from lwc.api.settings import checked, told
from lwc.api.texts import Labels, Texts, read, rows_of, targets_of
from lwc.core.errors import DataError, RecipeError
from lwc.core.progress import Say
from lwc.core.store import write_whole
from lwc.importance.contents import Importance as Content
from lwc.importance.score import score_blocks
from lwc.models.families import family_of
from lwc.models.placement import beside
from lwc.recipe import METHODS, Method, Score
from lwc.report.importance_plots import draw_heatmap, heatmap_size
from lwc.report.plots import STYLE, write_png

Fusion = Literal["mean_rank", "z_score", "robust_rank"]


class _Picture(Figure):
    """A figure that notebooks show."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        write_png(self, file)
        return file.getvalue()


@dataclass(frozen=True, repr=False)
class Importance:
    """Scores of every block by every method, and one ranking made of them. Blocks are numbered from 0, the input's end.

    Attributes:
        content: everything that was measured, as in ``importance.json`` of a run.
        protected: blocks that carry a role and cannot be removed, such as block 0 of a ModernBERT.
    """

    content: Content
    protected: tuple[int, ...] = ()

    @property
    def ranking(self) -> list[int]:
        """All blocks, the most important first, by the fusion of the methods."""
        return list(self.content["fused"]["ranking"])

    @property
    def fused(self) -> list[float]:
        """The fused score of each block, higher = keep. ``mean_rank`` gives 0 (least important) to 1."""
        return list(self.content["fused"]["scores"])

    @property
    def scores(self) -> dict[str, list[float | None]]:
        """Each method's raw score of each block, higher = keep, in the method's unit; None where it is not finite."""
        return {name: list(one["scores"]) for name, one in self.content["methods"].items()}

    @property
    def units(self) -> dict[str, str]:
        """The unit of each method's scores."""
        return {name: one["unit"] for name, one in self.content["methods"].items()}

    @property
    def excluded(self) -> dict[str, str]:
        """Methods that the fusion leaves out, and why: they do not tell the blocks apart."""
        return dict(self.content["excluded"])

    def lowest(self, count: int) -> list[int]:
        """The ``count`` least important blocks that can be removed, in the order of the model.

        Raises:
            LwcError: there are not so many, or no block would be left.
        """
        free = [block for block in self.ranking if block not in self.protected]
        most = len(free) - (not self.protected)
        if not 0 <= count <= most:
            raise RecipeError(f"{count} blocks of {len(self.ranking)} cannot be removed", f"ask for 0 to {most}")
        return sorted(free[len(free) - count :])

    def to_frame(self) -> pd.DataFrame:
        """A row for each block, with a column for each method's raw scores and one for the fused score, ``fused``."""
        columns = {**self.scores, "fused": self.fused}
        return pd.DataFrame(columns, index=pd.RangeIndex(len(self.fused), name="block"), dtype="float64")

    def plot(self, path: str | PathLike[str] | None = None) -> Figure:
        """Blocks × methods as a heatmap with the scores written in; notebooks show it.

        Args:
            path: PNG file to write it to as well.
        """
        with mpl.rc_context(STYLE):
            figure = _Picture(figsize=heatmap_size(self.content), layout="constrained")
            draw_heatmap(figure, self.content, None)
            if path is not None:
                write_whole(Path(path), lambda file: write_png(figure, file))
        return figure

    def __repr__(self) -> str:
        methods = ", ".join(self.scores)
        return f"Importance({len(self.ranking)} blocks by {methods}; the most important first: {self.ranking})"


def score(
    model: ModelLike,
    tokenizer: TokenizerLike | None,
    texts: Texts,
    labels: Labels | None = None,
    *,
    methods: Sequence[str | Mapping[str, Any] | Method] | None = None,
    fusion: Fusion = "mean_rank",
    batch_size: int = 16,
    max_length: int | None = None,
    progress: Say | None = None,
) -> Importance:
    """Measure how important each block of a model is, by one or more methods.

    Nothing is trained, and the model is left as it was. Use texts of the model's own task that it is not tested on: 100
    to 500 of them are enough. Scores do not change with the batch size, the order of the texts or padding.

    | method | what it measures | labels |
    |---|---|---|
    | `ablation` | loss without the block minus loss with it (Sajjad et al. 2023) | yes |
    | `taylor` | first-order estimate of that difference (Molchanov et al. 2019) | yes |
    | `fisher` | mean squared sensitivity of the loss to the block's units (Theis et al. 2018) | yes |
    | `conductance` | attribution of the true class to the block's update (Dhamdhere et al. 2019) | yes |
    | `shap` | Shapley value of the block (Lundberg & Lee 2017) | yes |
    | `mutual_information` | label information that the block adds (Xu et al. 2020) | yes |
    | `block_influence` | 1 − cosine of the block's input and output (Men et al. 2024) | no |
    | `angular_distance` | angle between input and output (Gromov et al. 2024) | no |

    The labels of a language model are its own tokens; all methods but `mutual_information` work without further ones.

    Args:
        model: a model of transformers, or a folder, hub id or `RecoveryResult`.
        tokenizer: its fast tokenizer; None to take the one in the model's folder.
        texts: texts of any length, cleaned as `lwc.serve` cleans them; or a `datasets.Dataset` or `pandas.DataFrame`.
        labels: a class name or id for each text, a number for a regression, or the name of the table's label column.
        methods: names, or mappings with a method's settings such as ``{"method": "shap", "permutations": 16}``. By
            default `block_influence`, `fisher`, `taylor` and `ablation`, without labels `block_influence`.
        fusion: how the methods become one ranking: by mean rank, mean z-score, or robust rank aggregation.
        batch_size: texts scored at once; lower it if memory runs out.
        max_length: tokens that a text is cut at, or of a slice that a language model reads. By default the tokenizer's
            limit, at most 512.
        progress: called with one line a step; by default the logger ``lwc`` at level INFO.

    Returns:
        Scores in each method's own unit, higher = keep, and one ranking.

    Raises:
        LwcError: the model's blocks cannot be removed, a method needs labels that are not there, or no method tells the
            blocks apart; ``hint`` says what to do.
    """
    whole = model_of(model)
    kind, family = kind_of(whole), family_of(whole)
    reader = tokenizer_of(tokenizer, model, whole, max_length)
    given = read(texts, labels)
    targets = targets_of(given, whole, kind)
    known = targets is not None or kind == "causal_lm"
    settings = _settings(methods, fusion, batch_size, known)
    if not known:
        _need_no_labels(settings)
    if kind == "causal_lm" and any(one.method == "mutual_information" for one in settings.methods):
        raise RecipeError("mutual_information needs class labels, a language model has none", "leave the method out")
    rows = rows_of(given.texts, targets, reader, kind)
    with exact(whole) as measured:
        batches = beside(measured, rows.in_batches(settings.batch_size))
        content = score_blocks(measured, family, batches, settings, told(progress))
    return Importance(content, tuple(block for block in family.protected if block < content["blocks"]))


def _settings(
    methods: Sequence[str | Mapping[str, Any] | Method] | None, fusion: str, batch_size: int, known: bool
) -> Score:
    if isinstance(methods, str):
        raise RecipeError(f"methods is one name, {methods!r}", f"pass [{methods!r}]")
    if methods is None:
        asked = [one.model_dump() for one in Score().methods if known or not one.labels]
    else:
        asked = [_one(method) for method in methods]
    for name in (str(one.get("method")) for one in asked):
        if name not in METHODS.names():
            near = difflib.get_close_matches(name, METHODS.names(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(METHODS.names())}"
            raise RecipeError(f"no method {name!r}", hint)
    return checked(Score, {"methods": asked, "fusion": fusion, "batch_size": batch_size}, "score")


def _one(method: str | Mapping[str, Any] | Method) -> dict[str, Any]:
    if isinstance(method, str):
        return {"method": method}
    return method.model_dump() if isinstance(method, Method) else dict(method)


def _need_no_labels(settings: Score) -> None:
    needing = [method.method for method in settings.methods if method.labels]
    if needing:
        free = ", ".join(row.model_fields["method"].annotation.__args__[0] for row in METHODS if not row.labels)  # type: ignore[union-attr]
        raise DataError(f"{', '.join(needing)}: needs labels", f"pass labels, or use methods without them: {free}")
