"""The report's section on importance: what the methods found, how far they agree, and how far to believe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lwc.core.marks import Interval
from lwc.importance.contents import FusedScores, Importance, KendallTau, LearnedFit, Stable, TrustFigures
from lwc.report.content_types import Report
from lwc.report.document import Figure, Paragraph, Section, Table
from lwc.report.formats import NOT_MEASURED, number, with_interval
from lwc.report.stage_contents import Selection

Block = Paragraph | Table | Figure


def _methods(importance: Importance) -> Table:
    rows = tuple(
        (name, str(m["unit"]), number(float(m["weight"]), 2), number(float(m["seconds"]), 1))
        for name, m in importance["methods"].items()
    )
    fused = importance["fused"]
    way = str(fused.get("method", "mean_rank")).replace("_", " ")
    caption = (
        f"Scored on {number(importance.get('examples'))} calibration texts of train; higher = keep. "
        f"Best first by {way}: {', '.join(map(str, fused['ranking']))}."
    )
    return Table(("method", "unit", "weight", "seconds"), rows, caption)


def _learned(fused: FusedScores, found: LearnedFit) -> Paragraph:
    weights = ", ".join(f"{name} {weight:.3g}" for name, weight in fused["weights"].items())
    return Paragraph(
        f"Weights learned on {found['subsets']} cut models (nats per largest score): {weights}. Held out in "
        f"{found['folds']} folds, they explain {number(found['held_out_r2'], 2)} of the variance of the loss (R²)."
    )


def _agreement(tau: KendallTau) -> Table:
    rows = tuple(
        (name, *(NOT_MEASURED if v is None else f"{v:.2f}" for v in row))
        for name, row in zip(tau["names"], tau["matrix"], strict=True)
    )
    caption = "Agreement of the methods (Kendall τ of their rankings; 1 = same order, 0 = none)."
    return Table(("", *tau["names"]), rows, caption)


def _trust(trust: TrustFigures) -> list[Block]:
    correlation = trust["correlation"]
    stability = trust["stability"]

    measured = (correlation["before_recovery"], correlation["after_recovery"])

    def row(name: str, stable: Stable | None, cells: Sequence[Interval | None]) -> tuple[str, ...]:
        return (
            name,
            number(stable and stable["resamples"], 2),
            number(stable and stable["halves"], 2),
            *(with_interval(cell, 2) if cell else NOT_MEASURED for cell in cells),
        )

    names = list(dict.fromkeys([*stability["methods"], *trust["predicted"]["methods"]]))
    rows = [
        row(name, stability["methods"].get(name), [one and one["methods"].get(name) for one in measured])
        for name in names
    ]
    rows.append(row("fused", stability["fused"], [one and one["fused"] for one in measured]))
    cut = trust["cut_models"]
    before = correlation["before_recovery"]
    floor = before and before["size_only"]
    counting = "" if floor is None else f" The number of removed blocks alone gives {floor:.2f}."
    caption = (
        f"Stability: mean Kendall τ between rankings on {stability['resamples']} bootstrap draws, and on "
        f"{stability['seeds']} random halves, of the calibration texts. Prediction: Spearman's ρ of the summed scores "
        f"of the removed blocks and the loss of {len(cut['removed'])} models really cut ({cut['split']} split), with "
        f"95% bootstrap intervals over these models.{counting}"
    )
    if trust["predicted"]["cross_validated"]:
        caption += " The learned fusion predicts each from weights fitted on other cut models."
    header = ("method", "stability, resamples", "stability, halves", "predicts, before recovery", "after recovery")
    tone = "bad" if trust["fusion_beats_best_single"] is False else ""
    return [Paragraph(trust["verdict"], tone), Table(header, tuple(rows), caption, strong=(len(rows) - 1,))]


_WAYS = {
    "racing": "the candidate that was nearest to the uncut model after a short recovery won",
    "named": "the recipe names the blocks to remove",
    "fused": "only adjacent blocks go (select.contiguous)",
    "single": "the strategy goes by one method, not by the fusion",
    "greedy": "the strategy goes by the loss of cut models, not by single scores",
    "beam": "the strategy goes by the loss of cut models, not by single scores",
    "iterated": "blocks were ranked again after each round of recovery",
}


def _selected(selection: Selection, ranking: Sequence[int]) -> list[Block]:
    """The strategy, why blocks stay that rank below removed ones (``ranking`` is best first), and the race if any."""
    strategy, removed = selection["strategy"], selection["removed"]
    best = min((ranking.index(block) for block in removed if block in ranking), default=len(ranking))
    lower = [block for block in ranking[best:] if block in selection["kept"]]
    said = f"Selection strategy: {strategy}."
    required = [block for block in lower if block in selection.get("required", [])]
    if required:
        must = "must stay" if len(required) == 1 else "must all stay"
        said += f" {_named(required)} {must} by keep_first, keep_last or the model type, whatever the scores say."
    free = [block for block in lower if block not in required]
    if free:
        why = _WAYS.get(strategy, "the strategy does not go by single scores")
        said += f" {_named(free)} {'stays' if len(free) == 1 else 'stay'} although removed blocks rank higher: {why}."
    if ranking and not removed:
        said += " No block was removed: the target asks for none."
    return [Paragraph(said), *_race(selection)]


def _race(selection: Selection) -> list[Block]:
    """Every candidate of every round, and what became of it."""
    if "race" not in selection:
        return []
    rounds, total = selection["race"], selection["blocks_before"]
    if not rounds:
        return [Paragraph("There was no race: only one choice of blocks obeys the constraints.", "quiet")]
    rows: list[tuple[str, ...]] = []
    for number_, heat in enumerate(rounds, start=1):
        last = number_ == len(rounds)
        on = 1 if last else len(rounds[number_]["distances"])
        for place, one in enumerate(heat["distances"]):
            kept = [block for block in range(total) if block not in one["removed"]]
            outcome = "out" if place >= on else "wins" if last else "goes on"
            rows.append((
                f"{number_} of {len(rounds)}", number(heat["steps"]), _listed(one["removed"]), _listed(kept),
                "diverged" if one["distance"] is None else number(one["distance"], 4), outcome,
            ))  # fmt: skip
    many = len(rounds[0]["distances"])
    caption = (
        f"The race of {many} candidates: how far each was from the uncut model after so many steps of recovery, by the"
        " figure that recovery is judged by on the validation split; lower is better. More steps bring every candidate"
        " nearer, so distances compare within a round only."
    )
    header = ("round", "steps", "removed", "kept", "distance", "outcome")
    return [Table(header, tuple(rows), caption, strong=(len(rows) - len(rounds[-1]["distances"]),))]


def _listed(blocks: Sequence[int]) -> str:
    return ", ".join(map(str, blocks))


def _named(blocks: Sequence[int]) -> str:
    return f"{'Block' if len(blocks) == 1 else 'Blocks'} {', '.join(map(str, sorted(blocks)))}"


def importance_section(report: Report, figures: Mapping[str, Figure]) -> Section:
    """Scores, what was left out, agreement and trust."""
    importance, selection = report["importance"], report["selection"]
    if not importance:
        scored = report["recipe"]["resolved"].get("score", {}).get("methods", True)
        named = selection and selection["strategy"] == "named"
        why = "The recipe names the blocks to remove, so they" if named else "The recipe lists no method, so the blocks"
        said = f"Importance: {NOT_MEASURED}." if scored else f"{why} were not scored. `score: {{}}` ranks them."
        return Section("Importance and selection", [Paragraph(said), *(_selected(selection, []) if selection else [])])
    blocks: list[Block] = [figures["importance"]] if "importance" in figures else []
    blocks.append(_methods(importance))
    blocks += [
        Paragraph(f"{name} was left out of the fusion: {reason}", "bad")
        for name, reason in (importance.get("excluded") or {}).items()
    ]
    learned = importance["fused"].get("learned")
    if learned:
        blocks.append(_learned(importance["fused"], learned))
    tau = importance.get("kendall_tau")
    if tau and len(tau["names"]) > 1:
        blocks += [figures["agreement"]] if "agreement" in figures else []
        blocks.append(_agreement(tau))
    trust = importance.get("trust")
    if trust:
        blocks += _trust(trust)
        blocks += [figures["prediction"]] if "prediction" in figures else []
    else:
        blocks.append(Paragraph("The reliability of these scores was not measured (recipe: score.trust).", "quiet"))
    if selection:
        blocks += _selected(selection, importance["fused"]["ranking"])
    return Section("Importance and selection", blocks)
