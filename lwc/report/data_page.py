"""The page of ``lwc data ingest``: what was read, with plots; every estimate with its error."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired

import numpy as np

from lwc.recipe import Labels
from lwc.report.content_types import DataQuality
from lwc.report.data_warnings import RULES, data_warnings, label_values
from lwc.report.document import Document, Figure, Paragraph, Section, Table, Tiles
from lwc.report.formats import duration, number, percent
from lwc.report.html import render_html
from lwc.report.plots import BLUE, GREY, INK, ORANGE, RED, SOFT, drawing
from lwc.report.setting import split_by


class Ingested(DataQuality):
    """``quality.json`` of ``lwc data ingest``."""

    seconds: NotRequired[dict[str, float]]


_COLOURS = (RED, ORANGE, GREY, SOFT, BLUE)
_FEW = 20  # rows of a month under which its shares are noise


def _drift_plot(months: Mapping[str, Mapping[str, int]], names: Sequence[str], path: Path) -> str:
    """Share of each label by month, above the number of rows of the month."""
    kept = [month for month, labels in months.items() if sum(labels.values()) >= _FEW]
    counts = np.array([[months[month].get(name, 0) for name in names] for month in kept], dtype=np.float64)
    times = np.array(kept, dtype="datetime64[M]").astype("datetime64[D]")
    with drawing(path, 7.2, 4.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for name, colour, column in zip(names, _COLOURS[-len(names) :], counts.T, strict=False):
            upper.plot(times, 100 * column / counts.sum(axis=1), color=colour, label=name, lw=1.5)
        upper.set_ylabel("share of rows, %")
        upper.set_ylim(0, 100)
        upper.legend(frameon=False, fontsize=9, ncols=min(5, len(names)), loc="upper left", bbox_to_anchor=(0, 1.18))
        lower.fill_between(times, counts.sum(axis=1), color=GREY, lw=0)
        lower.set_ylabel("rows")
    return path.name


def _lengths_plot(counts: Sequence[int], path: Path) -> str:
    """How many rows have how many words, to the 99th percentile."""
    found = np.asarray(counts, dtype=np.float64)
    edge = int(np.searchsorted(np.cumsum(found), 0.99 * found.sum())) + 1
    with drawing(path, 7.2, 2.6) as figure:
        axes = figure.add_subplot()
        width = max(1, edge // 80)
        sums = np.add.reduceat(found[:edge], np.arange(0, edge, width))
        axes.bar(np.arange(len(sums)) * width, sums, width=0.9 * width, align="edge", color=BLUE)
        axes.set_xlabel("words of a text (1% are longer than the plot)")
        axes.set_ylabel("rows")
    return path.name


def _languages_plot(languages: Mapping[str, int], path: Path) -> str:
    """Rows by language, on a logarithmic scale."""
    names = list(languages)
    with drawing(path, 7.2, 0.6 + 0.32 * len(names)) as figure:
        axes = figure.add_subplot()
        axes.barh(names, [languages[name] for name in names], color=BLUE)
        axes.set_xscale("log")
        axes.invert_yaxis()
        for place, name in enumerate(names):
            axes.text(languages[name], place, f" {languages[name]:,}", va="center", size=9, color=INK)
        axes.margins(x=0.15)
        axes.set_xlabel("rows")
    return path.name


def _rows_table(q: Ingested) -> Table:
    duplicates = q["duplicates"]
    rows = [
        ("read", q["rows_read"]),
        *((f"bad: {reason}", -count) for reason, count in sorted(q["rows_bad"].items(), key=lambda one: -one[1])),
        ("left out by the label scheme", -q["rows_left_out_by_label_scheme"]),
        ("repeated text", -duplicates["exact"]),
        ("one text with different labels", -duplicates["conflicting_labels"]),
        ("near duplicate of an earlier text", -duplicates["near"]),
        ("used", q["rows_used"]),
    ]
    table = tuple((name, f"{count:,}") for name, count in rows)
    return Table(("rows", "count"), table, "Each row read is counted in exactly one line.", strong=(len(table) - 1,))


def _splits_table(q: Ingested) -> Table:
    names = q["label_names"]
    rows = tuple(
        (split, number(found["rows"]), *(number(found["labels"][name]) for name in names),
         percent(found["majority_share"]))
        for split, found in q["splits"].items()
    )  # fmt: skip
    return Table(("split", "rows", *names, "majority"), rows, f"Split by {split_by(q)}.")


def _distinct_table(q: Ingested) -> Table:
    error = q["distinct"]["relative_standard_error"]
    rows = tuple((name, number(q["distinct"][name]), f"± {100 * error:.1f} %") for name in ("users", "items", "words"))
    return Table(
        ("distinct", "estimate", "standard error"), rows, "HyperLogLog, 16,384 registers, of all cleaned rows."
    )


def _near(q: Ingested) -> str:
    near = q["near_duplicates"]
    if near["missed_at_threshold"] is None:
        return "Near duplicates were not searched for (data.near_duplicate_threshold is 1)."
    return (
        f"Near duplicates: {percent(near['rate'], 2)} of the texts that are no exact copies. Word 3-grams, Jaccard "
        f"similarity {near['threshold']:g} or more, compared exactly; a pair at the threshold is missed with a "
        f"probability of {percent(near['missed_at_threshold'])}, a closer one more rarely."
    )


def _document(q: Ingested, name: str, folder: Path, labels: Labels, task: str) -> Document:
    bad = sum(q["rows_bad"].values())
    words, diversity = q["words"], q["diversity"]
    drift: list[Paragraph | Figure] = [Paragraph("The source has no times.")]
    if sum(sum(labels.values()) >= _FEW for labels in q["months"].values()) > 1:
        caption = f"Labels by month, of all labelled rows; months with fewer than {_FEW} rows are left out."
        drift = [Figure(_drift_plot(q["months"], q["label_names"], folder / "drift.png"), caption)]
    took = sum(q["seconds"].values()) if "seconds" in q else None
    ratio = diversity["type_token_ratio"]
    diverse = "Too few words to measure lexical diversity." if ratio is None else (
        f"Lexical diversity: of {diversity['words']:,} running words {percent(ratio)} are distinct "
        f"(mean over {diversity['windows']:,} windows)."
    )  # fmt: skip
    percentiles = ", ".join(f"{name} {value}" for name, value in words.items() if name != "counts")
    state = q["state_bytes_per_million_rows"]
    return Document(
        title=f"Data of {name}",
        subtitle=f"Source: {q['source']}; text: {', '.join(q['text_fields'])}"
        + (f"; read in {duration(took)}" if took is not None else ""),
        passed=True,
        state="ingested",
        verdict=[
            *(Paragraph(one, "bad") for one in data_warnings(q, task)),
            *(Paragraph(one, "quiet") for one in q.get("read_as", [])),
            Paragraph(_near(q)),
        ],
        tiles=[Tiles([
            ("rows read", number(q["rows_read"]), ""),
            ("used", number(q["rows_used"]), percent(q["rows_used"] / max(1, q["rows_read"]))),
            ("quarantined", number(bad), percent(bad / max(1, q["rows_read"]), 3)),
            ("users", number(q["distinct"]["users"]), f"± {100 * q['distinct']['relative_standard_error']:.1f} %"),
            ("items", number(q["distinct"]["items"]), f"± {100 * q['distinct']['relative_standard_error']:.1f} %"),
        ])],
        sections=[
            Section("Rows", [_rows_table(q)]),
            Section("Labels", _labels(q, labels)),
            Section("Splits", [_splits_table(q)]),
            Section("Labels over time", drift),
            Section("Texts", [
                Figure(_lengths_plot(words["counts"], folder / "lengths.png"), "Words of a text, of labelled rows."),
                Paragraph(f"Percentiles: {percentiles} words."),
                Paragraph(diverse),
            ]),
            Section("Languages", [
                Figure(_languages_plot(q["languages"], folder / "languages.png"),
                       "By the share of function words (0.2 or more) in texts of 8 or more words: a rule of thumb."),
            ]),
            Section("Distinct things", [_distinct_table(q)]),
            Section("State", [Paragraph(
                f"Telling duplicates apart took {state['disk'] / 1e6:,.0f} MB on disk and {state['memory'] / 1e6:,.0f} "
                f"MB of memory a million rows; the split itself keeps {state['split']} bytes by user or at random.")]),
        ],
    )  # fmt: skip


def _labels(q: Ingested, labels: Labels) -> list[Paragraph]:
    texts = [RULES[labels.scheme], label_values(q)]
    return [Paragraph(text) for text in texts if text]


def data_page(quality: Ingested, name: str, labels: Labels, task: str) -> str:
    """The quality report of an ingestion (`lwc.data.ingest.run.ingest`) as one self-contained HTML text."""
    with tempfile.TemporaryDirectory(prefix="lwc-page-") as folder:
        return render_html(_document(quality, name, Path(folder), labels, task), Path(folder))
