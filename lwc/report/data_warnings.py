"""What a reader must know about the data before the figures: sentences from ``quality.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lwc.core.spelling import MISSING, likeness, plain
from lwc.data.rows import CUT_SHORT, Reason
from lwc.recipe import TASKS
from lwc.report.content_types import DataQuality
from lwc.report.formats import percent

MANY_DUPLICATES = 0.3
FEW_ROWS = 10
MANY_SHARED_TIMES = 0.1
_FORM = "case, number form, spacing, HTML entities or characters that do not show"
_MOST = 3  # as many examples as fit into a sentence


def data_warnings(quality: DataQuality, task: str, skipped: bool = False) -> list[str]:
    """Warnings about lost rows, labels, splits, duplicates, small classes and shared times.

    Args:
        quality: ``quality.json`` of the data stage.
        task: the name of the recipe's task; only classes need rows of their own.
        skipped: the checkpoint is the base as it is, and so was trained before.
    """
    found = [
        *lost_rows(quality.get("rows_bad", {})),
        *_splits(quality, skipped),
        *_spellings(quality),
        *_unused(quality),
    ]
    if "confusion" in TASKS[task].headline.counts:
        found += [*_alike(quality), *_missing(quality), *_small_classes(quality)]
    return [*found, *_one_user(quality), *_given_away(quality), *_duplicates(quality), *_histories(quality)]


def lost_rows(rows_bad: Mapping[str, int]) -> Iterator[str]:
    """Rows that are lost to the file's damage or encoding, not to their own content."""
    for reason in CUT_SHORT:
        if reason in rows_bad:
            yield f"A source file is cut off ({reason}): an unknown number of its rows is lost. See quarantine.jsonl."
    if lost := rows_bad.get(Reason.DAMAGED_TABLE, 0):
        yield f"A source file is damaged: {lost:,} of its rows are lost. See quarantine.jsonl."
    if Reason.AFTER_GZIP in rows_bad:
        yield "A gzip file goes on with other bytes after the end of its data; they were ignored. See quarantine.jsonl."
    if again := rows_bad.get(Reason.HEADER_AGAIN, 0):
        yield f"{again:,} lines repeat the header of their file, as joined files do, and were left out."
    if lost := rows_bad.get(Reason.NOT_UTF8, 0):
        yield (
            f"{lost:,} rows are not UTF-8 and were left out: those with accents or curly quotes, not a random sample."
            " Convert the file, or set data.source.format.encoding. See quarantine.jsonl."
        )


def data_notes(quality: DataQuality) -> list[str]:
    """How files were read where their content decided it, and how many rows are bad: no reason to stop."""
    bad = quality.get("rows_bad", {})
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(bad.items(), key=lambda one: -one[1]))
    left_out = f"{sum(bad.values()):,} of {quality['rows_read']:,} rows are bad and left out ({reasons})."
    found = [*quality.get("read_as", []), *([left_out] if bad else [])]
    test = quality.get("test_rows", {})
    if cleaned := test.get("cleaned", 0):
        found.append(
            f"Cleaning (entities, tags, spaces, control characters) changes {cleaned:,} of the {test['used']:,} texts"
            " of your test split, as it does at the endpoint. A program that reads the raw texts may get other answers."
        )
    if head := quality.get("head", []):
        shown = ", ".join(head[:8]) + (f" and {len(head) - 8} more" if len(head) > 8 else "")
        found.append(f"The checkpoint's own head is used. Its outputs: {shown}.")
    return found


def _quoted(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST:,} more" if len(names) > _MOST + 1 else ""
    shown = names[:_MOST] if more else names
    return ", ".join(f'"{name}"' for name in shown) + more


def _rows_of(quality: DataQuality) -> dict[str, int]:
    """Rows of each class in train, validation and test."""
    found: dict[str, int] = {}
    for name in ("train", "validation", "test"):
        for label, rows in quality.get("splits", {}).get(name, {}).get("labels", {}).items():
            found[label] = found.get(label, 0) + rows
    return found


def _values(quality: DataQuality) -> dict[str, dict[str, int]]:
    """Rows by class and by value."""
    found: dict[str, dict[str, int]] = {}
    for one in quality.get("label_values", []):
        found.setdefault("left out" if one["label"] is None else one["label"], {})[one["value"]] = one["rows"]
    return found


def _alike(quality: DataQuality) -> Iterator[str]:
    groups: dict[str, list[str]] = {}
    rows = _rows_of(quality)
    for name in rows:
        groups.setdefault(likeness(name), []).append(name)
    several = [group for group in groups.values() if len(group) > 1]
    for group in several[:_MOST]:
        looks = {likeness(name, cased=True) for name in group}
        hidden = len(looks) < len(group) and not "".join(group).isascii()
        counted = ", ".join(f'"{ascii(name)[1:-1] if hidden else name}" ({rows[name]:,} rows)' for name in group)
        yield (
            f"The labels {counted} differ only in {_FORM}, and each is a class of its own:"
            " merge them with data.labels.map if they mean the same."
        )
    if len(several) > _MOST:
        yield f"{len(several) - _MOST:,} more groups of labels differ only in {_FORM}."


def _missing(quality: DataQuality) -> Iterator[str]:
    for name, rows in _rows_of(quality).items():
        if name in MISSING:
            yield (
                f'The label "{name}" ({rows:,} rows) is a class, though it may stand for a missing value: if it does,'
                " leave these rows out of the data, or name their class with data.labels.map."
            )


def _one_user(quality: DataQuality) -> Iterator[str]:
    largest = quality.get("largest_user")
    if largest is not None:
        yield (
            f'The user "{largest["user"]}" has {largest["rows"]:,} of the {quality["rows_used"]:,} rows, which are all'
            " in one split: the splits have other sizes than data.split says. If this is no user, leave the name"
            " empty in these rows."
        )


def _spellings(quality: DataQuality) -> Iterator[str]:
    """Several forms of one whole number, which are one class."""
    for name, values in _values(quality).items():
        forms = [value for value in values if value != name and plain(value) == name]  # what a map merges is wanted
        if forms and len(values) > 1:
            counted = ", ".join(f'"{value}" ({values[value]:,} rows)' for value in values)
            yield f'The label "{name}" is written {counted}: it is one class.'


def _unused(quality: DataQuality) -> Iterator[str]:
    unused = quality.get("label_map_unused", [])
    if unused:
        beside = " and no output of the checkpoint's head" if quality.get("head") else ""
        yield f"data.labels.map names {_quoted(unused)}, which no row{beside} has."


def _splits(quality: DataQuality, skipped: bool) -> Iterator[str]:
    """What speaks against the figures of a test split: rows that the model may know, or that are not in it."""
    given = quality.get("split_given", [])
    if "test" not in given and (quality.get("head") or skipped):
        why = "has a head for these labels" if quality.get("head") else "is taken as it is"
        yield (
            f"The checkpoint {why}, and lwc drew the test split itself. The checkpoint may have been trained on test"
            " rows, which makes the base look too good and retention too low. Name rows that it was not trained on,"
            " with data.test or data.source.columns.split."
        )
    shared = quality.get("shared_by_splits", {})
    rows = quality.get("splits", {}).get("test", {}).get("rows", 0)
    if count := shared.get("test_in_train", 0):
        yield (
            f"{count:,} of the {rows:,} test rows also occur in your train split. The test split stays whole; the"
            f" {shared['train_left_out']:,} train rows that also occur in validation or test are not used for training."
            " A checkpoint that was trained on them has already seen these test rows."
        )
    if count := shared.get("test_in_validation", 0):
        yield (
            f"{count:,} of the {rows:,} test rows also occur in your validation split, where they are left out"
            f" ({shared['validation_left_out']:,} rows)."
        )
    test = quality.get("test_rows", {})
    if test and test["used"] < test["given"]:
        left_out, bad = test["left_out"], test["given"] - test["used"] - test["left_out"]
        reasons = [
            *([f"{left_out:,} left out by data.labels.scheme"] if left_out else []),
            *([f"{bad:,} bad, see quarantine.jsonl"] if bad else []),
        ]
        yield (
            f"{test['used']:,} of the {test['given']:,} rows of your test split are used ({', '.join(reasons)}). All"
            " figures, also the base's, cover only the rows used."
        )


def _small_classes(quality: DataQuality) -> Iterator[str]:
    for split in ("validation", "test"):
        labels = quality.get("splits", {}).get(split, {}).get("labels", {})
        small = sorted((name for name, rows in labels.items() if rows < FEW_ROWS), key=lambda name: labels[name])
        if small:
            shown = ", ".join(f'{labels[name]:,} rows of "{name}"' for name in small[:_MOST])
            more = f" and as few of {len(small) - _MOST:,} more classes" if len(small) > _MOST else ""
            yield (
                f"The {split} split has {shown}{more}, fewer than {FEW_ROWS}: the F1 of so small a class, and macro-F1"
                " with it, is mostly chance."
            )


def _given_away(quality: DataQuality) -> Iterator[str]:
    for one in quality.get("label_tokens", [])[:_MOST]:
        yield (
            f'The word "{one["token"]}" gives the label away: it is in {percent(one["share"])} of the train texts of'
            f' "{one["label"]}" and in {percent(one["elsewhere"])} of the others. Is the label part of the text?'
        )


def _duplicates(quality: DataQuality) -> Iterator[str]:
    counts = quality.get("duplicates", {})
    read, bad = quality.get("rows_read", 0), sum(quality.get("rows_bad", {}).values())
    rows = read - bad - quality.get("rows_left_out_by_label_scheme", 0)
    share = sum(counts.values()) / rows if rows else 0.0
    if share > MANY_DUPLICATES:
        detail = ", ".join(f"{kind.replace('_', ' ')}: {count:,}" for kind, count in counts.items() if count)
        yield (
            f"{percent(share)} of the {rows:,} labelled rows are duplicates ({detail}) and were removed; more than"
            f" {MANY_DUPLICATES:.0%} is unusual. The figures are of the texts that are left."
        )


def _histories(quality: DataQuality) -> Iterator[str]:
    used, shared = quality.get("events_used", 0), quality.get("events_at_a_shared_time", 0)
    if used and shared > MANY_SHARED_TIMES * used:
        yield (
            f"{percent(shared / used)} of the events ({shared:,} of {used:,}) have the time of another event of their"
            " user. The order of such events is arbitrary, and so is which of them comes next."
        )
    if quality.get("items_alike", 0):
        yield (
            f"{quality['items_alike']:,} item ids differ from another only in number form, spacing or invisible"
            f" characters, such as {_quoted(quality['items_alike_example'])}, and each is an item of its own."
            " Write ids in one form."
        )


RULES: Mapping[str, str] = {
    "column": (
        "A value of the label column is a class of that name, after data.labels.map. A whole number is one name: 1.0"
        " and 1.00 are 1. Names that differ in case are different classes."
    ),
    "five_class": "A class is the nearest whole number of stars; half stars round up: 2.5 is 3, 3.5 is 4.",
    "three_class": "4 stars or more are positive, 2 or fewer negative, those between neutral; stars are not rounded.",
    "binary": "4 stars or more are positive, 2 or fewer negative, those between left out; stars are not rounded.",
    "none": "Texts have no labels.",
}
"""How labels are made, by ``data.labels.scheme``."""


def label_values(quality: DataQuality) -> str:
    """The values of the source by the class that they became."""
    found = _values(quality)
    several = len(found) > 12 or sum(map(len, found.values())) > 40
    parts = [f"{name}: {', '.join(values)}" for name, values in found.items()]
    return f"{len(found):,} classes" if several else "; ".join(parts)
