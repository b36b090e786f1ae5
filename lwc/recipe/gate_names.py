"""What the report of a recipe will hold: known before anything runs, so that a gate's typo costs no training."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

from lwc.recipe import Gate, Recipe

_MODELS = ("base", "unrecovered", "compressed")
_LATENCY = ("p50", "p95", "p99", "mean", "max")
_NO_RETENTION = ("ece", "coverage")
_SERVED = {
    "next_item": ("ndcg_at_10", "offline_ndcg_at_10", "ndcg_difference", "skipped_items"),
    "other": ("accuracy", "offline_accuracy", "accuracy_difference", "macro_f1", "confusion.*.*"),
}
_SERVED_ALWAYS = ("matches_offline", "n", "texts", "covered_all", "answers", "inconsistent_texts")


def _under(prefix: str, names: Iterable[str]) -> Iterator[str]:
    return (f"{prefix}.{name}" for name in names)


def _with_interval(names: Iterable[str]) -> list[str]:
    return [f"{name}{end}" for name in names for end in ("", ".value", ".low", ".high")]


def _quality(recipe: Recipe) -> Iterator[str]:
    kind = recipe.task.kind
    reading = recipe.task.headline
    keys = [metric.key for metric in (*reading.metrics, *reading.further)]
    extra = {"classification": ["confusion.*.*"], "causal_lm": ["tokens"]}.get(kind, [])
    for model in (*_MODELS, *_under("floors", (floor for floor, _ in reading.floors))):
        yield from _under(f"quality.{model}", ["n", *_with_interval(keys), *extra])
    for retention in ("retention", "retention_unrecovered"):
        yield from _under(retention, _with_interval(key for key in keys if key not in _NO_RETENTION))
    if kind == "causal_lm":
        yield from _under("agreement", _MODELS[1:])


def _export(recipe: Recipe) -> Iterator[str]:
    checked = ("max_abs_diff", "label_agreement", "tolerance", "passed")
    yield from _under("parity", checked)
    cases = _under("cases.*", ("batch", "length", "max_abs_diff"))
    each = (*checked, "texts", "repeatable", *cases)
    for model in ("base", "compressed"):
        yield from _under(f"parity.{model}", each)
    yield from _under("latency", ("ratio", "repeats", "threads"))
    timed = ("batch", "length", "base_ms", "compressed_ms", "ratio", "spread.base", "spread.compressed")
    for index in range(len(recipe.export.latency_shapes)):
        yield from _under(f"latency.shapes.{index}", timed)
    yield from _under("export", ("files.**", "parity.**", "latency.**", "ratios.size", "ratios.latency"))
    if recipe.task.kind == "next_item":
        yield "export.top_k"
    for reduced, asked in (("int8", recipe.export.int8 is not None), ("fp16", recipe.export.fp16)):
        if asked:
            yield f"export.{reduced}.**"


def _serving(recipe: Recipe) -> Iterator[str]:
    kind, verify = recipe.task.kind, recipe.verify
    names = ["users", "requests", "errors", "error_rate", "throughput_rps", *_under("latency_ms", _LATENCY)]
    names += _under("served", (*_SERVED.get(kind, _SERVED["other"]), *_SERVED_ALWAYS))
    names += ["window_s", "warmup.requests", "warmup.errors", "generator_cpu", "server.**"]
    names += _under("wait_ms", _LATENCY)
    if verify.rate is not None:
        names += ["target_rps", "offered_rps", "achieved_ratio"]
    for protocol in verify.protocols:
        yield from _under(f"serving.{protocol}", names)
    if verify.find_rate is not None:
        yield f"serving.{verify.protocols[0]}.limit.**"


def metrics(recipe: Recipe) -> list[str]:
    """Dotted paths into ``report.json`` of the figures that a run of the recipe measures.

    ``*`` stands for one part that only the run knows (a position in a list), a last ``**`` for all that lies below:
    sections whose content is the data's, the scorers' or the selection's own. A wrong name there is found at the end.
    """
    open_ = ["importance.**", "selection.**", "training.train.**", "training.recover.**", "data.**", "environment.**"]
    return [
        *_under("ratios", ("blocks", "params", "size", "latency")),
        *_quality(recipe),
        *_export(recipe),
        *_serving(recipe),
        *_under("target", ("ratio", "reached", "met")),
        *_under("bootstrap", ("resamples", "level", "seed")),
        *_under("stages.*", ("seconds", "hit")),
        *open_,
    ]


def _matches(pattern: str, name: str) -> bool:
    parts = ("[^.]+" if part == "*" else ".+" if part == "**" else re.escape(part) for part in pattern.split("."))
    return re.fullmatch(r"\.".join(parts), name) is not None


def unmeasured(gate: Gate, recipe: Recipe) -> list[tuple[str, str]]:
    """The keys of a gate (``metric``, ``relative_to``) that name what no stage of the recipe measures, and why."""
    known = metrics(recipe)
    found = []
    for key, name in (("metric", gate.metric), ("relative_to", gate.relative_to)):
        if name is not None and not any(_matches(pattern, name) for pattern in known):
            found.append((key, f"no stage of this recipe measures {name!r}{_advice(name, known)}"))
    return found


def _advice(name: str, known: list[str]) -> str:
    plain = [pattern for pattern in known if "*" not in pattern]
    # A short name for a long one (`p95`, `accuracy`) is no near match by its letters.
    last = [one for one in plain if one.rpartition(".")[2] == name.rpartition(".")[2]]
    near = difflib.get_close_matches(name, last, 2, 0.0) or difflib.get_close_matches(name, plain, 1, 0.5)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; its sections are {', '.join(dict.fromkeys(one.partition('.')[0] for one in known))}"
