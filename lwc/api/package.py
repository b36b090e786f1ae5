"""`lwc.package`: an exported model as a Triton repository."""

from __future__ import annotations

import tempfile
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from lwc.api.export import FIGURES, Exported
from lwc.api.settings import checked
from lwc.core.errors import ModelError, RecipeError
from lwc.core.store import publish_folder, read_json
from lwc.models.source import is_language_model
from lwc.pipeline.destination import check_destination
from lwc.pipeline.preflight import require_serving
from lwc.recipe import TASKS, Package
from lwc.recipe.base import Name


def package(
    exported: Exported | str | PathLike[str],
    name: str,
    folder: str | PathLike[str] | None = None,
    *,
    target: Literal["cpu", "gpu"] = "cpu",
    max_batch_size: int = 32,
    queue_delay_microseconds: int = 0,
    instances: int = 0,
    intra_op_threads: int = 0,
    response_cache: bool = False,
) -> Path:
    """Write a Triton model repository that takes texts and answers with labels.

    It contains the model ``name``, which clients call and which cleans and tokenizes texts as training did, and
    ``NAME_tokens``, which runs the graph in ONNX Runtime. Its README has requests to copy. The official Triton image
    serves it, and so does `lwc.serve`.

    Args:
        exported: the result of `lwc.export_onnx`, its folder, or any folder with one ONNX graph of token ids, the
            model's ``config.json`` and its tokenizer.
        name: name of the served model: letters, digits, dots, hyphens and underscores.
        folder: where to write; by default ``triton_models/NAME``. Triton models that are there are replaced.
        target: run the graph on the CPU, or on a GPU with CUDA (always the fp32 graph).
        max_batch_size: most texts that are answered together.
        queue_delay_microseconds: longest time a request waits to be batched with others.
        instances: copies of the model that answer at once; 0: one for each core of a CPU, up to 8, or one on a GPU.
        intra_op_threads: threads of each; 0: the cores divided among them.
        response_cache: answer repeated requests from memory.

    Returns:
        The repository's folder.

    Raises:
        LwcError: the graph and the tokenizer do not belong together, the checkpoint lacks what serving needs, or
            ``folder`` has other files; ``hint`` says what to do.
    """
    require_serving(server=False)
    from lwc.serving.triton.repository import ModelFiles, build_repository

    try:
        TypeAdapter[str](Name).validate_python(name)
    except ValidationError as error:
        rule = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"name is {name!r}; it {rule}", "choose another one") from error
    place = Path(folder) if folder is not None else Path("triton_models") / name
    check_destination(place, "name another folder")
    source = exported if isinstance(exported, Exported) else None
    if source is None and (Path(exported) / FIGURES).is_file():  # type: ignore[arg-type]
        source = Exported.read(exported)  # type: ignore[arg-type]
    settings = checked(
        Package,
        {
            "max_batch_size": max_batch_size,
            "queue_delay_microseconds": queue_delay_microseconds,
            "instances": instances,
            "intra_op_threads": intra_op_threads,
            "response_cache": response_cache,
        },
        "package",
    )
    if source is None:
        checkpoint = Path(exported)  # type: ignore[arg-type]
        graph, task, notes = _only_graph(checkpoint), _task(checkpoint), dict[str, str]()
    else:
        checkpoint, task = source.folder, source.task
        graph, precision = (source.path, source.precision) if target == "cpu" else (checkpoint / "model.onnx", "fp32")
        notes = {"precision": precision, **({"precision_reason": source.why} if source.why and target == "cpu" else {})}
    files = ModelFiles(graph, checkpoint, None, notes, () if source is None else source.fields)
    with tempfile.TemporaryDirectory(prefix="lwc-package-") as temporary:
        made = Path(temporary) / name
        build_repository(TASKS[task].load().endpoint, files, made, settings, name, target)
        publish_folder(made, place)
    return place


def _only_graph(folder: Path) -> Path:
    graphs = sorted(folder.glob("*.onnx"))
    if len(graphs) != 1:
        found = ", ".join(graph.name for graph in graphs) or "none"
        raise ModelError(
            f"{folder}: one ONNX graph is needed, found {found}", "give the folder of `lwc export MODEL --to onnx`"
        )
    return graphs[0]


def _task(folder: Path) -> str:
    """What a checkpoint that lwc did not write does, by its config."""
    config: dict[str, Any] = read_json(folder / "config.json")
    if is_language_model(config.get("architectures")):
        return "causal_lm"
    return "regression" if config.get("problem_type") == "regression" else "classification"
