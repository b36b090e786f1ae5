"""The model card of the compressed checkpoint: the ``README.md`` that the Hugging Face hub shows beside the weights.

It goes out with the model, so it names no file or folder of this machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwc import __version__
from lwc.core.marks import LEVEL
from lwc.core.store import read_json
from lwc.data.paths import local_dataset
from lwc.models.source import hub_id, is_language_model
from lwc.recipe import TASKS
from lwc.report.content_types import Report
from lwc.report.document import Paragraph, Section, Table
from lwc.report.formats import number, retention, with_interval
from lwc.report.latency import marked
from lwc.report.markdown import plain, render_section
from lwc.report.quality_contents import Quality, measured
from lwc.report.verdict import unreliable

if TYPE_CHECKING:  # a second to import
    from huggingface_hub import EvalResult, ModelCardData

TAGS = ("lwc", "depth-pruning", "knowledge-distillation")
_CLEANED = "Texts were cleaned before they were read: HTML entities decoded, tags and control characters removed."


def model_card(report: Report, model: Path) -> str:
    """The card of the checkpoint in folder ``model``: a metadata block, then Markdown."""
    from huggingface_hub import ModelCard

    architecture = str((read_json(model / "config.json").get("architectures") or ["AutoModel"])[0])
    metadata = _metadata(report)
    sections = [_removed(report, metadata.base_model), _quality(report), _gained(report), _served(report)]
    body = [
        f"# {plain(report['recipe']['name'])}",
        plain(report["recipe"]["description"]),
        *(render_section(section) for section in sections if section is not None),
        _loading(report, architecture),
        "## License\n\nThe licenses of the base model and of the training data apply to this model. Add a `license` to"
        " the metadata above before you publish it.",
        f"Made with lwc {__version__}, layerwise compression for deployment.",
    ]
    text = "\n\n".join(part for part in body if part)
    card: str = ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}\n").content
    return card


def _sources(value: object) -> Iterator[Mapping[str, Any]]:
    """Data sources anywhere in a section of a recipe."""
    if isinstance(value, Mapping):
        if "kind" in value:
            yield value
        for part in value.values():
            yield from _sources(part)


def _datasets(report: Report) -> list[str]:
    """Hub ids of the data that the model was trained on."""
    recipe = report["recipe"]["resolved"]
    found = (*_sources(recipe["data"]), *_sources(recipe["recover"]))
    named = [source["id"] for source in found if source["kind"] == "hub"]
    return list(dict.fromkeys(name for name in named if local_dataset(name) is None))


def _results(quality: Quality, task: str, data: str) -> list[EvalResult]:
    """Every metric of the checkpoint that was measured, with its interval."""
    from huggingface_hub import EvalResult

    headline, results = TASKS[task].headline, []
    for metric in (*headline.metrics, *headline.further):
        found = measured(quality, metric.key)
        if found["value"] is None:
            continue
        interval = {"level": LEVEL, "low": found["low"], "high": found["high"], "n": quality["n"]}
        one = EvalResult(TASKS[task].pipeline_tag or task, data, data, metric.key, found["value"], dataset_split="test")
        one.metric_name, one.metric_args = metric.name, {"interval": interval}
        results.append(one)
    return results


def _metadata(report: Report) -> ModelCardData:
    from huggingface_hub import ModelCardData

    recipe, task = report["recipe"]["resolved"], TASKS[report["task"]]
    datasets, quality = _datasets(report), report["quality"]
    kinds = [source["kind"] for source in _sources(recipe["data"])]
    data = datasets[0] if datasets else (kinds or ["unnamed"])[0]
    results = [] if quality is None else _results(quality["compressed"], report["task"], data)
    return ModelCardData(
        base_model=hub_id(recipe["model"].get("source", "./")),
        datasets=datasets or None,
        library_name="transformers",
        pipeline_tag=task.pipeline_tag,
        tags=[*TAGS],
        metrics=[result.metric_type for result in results] or None,
        model_name=report["recipe"]["name"] if results else None,
        eval_results=results or None,
    )


def _removed(report: Report, base: str | list[str] | None) -> Section:
    recover, uncut = report["training"]["recover"], f" of {base}" if base else ""
    said = [
        f"This is a smaller version{uncut}: whole transformer blocks were removed from the trained model."
        f" {report['verdict']['removed']}"
    ]
    if recover and "steps" in recover:
        said.append(
            f"The smaller model was then trained for {number(recover['steps'])} steps to give the answers of the uncut"
            " one (recovery distillation)."
        )
    said.append(report["verdict"]["decision"])
    return Section("What was removed and recovered", [Paragraph(one) for one in said])


def _quality(report: Report) -> Section | None:
    quality, served, headline = report["quality"], report["served"], TASKS[report["task"]].headline
    if quality is None:
        return None
    kept = report["retention"] or {}
    rows: list[tuple[str, Quality, Mapping[str, Any]]] = [
        ("uncut model", quality["base"], {}),
        ("cut, not recovered", quality["unrecovered"], report["retention_unrecovered"] or {}),
        ("this model", quality["compressed"], kept),
    ]
    if served and served["precision"] != "fp32" and served["quality"]:
        rows.append((f"as served, {served['precision']}", served["quality"], served["retention"] or {}))
    header = ("model", *(one.name for one in headline.metrics), *(f"{one.name} kept" for one in headline.metrics))
    body = tuple(
        (
            name,
            *(with_interval(measured(found, one.key)) for one in headline.metrics),
            *(retention(share.get(one.key)) if share else "" for one in headline.metrics),
        )
        for name, found, share in rows
    )
    caption = f"Test split, n = {quality['base']['n']:,} {headline.counted}, 95% bootstrap intervals."
    return Section("Quality", [Table(header, body, caption, strong=(2,))])


def _gained(report: Report) -> Section | None:
    served = report["served"]
    if served is None:
        return None
    names = {
        "blocks": "fewer blocks", "params": "fewer parameters", "size": "smaller file",
        "latency": "lower latency, both in ONNX Runtime", "latency_eager": "lower latency than PyTorch eager",
    }  # fmt: skip
    rows = tuple(
        (text, marked(served["ratios"][key], key.startswith("latency") and unreliable(report)))
        for key, text in names.items()
        if key in served["ratios"]
    )
    caption = f"The uncut model in fp32 against what is served: {served['precision']} ONNX on CPU."
    return Section("Size and speed", [Table(("against the uncut model", ""), rows, caption)])


def _served(report: Report) -> Section | None:
    measured_here = {protocol: one for protocol, one in (report["serving"] or {}).items() if one is not None}
    if not measured_here:
        return None
    rows = tuple(
        (
            protocol,
            number(one.get("throughput_rps"), 0),
            *(number(one["latency_ms"][q], 1) for q in ("p50", "p95", "p99")),
            number(one.get("errors")),
        )
        for protocol, one in measured_here.items()
    )
    machine = report["environment"]
    where = " · ".join(part for part in (machine.get("cpu"), f"{machine.get('cores', '?')} cores") if part)
    caption = f"Triton Inference Server, with its clients on the same machine ({where})."
    header = ("protocol", "requests/s", "p50 in ms", "p95 in ms", "p99 in ms", "errors")
    return Section("Served", [Table(header, rows, caption)])


def _loading(report: Report, architecture: str) -> str:
    """How to load the checkpoint and ask it what was measured."""
    task, length = TASKS[report["task"]], report["recipe"]["resolved"]["model"].get("max_length")
    auto = {"text-classification": "AutoModelForSequenceClassification", "text-generation": "AutoModelForCausalLM"}
    kind = auto.get(task.pipeline_tag or "", architecture)
    folder = '"."  # this folder, or its id on the hub'
    if task.pipeline_tag is None:
        code = f"from transformers import {kind}\n\nmodel = {kind}.from_pretrained({folder.replace('  #', ')  #')}"
        return f"## How to load it\n\n```python\n{code}\n```" + (f"\n\n{plain(task.inputs)}" if task.inputs else "")
    code = "\n".join([
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f"folder = {folder}",
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        f"model = {kind}.from_pretrained(folder)",
        f'inputs = tokenizer(["Works well."], truncation=True, max_length={length}, return_tensors="pt")',
        "print(model(**inputs).logits)",
    ])  # fmt: skip
    fields = " and ".join(report["data"]["text_fields"])
    asked = f"The model reads the {fields} of a review, cut to {length} tokens. {_CLEANED}"
    if is_language_model([architecture]):
        asked = f"The model was measured on slices of {length} tokens. {_CLEANED}"
    return f"## How to load it\n\n```python\n{code}\n```\n\n{plain(asked)}"
