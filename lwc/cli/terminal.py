"""Output for people, on stderr. ``--json`` output goes to stdout instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lwc.core.errors import LwcError
from lwc.data.rows import printable

if TYPE_CHECKING:  # `lwc --help` reads no recipe
    from lwc.cli.doctor import Check
    from lwc.importance.contents import Importance, TrustFigures
    from lwc.pipeline.run import StagePlan
    from lwc.report.content_types import Decision, Report, Verdict
    from lwc.serving.checks.run import Inspection


class _Terminal(Console):
    """A console on which nothing but its own styles acts: names and values from files may contain escape sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


def harmless(text: str) -> str:
    """``text`` without the characters that a terminal obeys instead of showing them."""
    return "\n".join(map(printable, text.split("\n")))


console = _Terminal(stderr=True, highlight=False)
# This many methods fit on a terminal of 80 columns.
_METHODS_ABREAST = 4
MARKS = {"start": "…", "wait": "…", "hit": "[dim]=[/dim]", "done": "[green]✓[/green]"}
"""By the kind of a stage's event."""


def error(problem: LwcError) -> None:
    """One error: what is wrong, then what to do."""
    console.print(Text("error: ", style="bold red") + Text(problem.message), soft_wrap=True)
    if problem.hint:
        console.print(Text("  do: ", style="bold") + Text(problem.hint), soft_wrap=True)
    for also in getattr(problem, "__notes__", ()):
        console.print(Text(f"  also: {also}"), soft_wrap=True)


def note(text: str) -> None:
    """One plain line."""
    line(escape(text))


def warning(text: str) -> None:
    """Something to know that does not stop the command."""
    line(f"[yellow]warning:[/yellow] {escape(text)}")


def line(markup: str) -> None:
    """One line, however long: a terminal wraps it, a log must not."""
    console.print(markup, soft_wrap=True)


def plan_lines(plans: Sequence[StagePlan]) -> None:
    """What a run would do, in its words: a line for each stage."""
    for planned in plans:
        line(f"{MARKS['hit' if planned.hit else 'start']} {planned.stage.name:<9} {escape(str(planned))}")
    would = [planned.stage.name for planned in plans if not planned.hit]
    if_changed = f", if {would[0]} gives another result" if any(planned.unsure for planned in plans) else ""
    note(f"{len(would)} of {len(plans)} stages would run{if_changed}")


def _number(value: object, digits: int = 3) -> str:
    if isinstance(value, Mapping):
        middle = _number(value.get("value"), digits)
        if value.get("low") is None:
            return middle
        return f"{middle} [dim]({value['low']:.{digits}f}–{value['high']:.{digits}f})[/dim]"
    if isinstance(value, bool) or value is None:
        return "not measured" if value is None else str(value)
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def quality_table(report: Report) -> None:
    """The headline metrics of base, compressed and floors, and a line for each protocol that was served."""
    from lwc.recipe import TASKS
    from lwc.report.quality_contents import measured

    quality, reading = report["quality"], TASKS[report["task"]].headline
    if quality is None:
        raise LwcError(f"{report['recipe']['name']}: the report contains no quality figures", "use `lwc run` first")
    title = f"test split, n = {quality['base']['n']:,} {reading.counted}, 95% intervals"
    floors, served = dict(reading.floors), report["served"]
    reduced = served["quality"] if served is not None and served["precision"] == "int8" else None
    table = Table(title=title, title_justify="left", box=None)
    for column in ("model", *(metric.name for metric in reading.metrics)):
        table.add_column(column)
    rows = [
        ("base", quality["base"]),
        ("cut, not recovered", quality["unrecovered"]),
        ("cut and recovered", quality["compressed"]),
        *([("as served, int8", reduced)] if reduced else []),
        *((f"floor: {floors.get(name, name)}", value) for name, value in quality["floors"].items()),
    ]
    for name, found in rows:
        table.add_row(name, *(_number(measured(found, metric.key)) for metric in reading.metrics))
    console.print(table)
    line("")
    figure, title = next(iter(reading.served.items()))
    for protocol, one in (report["serving"] or {}).items():
        if one is None:
            continue
        answers: Mapping[str, object] = one["served"]
        latency = ", ".join(f"{q} {_number(one['latency_ms'][q], 1)} ms" for q in ("p50", "p95", "p99"))
        line(
            f"[bold]{protocol}[/bold]  {one['throughput_rps']:.0f} requests/s, {latency}, errors {one['errors']},"
            f" {title} {_number(answers[figure], 4)}"
        )
        if "limit" in one:
            limit = one["limit"]
            models = {name: limit[name] for name in ("compressed", "base") if limit[name]}
            found_rates({**limit, "models": models})


def gates_table(gates: Sequence[Decision]) -> None:
    """Every gate with its value, and what its interval says of it."""
    from lwc.report.verdict import gate_line

    for gate in gates:
        mark = "[green]pass[/green]" if gate["passed"] else "[bold red]FAIL[/bold red]"
        line(f"{mark} {escape(gate_line(gate))}")
        if gate["note"]:
            line(f"     [dim]{escape(gate['note'])}[/dim]")


def verdict(found: Verdict) -> None:
    """Whether to deploy, what was removed, cost and gain as served, what to know, the gates last: a line each."""
    colour = {True: "green", False: "red", None: "yellow"}[found["deploy"]]
    line(f"[bold {colour}]{escape(found['decision'])}[/bold {colour}]")
    note(found["removed"])
    note(found["cost"])
    note(found["gained"])
    for alert in found["alerts"]:
        line(f"[bold yellow]{escape(alert)}[/bold yellow]")
    for warning in found["warnings"]:
        line(f"[yellow]{escape(warning)}[/yellow]")
    line(f"[bold]{escape(found['gates'])}[/bold]")


def places(paths: Mapping[str, str]) -> None:
    """Where the results are."""
    for name, path in paths.items():
        note(f"{name:<10}  {path}")


def importance_table(importance: Importance) -> None:
    """Blocks by methods, raw scores, then the fused ranking and the agreement of the methods."""
    methods = list(importance["methods"].items())
    title: str | None = f"importance on {importance['examples']} calibration examples (higher = keep)"
    for start in range(0, len(methods), _METHODS_ABREAST):
        abreast = methods[start : start + _METHODS_ABREAST]
        table = Table(title=title, title_justify="left", box=None)
        table.add_column("block", justify="right")
        for name, method in abreast:
            table.add_column(f"{name}\n[dim]{escape(method['unit'])}[/dim]", justify="right", overflow="fold")
        table.add_column("fused", justify="right", style="bold")
        for block in range(importance["blocks"]):
            scores = [method["scores"][block] for _, method in abreast]
            cells = ["not finite" if score is None else f"{score:.4g}" for score in scores]
            table.add_row(str(block), *cells, f"{importance['fused']['scores'][block]:.3f}")
        console.print(table)
        title = None
    line(f"most important first: {importance['fused']['ranking']}")
    for name, reason in importance["excluded"].items():
        line(f"left out of the fusion: {name}: {escape(reason)}")
    taus = importance["kendall_tau"]
    if taus:
        for name, row in zip(taus["names"], taus["matrix"], strict=True):
            others = ((other, value) for other, value in zip(taus["names"], row, strict=True) if other != name)
            agreement = ", ".join(f"{other} {value:+.2f}" for other, value in others)
            line(f"[dim]Kendall τ of {name} with {agreement}[/dim]")
    trust = importance.get("trust")
    if trust:
        trust_table(trust)


def trust_table(trust: TrustFigures) -> None:
    """Stability of each ranking, its correlation with the loss of cut models, and whether fusing was worth it."""
    cut, stability, correlation = trust["cut_models"], trust["stability"], trust["correlation"]
    table = Table(
        title=f"trust: τ between resamples, ρ with the loss of {len(cut['removed'])} cut models",
        title_justify="left",
        box=None,
    )
    for column in ("method", "τ resamples", "τ halves", "ρ before recovery", "ρ after recovery"):
        table.add_column(column)
    for name in [*dict.fromkeys([*stability["methods"], *trust["predicted"]["methods"]]), None]:
        stable = stability["fused"] if name is None else stability["methods"].get(name)
        taus = (stable["resamples"], stable["halves"]) if stable else (None, None)
        found = (correlation["before_recovery"], correlation["after_recovery"])
        cells = [(one["fused"] if name is None else one["methods"].get(name)) if one else None for one in found]
        shown = [_number(value, 2) for value in (*taus, *cells)]
        table.add_row(name or "fused", *shown, style="bold" if name is None else "")
    console.print(table)
    style = "yellow" if trust["fusion_beats_best_single"] is False else ""
    console.print(Text(trust["verdict"], style=style), soft_wrap=True)


def loadtest(result: Mapping[str, Any]) -> None:
    """Figures of one load test."""
    from lwc.serving.loadtest.explain import labels_apart

    latency, served = result["latency_ms"], result.get("served")
    shown = ", ".join(f"{name} {_number(latency[name], 1)} ms" for name in ("p50", "p95", "p99"))
    answers = "no labels to check"
    if served:
        known = {"accuracy": "served accuracy", "ndcg_at_10": "served NDCG@10", "matches_offline": "equal to offline"}
        figures = ", ".join(f"{name} {_number(served[key])}" for key, name in known.items() if key in served)
        answers = f"{labels_apart(result) or figures} on {served['n']} questions"
    line(
        f"{result['protocol']}: {result['requests']} requests, {result['throughput_rps']:.1f}/s,"
        f" errors {result['errors']} ({result['error_rate']:.2%}); {shown};"
        f" {answers}"
    )
    for sentence in result["why"]:
        note(f"  {sentence}")
    for one in result["error_messages"]:
        note(f"  error: {one['count']}× {one['message']}")


def found_rates(found: Mapping[str, Any]) -> None:
    """The highest rates that met an objective, and what limits them."""
    objective = f"p95 ≤ {found['objective']['max_p95_ms']:g} ms"
    for name, one in found["models"].items():
        if one["rate_rps"] is None:
            alone = f"one user alone has p50 {one['unloaded_ms']['p50']:.1f} ms, p95 {one['unloaded_ms']['p95']:.1f} ms"
            note(f"FAIL {name}: no rate met {objective}; {alone}")
            continue
        p95, missed = one["p95_ms"], one["missed_rps"]
        note(
            f"{name}: {one['rate_rps']:.4g} requests/s meet {objective}"
            f" (p95 {p95['low']:.1f}–{p95['high']:.1f} ms in {p95['n']} windows;"
            f" {'no higher rate was tried' if missed is None else f'{missed:.4g}/s miss it'};"
            f" windows disagreed at {one['rates_in_doubt']} of {one['rates_tried']} rates)"
        )
        for sentence in one["why"]:
            note(f"  {sentence}")
    if found["ratio"] is not None:
        ratio = {key: "?" if value is None else f"{value:.2f}" for key, value in found["ratio"].items()}
        first, second = found["models"]
        note(f"{first} ÷ {second}: {ratio['value']}× the rate ({ratio['low']}–{ratio['high']})")


def doctor_table(checks: Sequence[Check]) -> None:
    """Findings, each with its fix where something is missing."""
    for check in checks:
        mark = {True: "[green]✓[/green]", False: "[red]✗[/red]", None: "[dim]·[/dim]"}[check.ok]
        line(f"{mark} {check.name:<18} {escape(check.found)}")
        if check.fix:
            line(f"  [bold]do:[/bold] {escape(check.fix)}")


def families(rows: Sequence[Mapping[str, str]]) -> None:
    """Supported model types, then the refused ones with the reason."""
    table = Table(title="model families")
    for column in ("model type", "blocks", "must stay", "tasks"):
        table.add_column(column, overflow="fold")
    for row in rows:
        if not row["refused"]:
            table.add_row(row["model_type"], row["blocks"], row["protected"] or "–", row["tasks"])
    console.print(table)
    for row in rows:
        if row["refused"]:
            note(f"refused: {row['model_type']}: {row['refused']}")


def inspection(found: Inspection) -> None:
    """A repository check: a line for each finding with what to do below it, and then what was checked and what not."""
    colours = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for one in found.findings:
        console.print(Text(f"{one.severity}: ", style=colours[one.severity]) + Text(str(one)), soft_wrap=True)
        if one.hint:
            console.print(Text("  do: ", style="bold") + Text(one.hint), soft_wrap=True)
    for started in found.started:
        reason = f": {started.reason}" if started.reason else ""
        console.print(Text(f"{started.state}: {started.model}{reason}"), soft_wrap=True)
    if found.sound and not found.findings:
        note("no problems found")
    number = len(found.models)
    note(f"checked {number} model{'' if number == 1 else 's'} against: {', '.join(found.checked) or 'nothing'}")
    if found.not_checked:
        items = found.not_checked.items()
        what = "; ".join(
            what if list(names) == list(found.models) else f"{what} ({', '.join(names)})" for what, names in items
        )
        note(f"not checked: {what}" + ("" if found.started else " (--start loads the models)"))


def tree(value: Mapping[str, object], indent: int = 0) -> None:
    """Nested figures, one a line."""
    pad = "  " * indent
    for key, item in value.items():
        if item is None or (isinstance(item, Mapping | list | tuple) and not item):
            continue
        if isinstance(item, list | tuple):
            many = any(isinstance(one, Mapping) for one in item)
            line(f"{pad}{escape(str(key))}:" + ("" if many else escape(f" {', '.join(map(_plain, item))}")))
            for one in item if many else ():
                parts = (f"{name} {_plain(part)}" for name, part in one.items() if part is not None)
                line(f"{pad}  {escape(', '.join(parts))}")
        elif isinstance(item, Mapping):
            line(f"{pad}[bold]{escape(str(key))}[/bold]")
            tree(item, indent + 1)
        else:
            line(f"{pad}{escape(str(key))}: {escape(_plain(item))}")


def _plain(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
