"""Single steps, on a model without a recipe or on what a recipe's run has made: score, cut, export, package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from lwc.cli import terminal as render
from lwc.cli.options import AsJson, Overrides, Runs, load, print_json, run_line, show
from lwc.cli.view import RunView
from lwc.core.errors import RecipeError
from lwc.core.store import RECORD

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="checkpoint: folder, a Trainer's output folder, hub id, package:<module>")
]


@dataclass(frozen=True)
class TextFile:
    """Texts of a model without a recipe."""

    texts: Annotated[Path | None, typer.Option(metavar="FILE", help="texts: CSV, TSV, JSON, Parquet, or .txt")] = None
    text_column: Annotated[str | None, typer.Option(help="column of the texts, if it is not obvious")] = None


@dataclass(frozen=True)
class Reading:
    """How a model without a recipe reads texts."""

    tokenizer: Annotated[str | None, typer.Option(help="folder or hub id of the tokenizer; by default MODEL")] = None
    max_length: Annotated[
        int | None, typer.Option(min=1, help="tokens of a text; by default the tokenizer's limit, at most 512")
    ] = None


def _is_recipe(source: str) -> bool:
    return Path(source).suffix.lower() in (".yaml", ".yml")


def _is_run(source: str) -> bool:
    return (Path(source) / RECORD).is_file()


def score(
    source: Annotated[str, typer.Argument(metavar="RECIPE_OR_MODEL", help="recipe file, or a checkpoint with --texts")],
    file: TextFile,
    reading: Reading,
    labels: Annotated[str | None, typer.Option(metavar="COLUMN", help="column of the labels in --texts")] = None,
    methods: Annotated[str | None, typer.Option(help="methods of a checkpoint, such as ablation,taylor")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="PNG", help="also write the scores as a picture")] = None,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Rank the blocks of a checkpoint on your texts, or train (or reuse) the model of a recipe and rank its blocks."""
    if _is_recipe(source):
        given = {"--texts": file.texts, "--text-column": file.text_column, "--labels": labels, "--methods": methods,
                 "--tokenizer": reading.tokenizer, "--max-length": reading.max_length, "--plot": plot}  # fmt: skip
        unfit = [name for name, value in given.items() if value is not None]
        if unfit:
            raise RecipeError(f"{unfit[0]} with a recipe, which says that itself", "use --set to change the recipe")
        from lwc.core.store import read_json

        loaded = load(Path(source), overrides)
        if not loaded.score.methods:
            raise RecipeError(
                f"{loaded.name}: blocks are not scored: score.methods is empty",
                "add `score: {}` to the recipe, or --set score={}",
            )
        results = run_line(loaded, runs, "score")
        show(read_json(results["score"].path / "importance.json"), as_json, render.importance_table)
        return
    if overrides:
        raise RecipeError("--set changes a recipe, and this is a checkpoint", "leave it out, or give the recipe file")
    if file.texts is None:
        raise RecipeError(f"{source} is scored on texts, and there are none", "add --texts FILE, or give a recipe file")
    from lwc.api.files import read_texts
    from lwc.api.score import score as score_model

    texts, known = read_texts(file.texts, file.text_column, labels)
    named = None if methods is None else [one.strip() for one in methods.split(",") if one.strip()]
    with RunView() as view, view.stage("score", f"measures the blocks of {source} on {len(texts):,} texts") as say:
        found = score_model(
            source, reading.tokenizer, texts, known, methods=named, max_length=reading.max_length, progress=say
        )
    if plot is not None:
        found.plot(plot)
        render.places({"plot": str(plot)})
    show(found.content, as_json, render.importance_table)


def cut(
    model: Model,
    remove: Annotated[str, typer.Option(metavar="BLOCKS", help="numbers of the blocks, from 0, such as 2,5")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="new folder for the smaller model")],
    as_json: AsJson = False,
) -> None:
    """Remove blocks from a checkpoint. The result loads with from_pretrained, and usually needs recovery."""
    try:
        blocks = sorted({int(one) for one in remove.split(",")})
    except ValueError as error:
        raise RecipeError(f"--remove {remove}: not numbers of blocks", "separate them by commas: 2,5") from error
    from lwc.api.cut import cut_folder

    found = cut_folder(model, blocks, out)
    if as_json:
        print_json(found)
    before, after = (found["params"][side] for side in ("before", "after"))
    render.note(f"kept blocks {', '.join(map(str, found['kept']))}: {before:,} → {after:,} parameters")
    if not found["tokenizer"]:
        render.note(f"{model} has no tokenizer: save it in {out} yourself")
    render.places({"model": str(out)})


@dataclass(frozen=True)
class ExportOptions:
    """What is exported, and where it goes."""

    to: Annotated[
        Literal["onnx", "tensorrt", "tensorrt-rtx"],
        typer.Option(help="onnx: of a checkpoint or a run; tensorrt: of a run, on the GPU of the plan"),
    ]
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="a plan's is by default runs/NAME/TO")] = None
    int8: Annotated[bool, typer.Option("--int8", help="of a checkpoint: 8-bit integers, checked on --texts")] = False
    precision: Annotated[Literal["fp16", "fp32"] | None, typer.Option(help="of a plan; by default the recipe's")] = None
    built: Annotated[bool, typer.Option("--built", help="stamp the plan that the printed command built")] = False


def export(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="checkpoint, runs/NAME of a finished run, or a recipe that has run")
    ],
    options: ExportOptions,
    file: TextFile,
    reading: Reading,
    overrides: Overrides = None,
    runs: Runs = Path("runs"),
    models: Annotated[Path, typer.Option("--triton-models", help="folder for a plan's repository")] = Path(
        "triton_models"
    ),
    as_json: AsJson = False,
) -> None:
    """Export a checkpoint to ONNX, or a finished run's model to ONNX or TensorRT. Exit 4 without the GPU of a plan."""
    from_run = _is_recipe(source) or _is_run(source)
    if options.to == "onnx" and options.out is None:
        raise RecipeError("an ONNX export needs a folder", "add --out DIR")
    if options.to == "onnx" and (options.precision or options.built):
        raise RecipeError("--precision and --built are for TensorRT plans", "leave them out")
    if options.to != "onnx" and not from_run and not Path(source).is_dir():
        raise RecipeError(f"{source}: plans are built from a finished run", "give its folder or its recipe")
    if (from_run or options.to != "onnx") and (options.int8 or file.texts or reading.tokenizer or reading.max_length):
        raise RecipeError(
            "--int8, --texts, --tokenizer and --max-length are for checkpoints; a run has settings of its own",
            "set export.int8 and model.max_length in the recipe",
        )
    if options.to == "onnx" and not from_run:
        _export_checkpoint(source, options, file, reading, as_json)
        return
    from lwc.pipeline.export_plan import export_plan, find_run

    found = find_run(Path(source), runs, overrides or ())
    if options.to != "onnx":
        precision = options.precision or found.recipe.export.tensorrt.precision
        stamp = export_plan(found, options.to, precision, options.out, models, options.built, render.note)
        if as_json:
            print_json(stamp)
        return
    from lwc.api.export import FIGURES, export_run
    from lwc.core.store import read_json

    assert options.out is not None  # asked for above
    exported = export_run(found, options.out)
    if as_json:
        print_json(read_json(exported.folder / FIGURES))
    render.places({"ONNX model": str(exported.path)})


def _export_checkpoint(source: str, options: ExportOptions, file: TextFile, reading: Reading, as_json: bool) -> None:
    from lwc.api.export import FIGURES, export_onnx
    from lwc.api.files import read_texts
    from lwc.core.store import read_json

    assert options.out is not None  # asked for above
    texts = None if file.texts is None else read_texts(file.texts, file.text_column)[0]
    with RunView() as view, view.stage("export", f"writes {source} as ONNX, compares and times it") as say:
        found = export_onnx(
            source, reading.tokenizer, options.out, texts=texts, int8=options.int8, max_length=reading.max_length,
            progress=say,
        )  # fmt: skip
    if as_json:
        print_json(read_json(found.folder / FIGURES))
    for row in found.latency["shapes"]:
        times = ", ".join(f"{name[:-3]} {value:.1f} ms" for name, value in row.items() if name.endswith("_ms"))
        render.note(f"{row['batch']} × {row['length']} tokens: {times}")
    render.places({"ONNX model": str(found.path), "next": f"lwc package {found.folder} --name NAME"})


def package(
    folder: Annotated[Path, typer.Argument(metavar="ONNX_FOLDER", help="folder of `lwc export --to onnx`, or alike")],
    name: Annotated[str, typer.Option(help="name of the served model")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="by default triton_models/NAME")] = None,
    target: Annotated[Literal["cpu", "gpu"], typer.Option(help="where ONNX Runtime runs the graph")] = "cpu",
) -> None:
    """Write the Triton repository of an exported model."""
    from lwc.api.package import package as package_model

    made = package_model(folder, name, out, target=target)
    render.places({"repository": str(made), "next": f"lwc serve {made}"})
