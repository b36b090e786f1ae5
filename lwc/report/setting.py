"""Report sections on what the numbers were measured with: data, text fields, seeds, machine, versions."""

from __future__ import annotations

from collections.abc import Mapping

from lwc.report.content_types import DataQuality, Report, Source, SourceFile, Truncated
from lwc.report.data_warnings import RULES, label_values
from lwc.report.document import Paragraph, Section, Table
from lwc.report.formats import NOT_MEASURED, number, percent, significant


def _of(file: SourceFile) -> str:
    return f" ({file['split']})" if "split" in file else ""


def _source(source: Source | None) -> str:
    if not source:
        return NOT_MEASURED
    facts = [
        f"{key}: {value}"
        for key, value in source.items()
        if key != "source" and isinstance(value, str | int | float) and not isinstance(value, bool)
    ]
    facts += [f"{file['name']}{_of(file)}, SHA-256 {file['sha256'][:16]}…" for file in source.get("files", ())]
    return "; ".join([source["source"], *facts] if "source" in source else facts)


def _splits(quality: DataQuality) -> tuple[tuple[str, ...], ...]:
    rows = []
    for name, split in quality.get("splits", {}).items():
        balance = ", ".join(f"{label}: {number(count)}" for label, count in split.get("labels", {}).items())
        rows.append((name, number(split.get("rows")), balance or NOT_MEASURED))
    return tuple(rows)


def _counts(value: object) -> str:
    """``a: 1, b: 2`` of a dictionary of counts, "none" where it is empty or all 0."""
    if not isinstance(value, Mapping):
        return NOT_MEASURED
    found = [f"{key.replace('_', ' ')}: {number(count)}" for key, count in value.items() if count]
    return ", ".join(found) or "none"


def split_by(quality: DataQuality) -> str:
    """The kind of split, and how many rows a split by user had to place on their own."""
    kind, alone = str(quality.get("split_by") or NOT_MEASURED), quality.get("rows_without_user")
    given = quality.get("split_given") or []
    if kind == "own":
        return "the data"
    if given:
        kind = f"{kind}; {' and '.join(given)} as the data say"
    if quality.get("split_by") == "user" and alone:
        return f"{kind}; {number(alone)} rows without a user, each counted as its own user"
    return kind


def _cleaning(quality: DataQuality) -> list[tuple[str, str]]:
    return [
        ("rows read, used", f"{number(quality.get('rows_read'))}, {number(quality.get('rows_used'))}"),
        ("bad rows, quarantined", _counts(quality.get("rows_bad"))),
        ("left out by the label scheme", number(quality.get("rows_left_out_by_label_scheme"))),
        ("duplicates removed", _counts(quality.get("duplicates"))),
        ("left out by data.limit", number(quality.get("rows_beyond_limit"))),
        ("split by", split_by(quality)),
        *_histories(quality),
    ]


def _histories(quality: DataQuality) -> list[tuple[str, str]]:
    if "events_used" not in quality:
        return []
    return [
        ("events used, left out by data.limit",
         f"{number(quality['events_used'])}, {number(quality.get('events_beyond_limit'))}"),
        ("repeated events (user and item), the first kept", number(quality.get("repeated_events"))),
        ("events at the time of another of their user, in drawn order", number(quality.get("events_at_a_shared_time"))),
    ]  # fmt: skip


def _truncated(cut: Truncated | None) -> str:
    if not cut:
        return NOT_MEASURED
    share = cut["count"] / cut["of"] if cut["of"] else None
    return (
        f"{number(cut['count'])} of {number(cut['of'])} test texts ({percent(share)}) "
        f"were cut at {cut['max_length']} tokens"
    )


def _label_rows(report: Report) -> list[tuple[str, str]]:
    """How labels were made; nothing for histories, which have none."""
    data = report["data"]
    if data["label_names"] is None:
        return []
    found = [
        ("rule of labels", RULES.get(data["label_scheme"], "")),
        ("values of labels", label_values(data["quality"] or {})),
    ]
    return [(name, text) for name, text in found if text]


def data_section(report: Report) -> Section:
    """Source, text fields, labels, truncation and split sizes."""
    data = report["data"]
    fields = ", ".join(data["text_fields"])
    rows = [
        ("source", _source(data["source"])),
        ("text fields", fields),
        ("labels", f"{data['label_scheme']}: {', '.join(data['label_names'] or [NOT_MEASURED])}"),
        *_label_rows(report),
        ("truncated", _truncated(data["truncated"])),
        *_cleaning(data["quality"] or {}),
    ]
    blocks: list[Paragraph | Table] = [Table(("", ""), tuple(rows))]
    blocks += [Paragraph(text, "quiet") for text in (data["quality"] or {}).get("read_as", [])]
    if "title" in data["text_fields"]:
        warning = (
            f"Text fields used: {fields}. Titles often state the label (“Five Stars”), so figures with "
            "titles look better than figures from the review text alone."
        )
        blocks.append(Paragraph(warning, "bad"))
    splits = _splits(data["quality"] or {})
    if splits:
        blocks.append(Table(("split", "rows", "labels"), splits))
    return Section("Data", blocks)


def environment_section(report: Report) -> Section:
    """Machine, versions and seeds."""
    environment, drawn = report["environment"], report["bootstrap"]
    rows = [
        (key.replace("_", " "), significant(value) if isinstance(value, bool | int | float) else str(value))
        for key, value in environment.items()
        if not isinstance(value, Mapping) and value is not None
    ]
    libraries = environment.get("libraries")
    if libraries:
        rows.append(("libraries", ", ".join(f"{k} {v}" for k, v in libraries.items() if v)))
        absent = ", ".join(k for k, v in libraries.items() if not v)
        if absent:
            rows.append(("not installed", absent))
    rows.append(("seed", f"{report['recipe']['seed']} (run), {number(drawn and drawn['seed'])} (bootstrap); one seed"))
    return Section("Machine, versions, seeds", [Table(("", ""), tuple(rows))])
