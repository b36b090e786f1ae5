"""`lwc.export_onnx`: a model as an ONNX graph with its tokenizer, checked and timed."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwc.api.folders import new_folder
from lwc.api.models import (
    Kind,
    ModelLike,
    RecoveryResult,
    TokenizerLike,
    exact,
    kind_of,
    model_of,
    tokenizer_of,
)
from lwc.api.settings import checked, told
from lwc.api.texts import Texts, read
from lwc.core.errors import DataError, ModelError, RecipeError
from lwc.core.machine import cpu_limit
from lwc.core.progress import Say
from lwc.core.store import read_json, write_json
from lwc.export import run as stage_files
from lwc.export.int8 import Candidate, quantized, too_slow
from lwc.export.latency import in_onnxruntime, in_pytorch, in_turns
from lwc.export.onnx import export_graph
from lwc.export.onnx_files import copy_graph, remove_graph, size_of
from lwc.export.parity import check_parity
from lwc.export.session import logits
from lwc.models.batches import batches, encode
from lwc.models.forward.undisturbed import undisturbed
from lwc.models.positions import check_shapes
from lwc.models.types import Tokenizer
from lwc.recipe import Int8, Shape
from lwc.tasks.text import PARITY_TEXTS, spread, text_graph

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from lwc.pipeline.export_plan import FinishedRun

GRAPH, INT8, FIGURES = "model.onnx", "model.int8.onnx", "export.json"
_SHAPES = ((1, 64), (8, 64))


@dataclass(frozen=True)
class Exported:
    """An exported model: a folder with ONNX graphs, ``config.json`` and the tokenizer.

    Attributes:
        folder: where the files are; `lwc.package` takes it too.
        path: the graph to serve: int8 where that was asked for and holds its promise, otherwise fp32.
        precision: ``fp32`` or ``int8``, of that graph.
        why: why it is not int8 although that was asked for; empty otherwise.
        parity: PyTorch against the fp32 graph: ``max_abs_diff`` of the logits, ``label_agreement`` (share of equal
            answers on ``texts`` texts; 0 texts: on random token ids).
        latency: ``shapes`` has a row for each batch × length in tokens, with the median in ms of PyTorch
            (``pytorch_ms``) and ONNX Runtime (``fp32_ms``, ``int8_ms``) on this machine's CPU.
        int8: what became of int8: ``agreement`` with fp32 on the texts, modules kept in fp32 (``fallback``); None
            unless int8 was asked for.
        size: bytes of each graph by precision.
    """

    folder: Path
    path: Path
    precision: str
    why: str
    parity: dict[str, Any]
    latency: dict[str, Any]
    int8: dict[str, Any] | None
    size: dict[str, int]
    task: str
    fields: tuple[str, ...] = ()

    @classmethod
    def read(cls, folder: str | PathLike[str]) -> Exported:
        """The result of an earlier `lwc.export_onnx`.

        Raises:
            LwcError: the folder is not one.
        """
        place = Path(folder)
        found = read_json(place / FIGURES)
        try:
            return cls(place, place / found.pop("graph"), **{**found, "fields": tuple(found["fields"])})
        except (AttributeError, LookupError, TypeError) as error:
            raise ModelError(f"{place / FIGURES}: not written by lwc export", "export the model again") from error


def export_onnx(
    model: ModelLike,
    tokenizer: TokenizerLike | None,
    folder: str | PathLike[str],
    *,
    texts: Texts | None = None,
    int8: bool | Mapping[str, Any] = False,
    max_length: int | None = None,
    tolerance: float = 1e-4,
    shapes: Sequence[tuple[int, int]] = _SHAPES,
    repeats: int = 20,
    progress: Say | None = None,
) -> Exported:
    """Export a model to ONNX with dynamic batch and length, compare it with PyTorch and time both on the CPU.

    The folder gets ``model.onnx`` (fp32), ``config.json`` and the tokenizer, as Optimum writes them, and with ``int8``
    also ``model.int8.onnx``. It is written whole or not at all. The model that is passed does not change.

    Args:
        model: a model of transformers, or a folder, hub id or `RecoveryResult`.
        tokenizer: its fast tokenizer; None to take the one in the model's folder, or that of the `RecoveryResult`.
        folder: where to write; an earlier export there is replaced.
        texts: texts to compare answers on, as for `lwc.score`. By default those that `lwc.recover` held out.
        int8: also write a graph with 8-bit weights and activations, for classifiers; needs texts. True, or settings of
            the recipe's section ``export.int8`` such as ``{"mode": "static"}``. The fp32 graph is served if int8 cannot
            keep ``min_agreement`` of the answers (0.985), or is slower on this machine.
        max_length: tokens that served texts are cut at. By default the tokenizer's limit, at most 512.
        tolerance: largest difference of a logit between PyTorch and the fp32 graph.
        shapes: (batch, length in tokens) pairs to time.
        repeats: timed calls of each.
        progress: called with one line a step; by default the logger ``lwc`` at level INFO.

    Raises:
        LwcError: the model cannot be exported, the graph does not give its logits, or the folder is in use; ``hint``
            says what to do.
    """
    say = told(progress)
    whole = model_of(model)
    kind = kind_of(whole)
    reader = tokenizer_of(tokenizer, model, whole, max_length)
    length = reader.model_max_length
    settings = _int8(int8, kind)
    known = read(texts).texts if texts is not None else model.held_out if isinstance(model, RecoveryResult) else []
    if settings is not None and not known:
        raise DataError("int8 is checked on texts, and there are none", "pass texts=[…], some hundred of them")
    timed = [Shape(batch=batch, length=min(tokens, length)) for batch, tokens in dict.fromkeys(shapes)]
    if not timed or repeats < 3:
        raise RecipeError("nothing to time", "give at least one shape and 3 repeats")
    with new_folder(Path(folder), FIGURES) as made, exact(whole, "cpu") as exported, undisturbed(exported):
        check_shapes(exported, timed)
        say("exporting")
        graph = text_graph(exported, reader, [known[row] for row in spread(len(known), PARITY_TEXTS)], length)
        export_graph(graph, made / GRAPH)
        say("parity")
        parity = check_parity(graph, made / GRAPH, tolerance)
        if not parity["passed"]:
            raise ModelError(
                f"the exported graph's logits differ from PyTorch's by up to {parity['max_abs_diff']:.3g}"
                f" ({tolerance:g} is allowed), {parity['label_agreement']:.2%} of the answers agree",
                "raise tolerance if you can accept that",
            )
        candidate = None
        if settings is not None:
            say(f"int8, {settings.mode}")
            chosen = spread(len(known), settings.calibration)
            candidate = _quantized(made, settings, [known[row] for row in chosen], reader)
        say("latency")
        threads = cpu_limit()
        files = {"compressed": made / GRAPH}
        if candidate is not None and not candidate.refused:
            files["int8"] = candidate.path
        with in_pytorch(graph, exported, threads) as call:
            calls = {"pytorch": call, **{name: in_onnxruntime(file, threads) for name, file in files.items()}}
            times = in_turns(calls, list(graph.sample), timed, repeats)
        why = ""
        if candidate is not None:
            why = candidate.refused or too_slow(times)
            if why:
                remove_graph(candidate.path)
        served = INT8 if candidate is not None and not why else GRAPH
        names = {"pytorch": "pytorch", "fp32": "compressed", **({"int8": "int8"} if "int8" in files else {})}
        latency = {"shapes": times.rows(**names), "threads": threads, "repeats": repeats, "waited": times.waited}
        _save_config(whole, kind, made)
        reader.save_pretrained(made)
        figures: dict[str, Any] = {
            "graph": served,
            "precision": "int8" if served == INT8 else "fp32",
            "why": why,
            "parity": parity,
            "latency": latency,
            "int8": candidate.figures if candidate is not None else None,
            "size": {"fp32": size_of(made / GRAPH), **({"int8": size_of(made / INT8)} if served == INT8 else {})},
            "task": kind,
            "fields": [],
        }
        write_json(made / FIGURES, figures)
        say(f"{figures['precision']} is served{': ' if why else ''}{why}")
    return Exported.read(folder)


def _int8(asked: bool | Mapping[str, Any], kind: Kind) -> Int8 | None:
    if asked is False:
        return None
    if kind != "classification":
        raise RecipeError(f"int8 is judged by labels, and this model does {kind}", "leave int8 out")
    return checked(Int8, {} if asked is True else asked, "int8")


def _quantized(folder: Path, settings: Int8, texts: Sequence[str], tokenizer: Tokenizer) -> Candidate:
    encoded = encode(tokenizer, texts, tokenizer.model_max_length)
    groups = batches(encoded, None, 16, length_bucketed=True, seed=None)
    inputs = [{name: value.numpy() for name, value in one.inputs.items()} for one in groups]
    whole = folder / GRAPH
    return quantized(whole, folder / INT8, settings, inputs, logits(whole, inputs))


def _save_config(model: PreTrainedModel, kind: Kind, folder: Path) -> None:
    """The config as a saved model has it, which says what the model is; weights are in the graph."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    if kind == "regression":
        config.problem_type = "regression"
    config.save_pretrained(folder)


def export_run(run: FinishedRun, folder: str | PathLike[str]) -> Exported:
    """The graphs of a finished run as `export_onnx` leaves them, with the figures that the run measured.

    Raises:
        LwcError: the folder is in use.
    """
    stage, recipe = run.stages["export"], run.recipe
    measured = read_json(stage / "export.json")
    served = measured["served"]
    with new_folder(Path(folder), FIGURES) as made:
        copy_graph(stage / stage_files.WHOLE, made / GRAPH)
        size = {"fp32": size_of(made / GRAPH)}
        if served["precision"] == "int8":
            copy_graph(stage / stage_files.INT8, made / INT8)
            size["int8"] = size_of(made / INT8)
        for file in run.checkpoint.iterdir():
            if file.is_file() and ".safetensors" not in file.suffixes:  # weights, and the index of several files
                shutil.copyfile(file, made / file.name)
        figures = {
            "graph": INT8 if served["precision"] == "int8" else GRAPH,
            "precision": served["precision"],
            "why": served["why"],
            "parity": measured["parity"]["compressed"],
            "latency": served["latency"],
            "int8": measured.get("int8"),
            "size": size,
            "task": recipe.task.name,
            "fields": list(recipe.data.text_fields),
        }
        write_json(made / FIGURES, figures)
    return Exported.read(folder)
