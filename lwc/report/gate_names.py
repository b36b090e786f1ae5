"""Every metric that the report of a recipe will contain, so that a wrong gate fails before training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints

from typing_extensions import is_typeddict

from lwc.core.marks import Fact, Interval, Keyed, Most, Names, Sometimes, When
from lwc.recipe import FromConfig, Gate, Recipe
from lwc.report.content_types import Findings
from lwc.report.nearest_metric import nearest

# What was asked, not measured.
_ASKED = ("schema_version", "recipe", "task")
# Keys that are the task's metrics, or begin with one.
_OF_METRICS: tuple[Names, ...] = ("metrics", "figures in training", "int8 figures")
_ANY_NAME, _ANY_POSITION = "*", "#"
_PATTERNS = {_ANY_NAME: "[^.]+", _ANY_POSITION: "[0-9]+"}
_LIST = "`lwc validate RECIPE --metrics` lists them all"


@dataclass(frozen=True)
class _Known:
    """What the recipe says of the report: which facts are true, and the keys that it fixes (None: only the run knows).

    Facts after a key are true below it only.
    """

    facts: frozenset[str]
    keys: Mapping[Names, Mapping[str, frozenset[str]] | None]
    most: Mapping[str, float | None]


def _known(recipe: Recipe) -> _Known:
    headline, export, verify, trust = recipe.task.headline, recipe.export, recipe.verify, recipe.score.trust
    texts = headline.asked != "histories"
    asked: dict[Fact, bool] = {
        "int8": export.int8 is not None,
        "fp16": export.fp16,
        "openvino": export.openvino,
        "trust": trust is not None,
        "recovered cut models": trust is not None and trust.recovery_steps > 0,
        "learned fusion": recipe.score.fusion == "learned",
        "trimmed vocabulary": recipe.vocabulary.trim,
        "rate": verify.rate is not None,
        "against_base": verify.find_rate is not None and verify.find_rate.against_base,
        "latency target": recipe.target.of == "latency",
        "ingest": texts and recipe.data.ingest is not None,
        "no ingest": texts and recipe.data.ingest is None,
        "own splits": texts and (len(recipe.data.sources) > 1 or recipe.data.columns.split is not None),
    }
    facts = {recipe.select.strategy, headline.asked, *headline.counts, *headline.served}
    facts |= {fact for fact, true in asked.items() if true}
    shown = (*headline.metrics, *headline.further)
    metrics = [metric.key for metric in shown]
    names = recipe.data.labels.known()
    # A head may spell them otherwise.
    named_by_head = recipe.data.labels.names is None and getattr(recipe.model, "head", "new") == "own"
    classes = _numbers(len(names) if names and "confusion" in facts else None)
    most = {metric.key: metric.most for metric in shown}
    figures = [f"{key}_{precision}" for key in metrics[:2] for precision in ("fp32", "int8")]
    most |= {figure: most[figure.rpartition("_")[0]] for figure in figures}
    first, *others = verify.protocols
    served = [recipe.name, *([f"{recipe.name}_base"] if "against_base" in facts else [])]
    keys: dict[Names, Mapping[str, frozenset[str]] | None] = {
        "metrics": _plain(metrics),
        "retained": _plain(metric.key for metric in shown if metric.retained),
        "floors": _plain(key for key, _ in headline.floors),
        "figures in training": _plain([*metrics, "score", "step", "train_loss"]),
        "int8 figures": _plain(["agreement", *figures]),
        "methods": _plain(method.method for method in recipe.score.methods),
        "protocols": {first: frozenset({"find_rate"} if verify.find_rate else ()), **_plain(others)},
        "shapes": _numbers(len(export.latency_shapes)),
        "blocks": _numbers(recipe.model.blocks if isinstance(recipe.model, FromConfig) else None),
        "classes": classes,
        "served classes": classes,
        "labels": None if names is None or named_by_head else _plain(names),
        "pairs of methods": _numbers(len(recipe.score.methods)),
        "word percentiles": _plain(["p5", "p25", "p50", "p75", "p95", "p99"]),
        "sample of words": _plain(["words", "ratio"]),
        "models": _plain(f"{name}{end}" for name in served for end in ("", "_tokens")),
        "splits": _plain(["train", "validation", "test", *(["calibration"] if texts else [])]),
    }
    return _Known(frozenset(facts), keys, most)


def _plain(names: Iterable[str]) -> dict[str, frozenset[str]]:
    return dict.fromkeys(names, frozenset())


def _numbers(count: int | None) -> dict[str, frozenset[str]] | None:
    return None if count is None else _plain(map(str, range(count)))


@dataclass(frozen=True)
class _Marked:
    """A type without its marks, and what they say of it."""

    type: Any
    there: bool
    certain: bool
    keyed: Keyed | None
    most: float | None


def _marked(annotation: Any, facts: frozenset[str]) -> _Marked:
    """Unwrap ``Annotated``, ``NotRequired`` and ``… | None``."""
    there, certain, keyed, most = True, True, None, None
    while True:
        origin, inside = get_origin(annotation), get_args(annotation)
        if origin is NotRequired:
            (annotation,) = inside
        elif origin is Annotated:
            annotation, *marks = inside
            for mark in marks:
                if isinstance(mark, When):
                    there = there and not facts.isdisjoint(mark.facts)
                elif isinstance(mark, Sometimes):
                    certain = False
                elif isinstance(mark, Keyed):
                    keyed = mark
                elif isinstance(mark, Most):
                    most = mark.value
        elif origin in (Union, UnionType) and NoneType in inside and len(inside) == 2:
            (annotation,) = (one for one in inside if one is not NoneType)
        else:
            return _Marked(annotation, there, certain, keyed, most)


@dataclass(frozen=True)
class Figure:
    """Whether every run of the recipe measures it, its highest value if any, and whether it has an interval."""

    certain: bool = True
    most: float | None = None
    interval: bool = False


def _walk(annotation: Any, path: str, known: _Known, above: Figure = Figure()) -> Iterator[tuple[str, Figure]]:
    """Dotted paths of the numbers below ``path``."""
    found = _marked(annotation, known.facts)
    if not found.there:
        return
    figure = Figure(above.certain and found.certain, above.most if found.most is None else found.most)
    origin, inside = get_origin(found.type), get_args(found.type)
    keys = known.keys[found.keyed.names] if found.keyed is not None else None
    if found.type in (int, float, bool) or found.type is Interval:
        yield path, replace(figure, interval=found.type is Interval)
    if is_typeddict(found.type):
        for name, hint in get_type_hints(found.type, include_extras=True).items():
            if path or name not in _ASKED:
                yield from _walk(hint, f"{path}.{name}" if path else name, known, figure)
        if found.keyed is None:
            return
        inside = (found.keyed.values,)
    elif origin is list:
        keys = {_ANY_POSITION: frozenset()} if keys is None else keys
    elif origin is dict:
        if get_origin(inside[0]) is Literal:
            keys = _plain(get_args(inside[0]))
        keys = {_ANY_NAME: frozenset()} if keys is None else keys
    for name, facts in (keys or {}).items():
        named = known.most.get(name) if found.keyed is not None and found.keyed.names in _OF_METRICS else None
        below = figure if named is None else replace(figure, most=named)
        yield from _walk(inside[-1], f"{path}.{name}", replace(known, facts=known.facts | facts), below)


def metrics(recipe: Recipe) -> dict[str, bool]:
    """The names of `figures`; True for those that every run measures."""
    return {name: figure.certain for name, figure in figures(recipe).items()}


def figures(recipe: Recipe) -> dict[str, Figure]:
    """The figures of a run of the recipe by their dotted paths into ``report.json``.

    ``*`` stands for a name, ``#`` for a position, that only the run knows.
    """
    return dict(_walk(Findings, "", _known(recipe)))


def _matches(pattern: str, name: str) -> bool:
    parts = (_PATTERNS.get(part, re.escape(part)) for part in pattern.split("."))
    return re.fullmatch(r"\.".join(parts), name) is not None


def _among(patterns: Iterable[str], name: str) -> bool:
    return any(_matches(pattern, name) for pattern in patterns)


def unmeasured(recipe: Recipe) -> list[tuple[tuple[str | int, ...], str]]:
    """Where in a recipe a gate names what no stage measures, and the nearest name."""
    if not recipe.gates:
        return []
    known = figures(recipe)
    return [
        (("gates", number, key), f"no stage of this recipe measures {name!r}{_advice(name, known)}")
        for number, gate in enumerate(recipe.gates)
        for key, name in (("metric", gate.metric), ("relative_to", gate.relative_to))
        if name is not None and not _among(known, name)
    ]


def unreachable(recipe: Recipe) -> list[tuple[tuple[str | int, ...], str]]:
    """Where in a recipe a gate compares a share with a number that is none: it passes always or never."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    known = figures(recipe) if recipe.gates else {}
    for number, gate in enumerate(recipe.gates):
        most = max((figure.most or inf for name, figure in known.items() if _matches(name, gate.metric)), default=inf)
        if gate.relative_to is None and gate.value > most:
            meant = f"; did you mean {gate.value / 100:g}?" if gate.value <= 100 else ""
            found.append(
                (("gates", number, "value"), f"{gate.value:g} is no value of {gate.metric}, where 1 means all{meant}")
            )
    return found


def unjudgeable(recipe: Recipe) -> list[tuple[tuple[str | int, ...], str]]:
    """Where in a recipe a gate names the end of an interval that does not exist, or that says nothing of its limit."""
    found: list[tuple[tuple[str | int, ...], str]] = []
    ends = [(number, gate) for number, gate in enumerate(recipe.gates) if gate.at != "value"]
    known = figures(recipe) if ends else {}
    intervals = [name for name, figure in known.items() if figure.interval]
    for number, gate in ends:
        whole = gate.metric.rpartition(".")[0]
        if _among(intervals, gate.metric):
            if gate.relative_to is not None and _among(intervals, gate.relative_to):
                found.append((("gates", number, "relative_to"), _unpaired(gate, intervals)))
        elif _among(intervals, whole):
            meant = f"{gate.metric} is one number of an interval; with at: {gate.at}, the metric is {whole}"
            found.append((("gates", number, "at"), meant))
        elif _among(known, gate.metric):
            near = " or ".join(nearest(gate.metric, intervals))
            meant = f"{near} has one" if near else f"metrics of {', '.join(_sections(intervals))} have one"
            found.append((("gates", number, "at"), f"{gate.metric} has no interval, only a value; {meant}; {_LIST}"))
    return found


def _unpaired(gate: Gate, intervals: list[str]) -> str:
    """Why an end of one interval is not compared with another metric that has one, and what to do instead."""
    key = gate.metric.rpartition(".")[2]
    paired = f"retention.{key}"
    instead = (
        f"judge {paired}, which compares the two row by row"
        if paired in intervals
        and {gate.metric, gate.relative_to} == {f"quality.{m}.{key}" for m in ("compressed", "base")}
        else "leave out at, or give value as a number without relative_to"
    )
    return f"at: {gate.at} relative to {gate.relative_to}, which has an interval of its own on the same rows; {instead}"


def listed(recipe: Recipe) -> list[str]:
    """The names that a gate of the recipe may use, one a line; those with an interval are marked."""
    known = figures(recipe)
    ends = _ends(known)
    names = [name for name in known if name not in ends]
    width = max(len(name) for name in names if known[name].interval)
    return [f"{name:<{width}}  interval" if known[name].interval else name for name in names]


def _sections(names: Iterable[str]) -> dict[str, None]:
    return dict.fromkeys(one.partition(".")[0] for one in names)


def _ends(known: Mapping[str, Figure]) -> set[str]:
    """Names of the single numbers of intervals: ``at`` reads them."""
    return {f"{name}.{end}" for name, figure in known.items() if figure.interval for end in get_type_hints(Interval)}


def _advice(name: str, known: Mapping[str, Figure]) -> str:
    ends = _ends(known)
    plain = [one for one in known if one not in ends and not _PATTERNS.keys() & set(one.split("."))]
    plain.sort(key=lambda one: not known[one].interval)
    whole, _, end = name.rpartition(".")
    if end in ("low", "high"):
        near = nearest(whole, [one for one in plain if known[one].interval])
        if near:
            return f"; did you mean {' or '.join(near)}, with at: {end}?"
    near = nearest(name, plain)
    if not near:
        return f"; its sections are {', '.join(_sections(known))}; {_LIST}"
    ended = (
        " It has an interval: with `at: low` or `at: high`, a gate judges an end of it"
        if known[near[0]].interval
        else ""
    )
    return f"; did you mean {' or '.join(near)}?{ended}"


CHECKS = (unmeasured, unreachable, unjudgeable)
"""What can be wrong with the gates of a recipe (`lwc.recipe.file.Check`)."""
