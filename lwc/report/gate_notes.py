"""What a metric's interval says of its gate, in a sentence: what an end of it shows, or that it decides nothing.

Each end of a two-sided 95% interval leaves 2.5% outside, so alone it is a one-sided bound with 97.5% confidence. A gate
on the lower end of a retention is a non-inferiority test at the usual one-sided level of 2.5% (ICH E9, 1998, sections
3.3.2 and 5.5; Walker & Nowacki 2011, J Gen Intern Med 26:192–196). All gates of a run must pass, so several need no
correction. The intervals resample test rows: the confidence is about this model on other rows, not another training.
"""

from __future__ import annotations

from collections.abc import Iterable

from lwc.core.marks import LEVEL
from lwc.recipe import TASKS, At, Gate
from lwc.report.content_types import Decision, Findings
from lwc.report.formats import significant
from lwc.report.gates import ENDS, OPERATORS, lookup

_ONE_SIDED = (1 + LEVEL) / 2
# Sections whose metrics are retentions, and whose retention it is.
_RETENTIONS = {
    "retention": "compressed model",
    "retention_unrecovered": "compressed model before recovery",
    "export.int8.retention": "int8 model",
    "served.retention": "served model",
}
_QUALITIES = {
    "quality.base": "base model",
    "quality.unrecovered": "compressed model before recovery",
    "quality.compressed": "compressed model",
    "served.quality": "served model",
}


class _Words:
    """A gate in words. ``retained`` is the model whose retention it judges; empty where it judges something else."""

    def __init__(self, gate: Gate, report: Findings) -> None:
        section, _, key = gate.metric.rpartition(".")
        headline, quality = TASKS[report["task"]].headline, report["quality"]
        names = {one.key: one for one in (*headline.metrics, *headline.further)}
        self.gate = gate
        self.metric = names.get(key) if section in _RETENTIONS or "quality" in section.split(".") else None
        self.retained = _RETENTIONS.get(section, "") if self.metric else ""
        self.rows = f"n = {quality['compressed']['n']:,} {headline.counted}" if quality and self.metric else ""
        self.owner = _QUALITIES.get(section, f"floor {section.removeprefix('quality.floors.')}")

    @property
    def subject(self) -> str:
        if self.metric is None:
            return self.gate.metric
        return f"{self.metric.name} retention" if self.retained else f"{self.metric.name} of the {self.owner}"

    def number(self, value: float | None) -> str:
        return f"{100 * value:.4g}%" if self.retained and value is not None else significant(value)

    @property
    def margin(self) -> str:
        """How much of the base's quality the gate allows a model to lose; empty where it asks for something else."""
        gate = self.gate
        loses = self.retained and gate.op in (">=", ">") and gate.relative_to is None and 0 < gate.value < 1
        return self.number(1 - gate.value) if loses else ""

    def claim(self, bound: str) -> str:
        """What an end of the interval says: that the subject is at least, or at most, ``bound``."""
        limited = f"at {'least' if self.gate.at == 'low' else 'most'} {bound}"
        if self.metric is None or not self.retained:
            return f"{self.subject} is {limited}"
        if self.metric.lower_is_better:
            return f"the {self.metric.name} of the base is {limited} of that of the {self.retained}"
        return f"the {self.retained} keeps {limited} of the base's {self.metric.name}"


def _of_an_end(words: _Words, decided: Decision) -> str:
    gate, bound = words.gate, words.number(decided["value"])
    bootstrap = f"one-sided; {'paired ' if words.retained else ''}bootstrap{', ' if words.rows else ''}{words.rows}"
    known = (
        f"The {ENDS[gate.at]} of the {LEVEL:.0%} interval of {words.subject} is {bound}:"
        f" with {_ONE_SIDED:.1%} confidence ({bootstrap}), {words.claim(bound)}."
    )
    # `>=` at the high end, and `<=` at the low end, ask only that the opposite is not shown.
    if (gate.at == "low") != (gate.op in (">=", ">")):
        return (
            f"{known} The gate fails only if the whole interval misses its limit, so a small test split passes easily."
        )
    if not words.margin:
        return known
    if decided["passed"]:
        return f"{known} This is a non-inferiority test with a margin of {words.margin}."
    return f"{known} A loss of more than {words.margin}, the margin of this non-inferiority test, is not ruled out."


def _of_the_value(words: _Words, decided: Decision, low: float, high: float) -> str:
    gate, limit = words.gate, decided["threshold"]
    if limit is None or gate.op == "==" or OPERATORS[gate.op](low, limit) == OPERATORS[gate.op](high, limit):
        return ""
    sample = f"The test split ({words.rows})" if words.rows else "What was measured"
    end: At = "low" if gate.op in (">=", ">") else "high"
    return (
        f"{sample} cannot decide whether {words.subject} is {gate.op} {words.number(limit)}, because the {LEVEL:.0%}"
        f" interval, {words.number(low)} to {words.number(high)}, contains that limit: the gate"
        f" {'passes' if decided['passed'] else 'fails'} by chance. Use `at: {end}` to judge by the {ENDS[end]}."
    )


def _note(gate: Gate, decided: Decision, report: Findings) -> str:
    low, high = (lookup(report, gate.metric, end)[0] for end in ENDS)
    if low is None or high is None or decided["value"] is None:
        return ""
    if gate.at != "value":
        return _of_an_end(_Words(gate, report), decided)
    # Two models vary together over the rows, so the interval of one alone does not say whether they differ.
    if gate.relative_to is not None and lookup(report, gate.relative_to, "low")[0] is not None:
        return ""
    return _of_the_value(_Words(gate, report), decided, low, high)


def explained(gates: Iterable[Gate], decided: Iterable[Decision], report: Findings) -> list[Decision]:
    """The decisions of ``gates``, in their order, each with its note."""
    return [{**one, "note": _note(gate, one, report)} for gate, one in zip(gates, decided, strict=True)]
