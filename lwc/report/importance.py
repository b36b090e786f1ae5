"""The report's section on importance: what the methods found, how far they agree, and how far to believe them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lwc.report.document import Figure, Paragraph, Section, Table
from lwc.report.formats import NOT_MEASURED, number, with_interval

Block = Paragraph | Table | Figure


def _methods(importance: Mapping[str, Any]) -> Table:
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


def _learned(fused: Mapping[str, Any]) -> Paragraph:
    found = fused["learned"]
    weights = ", ".join(f"{name} {weight:.3g}" for name, weight in fused["weights"].items())
    return Paragraph(
        f"Weights learned on {found['subsets']} cut models (nats per largest score): {weights}. Held out in "
        f"{found['folds']} folds, they explain {number(found['held_out_r2'], 2)} of the variance of the loss (R²)."
    )


def _agreement(tau: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, *(NOT_MEASURED if v is None else f"{v:.2f}" for v in row))
        for name, row in zip(tau["names"], tau["matrix"], strict=True)
    )
    caption = "Agreement of the methods (Kendall τ of their rankings; 1 = same order, 0 = none)."
    return Table(("", *tau["names"]), rows, caption)


def _trust(trust: Mapping[str, Any]) -> list[Block]:
    correlation = trust["correlation"]
    stability = trust["stability"]

    def row(name: str, stable: Mapping[str, Any] | None, key: str | None) -> tuple[str, ...]:
        found = [correlation[when] for when in ("before_recovery", "after_recovery")]
        cells = [(one["fused"] if key is None else one["methods"].get(key)) if one else None for one in found]
        return (
            name,
            *(number((stable or {}).get(draw), 2) for draw in ("resamples", "halves")),
            *(with_interval(cell, 2) if cell else NOT_MEASURED for cell in cells),
        )

    names = list(dict.fromkeys([*stability["methods"], *trust["predicted"]["methods"]]))
    rows = [row(name, stability["methods"].get(name), name) for name in names]
    rows.append(row("fused", stability["fused"], None))
    cut = trust["cut_models"]
    floor = (correlation["before_recovery"] or {}).get("size_only")
    counting = "" if floor is None else f" Merely counting the removed blocks gives {floor:.2f}."
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


def importance_section(report: Mapping[str, Any], figures: Mapping[str, Figure]) -> Section:
    """Scores, what was left out, agreement and trust."""
    importance, selection = report["importance"], report["selection"]
    if not importance:
        return Section("Importance", [Paragraph(f"Importance: {NOT_MEASURED}.")])
    blocks: list[Block] = [figures["importance"]] if "importance" in figures else []
    blocks.append(_methods(importance))
    blocks += [
        Paragraph(f"{name} was left out of the fusion: {reason}", "bad")
        for name, reason in (importance.get("excluded") or {}).items()
    ]
    if importance["fused"].get("learned"):
        blocks.append(_learned(importance["fused"]))
    tau = importance.get("kendall_tau")
    if tau and len(tau["names"]) > 1:
        blocks += [figures["agreement"]] if "agreement" in figures else []
        blocks.append(_agreement(tau))
    if importance.get("trust"):
        blocks += _trust(importance["trust"])
        blocks += [figures["prediction"]] if "prediction" in figures else []
    else:
        blocks.append(Paragraph("How far to trust these scores was not measured (recipe: score.trust).", "quiet"))
    if selection:
        blocks.append(Paragraph(f"Selection strategy: {selection['strategy']}.", "quiet"))
    return Section("Importance and selection", blocks)
